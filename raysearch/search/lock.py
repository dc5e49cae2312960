"""One process at a time may work on a run."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from raysearch.errors import RunError


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Hold ``RUN/.lock``, which the system releases however the process ends. Raises `RunError`
    where another process holds it."""
    with open(run / ".lock", "a+", encoding="ascii") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise RunError(
                f"Process {file.read().strip()} is working on {run}. Wait for it to end, or "
                "end it by Ctrl-C, before going on with the run."
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield
