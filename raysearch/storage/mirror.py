"""A folder of this machine and its counterpart under a URI, file by file.

A file there is whole or absent: object stores replace an object at once, and elsewhere it is
written under another name first. Files go up in the order in which they were last changed, so
that one that speaks of others (a trial's checkpoint) never comes before them.
"""

import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from pyarrow import fs

from raysearch.errors import RunError
from raysearch.files import TEMPORARY, atomic_path
from raysearch.storage.locations import open_filesystem

PRIVATE = ".lock"
"""Says who works on a run, here and there: no part of it."""
PATIENCE_SECONDS = 60.0
"""For how long a transfer is tried again where the network or the store fails."""
AT_ONCE = 8

T = TypeVar("T")


class Mirror:
    """``local`` and the folder at ``uri``; raises `RunError` where the store keeps failing, and
    where ``fence`` says why nothing there may be read or written any more."""

    def __init__(self, local: Path, uri: str):
        self.local, self.uri = Path(local), uri.rstrip("/")
        self.filesystem, self.root = open_filesystem(self.uri)
        self.fence = ""
        self._same: dict[str, tuple[int, int]] = {}  # size and time here of what is there too
        self._removed: set[str] = set()
        self._replaces_at_once = not isinstance(self.filesystem, fs.LocalFileSystem)

    def push(self, name: str = "") -> list[str]:
        """Upload what changed here, in the file or folder ``name``, since it was last moved."""
        changed = [
            (state[1], file, state)
            for file, state in self._files_here(name)
            if self._same.get(file) != state
        ]
        for _, file, state in sorted(changed):
            try:
                data = (self.local / file).read_bytes()
            except FileNotFoundError:  # replaced or removed meanwhile
                continue
            self._patiently(lambda file=file, data=data: self._upload(file, data))
            self._same[file] = state
        return [file for _, file, _ in sorted(changed)]

    def pull(self, name: str = "", *, skip: Sequence[str] = (), exact: bool = False) -> list[str]:
        """Download what is not here as it is there, in the folder ``name``.

        Folders called one of ``skip`` stay there. With ``exact``, files that are not there any
        more are removed here.
        """
        there = self._patiently(lambda: list(self._files_there(name, skip)))
        wanted = [(file, info) for file, info in there if not self._is_here(file, info)]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(lambda pair: self._download(*pair), wanted))
        if exact:
            names = {file for file, _ in there}
            for file, _ in list(self._files_here(name)):
                if file not in names and not set(Path(file).parts[:-1]) & set(skip):
                    (self.local / file).unlink(missing_ok=True)
        return [file for file, _ in wanted]

    def remove(self, name: str) -> None:
        """Remove the folder ``name`` here and there, for good: there it is looked for once."""
        shutil.rmtree(self.local / name, ignore_errors=True)
        if name not in self._removed:
            self._patiently(lambda: self._remove_there(name))
            self._removed.add(name)

    def remove_gone(self, name: str) -> None:
        """Remove there what is not in the folder ``name`` here any more."""
        here = {file for file, _ in self._files_here(name)}
        for file, _ in self._patiently(lambda: list(self._files_there(name))):
            if file not in here:
                self.delete(file)

    def read(self, name: str) -> bytes:
        """Of a file there; raises `FileNotFoundError` where there is none."""

        def call() -> bytes | None:
            try:
                with self.filesystem.open_input_stream(self._there(name)) as stream:
                    return stream.read()
            except FileNotFoundError:
                return None

        data = self._patiently(call)
        if data is None:
            raise FileNotFoundError(f"{self.uri}/{name}")
        return data

    def write(self, name: str, data: bytes) -> None:
        """A file that is there alone."""
        self._patiently(lambda: self._upload(name, data))

    def delete(self, name: str) -> None:
        self._patiently(lambda: self.filesystem.delete_file(self._there(name)))

    def modified(self, name: str) -> int:
        """When the file ``name`` there was last written, in ns; 0 where there is none."""
        info = self._patiently(lambda: self.filesystem.get_file_info(self._there(name)))
        return info.mtime_ns or 0 if info.type == fs.FileType.File else 0

    def exists(self, name: str) -> bool:
        return self.modified(name) > 0

    def _there(self, name: str) -> str:
        return f"{self.root}/{name}" if name else self.root

    def _files_here(self, name: str) -> Iterator[tuple[str, tuple[int, int]]]:
        start = self.local / name
        paths = [start] if start.is_file() else start.rglob("*")
        for path in paths:
            if TEMPORARY.fullmatch(path.name) or path.name == PRIVATE:
                continue
            try:
                stat = path.stat()
            except FileNotFoundError:
                continue
            if path.is_file():
                yield path.relative_to(self.local).as_posix(), (stat.st_size, stat.st_mtime_ns)

    def _files_there(
        self, name: str, skip: Sequence[str] = ()
    ) -> Iterator[tuple[str, fs.FileInfo]]:
        selector = fs.FileSelector(self._there(name), recursive=True, allow_not_found=True)
        for info in self.filesystem.get_file_info(selector):
            file = info.path[len(self.root) :].lstrip("/")
            folders = set(Path(file).parts[:-1])
            if info.type != fs.FileType.File or folders & set(skip) or _is_partial(info.base_name):
                continue
            yield file, info

    def _is_here(self, file: str, info: fs.FileInfo) -> bool:
        """Files that were pulled have the time of their original."""
        try:
            stat = (self.local / file).stat()
        except FileNotFoundError:
            return False
        if (stat.st_size, stat.st_mtime_ns) != (info.size, info.mtime_ns):
            return False
        self._same[file] = stat.st_size, stat.st_mtime_ns
        return True

    def _upload(self, file: str, data: bytes) -> None:
        target = self._there(file)
        if self._replaces_at_once:
            with self.filesystem.open_output_stream(target) as stream:
                stream.write(data)
            return
        self.filesystem.create_dir(os.path.dirname(target), recursive=True)
        partial = f"{os.path.dirname(target)}/.{Path(file).name}.{uuid.uuid4().hex[:8]}.tmp"
        with self.filesystem.open_output_stream(partial) as stream:
            stream.write(data)
        self.filesystem.move(partial, target)

    def _download(self, file: str, info: fs.FileInfo) -> None:
        target = self.local / file
        try:
            data = self.read(file)
        except FileNotFoundError:  # removed there meanwhile
            return
        with atomic_path(target) as temporary:
            temporary.write_bytes(data)
            os.utime(temporary, ns=(info.mtime_ns, info.mtime_ns))
        stat = target.stat()
        self._same[file] = stat.st_size, stat.st_mtime_ns

    def _remove_there(self, name: str) -> None:
        if self.filesystem.get_file_info(self._there(name)).type != fs.FileType.NotFound:
            self.filesystem.delete_dir(self._there(name))

    def _patiently(self, call: Callable[[], T]) -> T:
        end, pause = time.monotonic() + PATIENCE_SECONDS, 0.5
        while True:
            if self.fence:
                raise RunError(self.fence)
            try:
                return call()
            except OSError as error:
                hopeless = isinstance(error, PermissionError) or "ACCESS_DENIED" in str(error)
                if hopeless or time.monotonic() + pause > end:
                    reason = str(error).splitlines()[0].rstrip(".")
                    raise RunError(
                        f"{self.uri} cannot be read or written: {reason}. Nothing that is there "
                        "is lost; once the cause is gone, `raysearch resume` goes on."
                    ) from None
            time.sleep(pause)
            pause *= 2


def _is_partial(name: str) -> bool:
    return bool(TEMPORARY.fullmatch(name)) or name == PRIVATE
