"""Files that are either whole or absent, whatever kills the process that writes them."""

import ctypes
import errno
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")
"""Names that `atomic_path` gives."""


def sync(path: Path) -> None:
    """Make a file's content durable, or the names in a folder (a rename is only safe then)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yield a temporary name beside ``path``; on success it is synced and renamed to ``path``."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def remove_stale(folder: Path | str) -> list[Path]:
    """Remove the temporary files anywhere under ``folder`` that killed writers left, and return
    them. Nobody may be writing there."""
    stale = [p for p in Path(folder).rglob(".*.tmp") if TEMPORARY.fullmatch(p.name)]
    for path in stale:
        path.unlink(missing_ok=True)
    return stale


def write_text(path: Path | str, text: str) -> None:
    """Write ``text`` (UTF-8) to ``path`` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path | str, value: Any) -> None:
    """Write ``value`` as indented JSON to ``path`` atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


@contextmanager
def atomic_folder(folder: Path | str, replace: bool = False) -> Iterator[Path]:
    """Yield a new temporary folder beside ``folder``; on success it takes that name.

    Anything that goes wrong, an interrupt included, removes it. What an earlier SIGKILL left
    behind under the same name is removed first. ``folder`` must not exist, unless ``replace``:
    then it stays as it is until the new one is whole.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    for stale in folder.parent.glob(f".{folder.name}.*.partial"):
        if not _owner_is_alive(stale):
            shutil.rmtree(stale, ignore_errors=True)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    temporary.mkdir()
    try:
        yield temporary
        for path in temporary.rglob("*"):
            if path.is_file():
                sync(path)
        if replace and folder.exists():
            _exchange(temporary, folder)
        else:
            os.rename(temporary, folder)
        sync(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _exchange(first: Path, second: Path) -> None:
    """Swap two folders' names: in one step where the system can (Linux), else in three."""
    try:
        here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
        rename = ctypes.CDLL(None).renameat2
        if rename(here, os.fsencode(first), here, os.fsencode(second), exchange) == 0:
            return
    except (OSError, AttributeError):
        pass
    aside = second.with_name(f".{second.name}.{uuid.uuid4().hex[:8]}.old")
    os.rename(second, aside)
    os.rename(first, second)
    os.rename(aside, first)


def _owner_is_alive(partial: Path) -> bool:
    """Our own number means an earlier process that had it, as the first one in a container."""
    try:
        owner = int(partial.name.split(".")[-2])
        if owner == os.getpid():
            return False
        os.kill(owner, 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True


def is_disk_full(error: BaseException) -> bool:
    """Whether ``error`` says that there is no room left, as each library that writes our files
    says it."""
    said = ("No space left", "Disk quota exceeded", "PytorchStreamWriter failed writing")
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
    return full or any(words in str(error) for words in said)


def sha256_of(path: Path | str) -> str:
    """Hex SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
