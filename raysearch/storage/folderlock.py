"""One process at a time in a run's folder on this machine: ``.lock`` in it, held by flock.

The system releases it however its holder ends. The file names a holder that works on the run; it
is empty while one only brings the folder up to date, which takes a moment.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from raysearch.errors import RunError
from raysearch.storage.mirror import PRIVATE


@contextmanager
def locked_here(run: Path, name: str = "") -> Iterator[None]:
    """Hold the lock of ``run``, called ``name`` in the `RunError` where another process does."""
    with open(run / PRIVATE, "a+", encoding="ascii") as file:
        while not _take(file):
            file.seek(0)
            if holder := file.read().strip():
                raise RunError(busy(f"Process {holder}", name or str(run)))
            time.sleep(0.05)
        _write(file, f"{os.getpid()}\n")
        yield


@contextmanager
def held_if_free(run: Path, works: bool) -> Iterator[bool]:
    """Whether no process holds the lock of ``run``; then this one does. Unless it ``works`` on the
    run, one that wants to is kept waiting and not refused."""
    with open(run / PRIVATE, "a+", encoding="ascii") as file:
        free = _take(file)
        if free:
            _write(file, f"{os.getpid()}\n" if works else "")
        yield free


def busy(who: str, run: str) -> str:
    return (
        f"{who} is working on {run}. Wait for it to end, or end it by Ctrl-C, before going on with "
        "the run."
    )


def _take(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _write(file: IO[str], text: str) -> None:
    file.truncate(0)
    file.write(text)
    file.flush()
