"""One process at a time may work on a run."""

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from raysearch.errors import RunError
from raysearch.storage.folderlock import busy, locked_here
from raysearch.storage.mirror import PRIVATE, Mirror
from raysearch.storage.runs import RunPlace

RENEW_SECONDS = 5.0
"""How often a holder says that it is still there."""
EXPIRY_SECONDS = 30.0
"""How long one is given to say so that was cut off or killed."""
SETTLE_SECONDS = 1.0
"""After which of two that came at the same time only the last is found."""


@contextmanager
def locked(place: RunPlace, say: Callable[[str], None] = lambda line: None) -> Iterator[None]:
    """Let no other process work on the run at ``place``, on this machine or, at a URI, on any.

    Raises `RunError` where another one does. ``say`` gets a line where it must be waited to find
    out.
    """
    with locked_here(place.path, str(place)):
        if place.mirror is None:
            yield
            return
        with Lease(place.mirror, say):
            yield


class Lease:
    """``.lock`` at a run's URI, written again every few seconds by the one that holds it.

    A store has no locks and its clock is not ours: whether a holder is still there shows in whether
    what it wrote changes. One that was cut off for longer than others wait finds that it holds the
    run no more, and its mirror then refuses to change it.
    """

    def __init__(self, mirror: Mirror, say: Callable[[str], None]):
        self.mirror, self.say = mirror, say
        self.holder = {"process": os.getpid(), "machine": _machine(), "token": secrets.token_hex(8)}
        self.renewed = 0
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._keep, daemon=True)

    def __enter__(self) -> "Lease":
        self._await_other()
        self._write()
        time.sleep(SETTLE_SECONDS)
        found = self._read()
        if not self._is_own(found):
            raise RunError(busy(_words(found), self.mirror.uri))
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.thread.join()
        with suppress(RunError):  # who comes next then waits a little
            if self._read().get("token") == self.holder["token"]:
                self.mirror.delete(PRIVATE)

    def _await_other(self) -> None:
        first = self._read()
        if not first or _has_ended(first):
            return
        self.say(
            f"{_words(first)} worked on {self.mirror.uri} last; waiting up to "
            f"{EXPIRY_SECONDS:g} s to see whether it still does"
        )
        end = time.monotonic() + EXPIRY_SECONDS
        while time.monotonic() < end:
            time.sleep(min(1.0, RENEW_SECONDS))
            found = self._read()
            if not found:
                return
            if found != first:
                raise RunError(busy(_words(found), self.mirror.uri))

    def _keep(self) -> None:
        while not self.ended.wait(RENEW_SECONDS):
            try:
                found = self._read()
                if not self._is_own(found):
                    self.mirror.fence = busy(_words(found), self.mirror.uri)
                    return
                self._write()
            except RunError:  # the store cannot be reached: it is tried again
                continue

    def _is_own(self, found: dict) -> bool:
        return not found or found.get("token") == self.holder["token"]

    def _write(self) -> None:
        self.renewed += 1
        self.mirror.write(PRIVATE, json.dumps(self.holder | {"renewed": self.renewed}).encode())

    def _read(self) -> dict:
        """What the holder wrote; ``{}`` where there is none."""
        try:
            found = json.loads(self.mirror.read(PRIVATE))
        except (FileNotFoundError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}


def _words(holder: dict) -> str:
    machine = str(holder.get("machine", "an unknown machine")).split()[0]
    return f"Process {holder.get('process')} on {machine}"


def _machine() -> str:
    """Name, boot and process namespace: where two are alike, a process has the same number."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    try:
        where = boot.read_text(encoding="ascii").strip(), os.readlink("/proc/self/ns/pid")
    except OSError:
        where = (secrets.token_hex(8),)  # unknown: like none
    return " ".join((socket.gethostname(), *where))


def _has_ended(holder: dict) -> bool:
    """Whether the holder was a process of this machine that is gone."""
    if holder.get("machine") != _machine():
        return False
    try:
        os.kill(int(holder["process"]), 0)
    except ProcessLookupError:
        return True
    except (KeyError, ValueError, OSError):
        return False
    return False
