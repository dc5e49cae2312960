"""A folder or an archive as a flat list of named files that are read in memory.

Nothing is ever extracted, so no member can write anywhere. Archives are bounded before they are
read: number of members, unpacked size, and its ratio to the file's size.
"""

import lzma
import os
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Protocol

from raysearch.errors import DataError

MEMBERS = 2_000_000
UNPACKED_BYTES = 256 * 2**30
RATIO = 200
RATIO_FREE_BYTES = 64 * 2**20
_JUNK = {"__MACOSX", "Thumbs.db", "desktop.ini"}


class Unreadable(Exception):
    """Why one member cannot be read, in a few words."""


READ_ERRORS = (
    Unreadable,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    ValueError,
)


class Container(Protocol):
    """``names`` are relative, with forward slashes; ``refused`` pairs a name with a reason."""

    title: str
    names: list[str]
    refused: list[tuple[str, str]]

    def open(self, name: str) -> IO[bytes]: ...

    def size(self, name: str) -> int: ...


@dataclass
class Folder:
    """Files below ``root``, sorted by name. Links to folders are not followed."""

    root: Path
    names: list[str] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.title = self.root.resolve().name
        for base, folders, files in os.walk(self.root):
            folders[:] = [name for name in folders if not is_junk(name)]
            relative = Path(base).relative_to(self.root)
            for name in folders:
                if os.path.islink(os.path.join(base, name)):
                    self.refused.append(((relative / name).as_posix(), "a link to a folder"))
            self.names += [(relative / name).as_posix() for name in files if not is_junk(name)]
        self.names.sort()

    def open(self, name: str) -> IO[bytes]:
        path = self.root / name
        if not path.is_file():
            raise Unreadable("not a regular file")
        try:
            return open(path, "rb")
        except OSError as error:
            raise Unreadable(error.strerror or str(error)) from None

    def size(self, name: str) -> int:
        try:
            return (self.root / name).stat().st_size
        except OSError:
            return 0


@dataclass
class Zip:
    """Members of a zip file, sorted by name. Close it with `close`."""

    path: Path
    refused: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.title = self.path.name
        try:
            self._zip = zipfile.ZipFile(self.path)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise DataError(
                f"{self.path} is not a whole zip file ({error}). Download it again."
            ) from None
        members = [info for info in self._zip.infolist() if not info.filename.endswith("/")]
        check_bounds(
            self.path, len(members), sum(info.file_size for info in members), "would unpack to"
        )
        self._members: dict[str, zipfile.ZipInfo] = {}
        for info in members:
            self._take(info)
        self.names = sorted(self._members)

    def _take(self, info: zipfile.ZipInfo) -> None:
        name = info.filename.replace("\\", "/")
        if any(is_junk(part) for part in name.split("/")):
            return
        reason = unsafe_name(name)
        if info.external_attr >> 28 == 0xA:
            reason = "a symbolic link"
        elif info.flag_bits & 1:
            reason = "encrypted"
        elif name in self._members:
            reason = "a second member of this name"
        if reason:
            self.refused.append((name, reason))
        else:
            self._members[name] = info

    def open(self, name: str) -> IO[bytes]:
        try:
            return self._zip.open(self._members[name])
        except (zipfile.BadZipFile, OSError, RuntimeError, ValueError) as error:
            raise Unreadable(str(error)) from None

    def size(self, name: str) -> int:
        return self._members[name].file_size

    def close(self) -> None:
        self._zip.close()


def read(container: Container, name: str, limit: int) -> bytes:
    """All bytes of a member of at most ``limit``. Raises `Unreadable`."""
    size = container.size(name)
    if size > limit:
        raise Unreadable(f"{size:,} bytes; at most {limit:,} are read")
    try:
        with container.open(name) as file:
            data = file.read(limit + 1)
    except Unreadable:
        raise
    except READ_ERRORS as error:
        raise Unreadable(f"damaged: {error}") from None
    if len(data) > limit:
        raise Unreadable(f"more than {limit:,} bytes")
    return data


def unsafe_name(name: str) -> str:
    """Why an archive member of this name is refused; empty where it is harmless."""
    parts = PurePosixPath(name).parts
    if name.startswith("/") or (len(name) > 1 and name[1] == ":"):
        return "an absolute path"
    if ".." in parts:
        return "a path that leads outside of the archive"
    if "\0" in name or not parts:
        return "no usable name"
    return ""


def is_junk(part: str) -> bool:
    """What operating systems leave behind: hidden files, thumbnails, resource forks."""
    return part in _JUNK or (part.startswith(".") and part not in (".", ".."))


def check_bounds(path: Path, members: int, unpacked: int, verb: str) -> None:
    """Raises `DataError` where an archive claims, or turns out, to hold more than is sane."""
    packed = max(1, path.stat().st_size)
    if members > MEMBERS:
        raise DataError(f"{path} has {members:,} members; at most {MEMBERS:,} are read.")
    most = min(UNPACKED_BYTES, max(RATIO_FREE_BYTES, RATIO * packed))
    if unpacked > most:
        raise DataError(
            f"{path} ({packed:,} bytes) {verb} {unpacked:,} bytes; at most {most:,} are read "
            "because more looks like an archive bomb. Unpack it yourself and give the folder."
        )
