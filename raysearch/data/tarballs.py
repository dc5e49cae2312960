"""Tables inside .tar and .tar.gz files, read as a stream that is bounded as it unpacks."""

import gzip
import io
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from raysearch.data.containers import check_bounds, is_junk, unsafe_name
from raysearch.errors import DataError

READ = 16 * 2**20
LINE = 64 * 2**20
MEMBERS = 100_000


def is_tar(name: str) -> bool:
    return name.endswith((".tar", ".tar.gz", ".tgz"))


class Bounded(io.RawIOBase):
    """A readable file that stops with `DataError` where ``path`` unpacks to more than is sane."""

    def __init__(self, file: IO[bytes], path: Path) -> None:
        self._file = file
        self._path = path

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if size > READ:
            raise DataError(f"{self._path} declares a header of {size:,} bytes: it is damaged.")
        try:
            data = self._file.read(READ if size < 0 else size)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(
                f"{self._path} is not a whole archive ({error}). Download it again."
            ) from None
        check_bounds(self._path, 0, self._file.tell(), "unpacks to")
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        """Forward in steps, so that each is checked."""
        if whence == 0:
            while offset - self._file.tell() > READ and self.read(READ):
                pass
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        self._file.close()
        super().close()


class Tarball:
    """The CSV members of a tar file; all else in it is passed over."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.refused: list[tuple[str, str]] = []

    def tables(self) -> Iterator[tuple[str, int, bytes]]:
        """Name, size and first line of each CSV, in archive order."""
        for number, (tar, member) in enumerate(self._members()):
            if number >= MEMBERS:
                raise DataError(f"{self.path} has over {MEMBERS:,} members.")
            reason = unsafe_name(member.name)
            if not reason and (member.issym() or member.islnk()):
                reason = "a link"
            if reason:
                self.refused.append((member.name, reason))
            elif self._is_table(member):
                with tar.extractfile(member) as file:
                    yield member.name, member.size, file.readline(LINE)

    def open(self, name: str) -> IO[bytes]:
        for tar, member in self._members():
            if member.name == name and self._is_table(member):
                return _Member(tar.extractfile(member), tar)
        raise DataError(f"{self.path} no longer holds {name!r}: it changed meanwhile.")

    def _members(self) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
        gzipped = self.path.suffix.lower() in (".gz", ".tgz")
        file = gzip.open(self.path) if gzipped else open(self.path, "rb")
        try:
            tar = tarfile.open(fileobj=Bounded(file, self.path), mode="r:")
            for member in tar:
                yield tar, member
        except (tarfile.TarError, ValueError) as error:
            raise DataError(
                f"{self.path} is not a whole tar file ({error}). Download it again."
            ) from None

    @staticmethod
    def _is_table(member: tarfile.TarInfo) -> bool:
        name = Path(member.name).name
        plain = member.isreg() and not member.issparse() and not is_junk(name)
        return plain and name.lower().endswith(".csv")


class _Member(io.BufferedReader):
    """A member that keeps its tar file open."""

    def __init__(self, file: IO[bytes], tar: tarfile.TarFile) -> None:
        super().__init__(file)
        self._tar = tar
