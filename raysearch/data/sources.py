"""From a path to a reader: which of the accepted layouts is it?"""

import gzip
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO

import numpy as np

from raysearch.data import images
from raysearch.data.containers import Container, Folder, Unreadable, Zip, read
from raysearch.data.images import BadImage, Header
from raysearch.data.layouts import SPLIT_NAMES, Layout, read_layout
from raysearch.data.parallel import in_order
from raysearch.data.rows import Batch, Reader
from raysearch.data.tables import LINE, TableReader, read_columns
from raysearch.data.tarballs import Bounded, Tarball, is_tar
from raysearch.errors import DataError

BATCH = 64
SURVEY = 1000


class ImageReader:
    """Image files in class folders, out of a folder or a zip file."""

    def __init__(self, container: Container, layout: Layout) -> None:
        self._container = container
        self._layout = layout
        self.found, self.notes, self.complete = layout.found, layout.notes, layout.complete
        self.title = container.title
        self.rows = len(layout.entries)

    def class_names(self) -> set[str]:
        return {entry.label for entry in self._layout.entries}

    def survey(self) -> list[Header]:
        step = max(1, self.rows // SURVEY)
        headers = []
        for entry in self._layout.entries[::step]:
            try:
                headers.append(images.read_header(self._bytes(entry.name)))
            except (BadImage, Unreadable):
                continue
        return headers

    def read(self, shape: tuple[int, int, int]) -> Iterator[Batch]:
        if self._container.refused:
            nothing = np.empty((0, *shape), np.uint8)
            yield Batch.of(nothing, [], [], [], self._container.refused)
        starts = range(0, len(self._layout.entries), BATCH)
        yield from in_order(lambda start: self._decode(start, shape), starts)

    def _decode(self, start: int, shape: tuple[int, int, int]) -> Batch:
        decoded, kept, rejected = [], [], []
        for entry in self._layout.entries[start : start + BATCH]:
            try:
                decoded.append(images.decode(self._bytes(entry.name), shape[1:], shape[0]))
                kept.append(entry)
            except (BadImage, Unreadable) as error:
                rejected.append((entry.name, str(error)))
        return Batch.of(
            np.stack(decoded) if decoded else np.empty((0, *shape), np.uint8),
            [entry.label for entry in kept],
            [entry.split for entry in kept],
            [entry.name for entry in kept],
            rejected,
        )

    def _bytes(self, name: str) -> bytes:
        return read(self._container, name, images.FILE_BYTES)


def open_source(path: Path) -> list[tuple[str, Reader]]:
    """Readers for ``path``, each with the split that all its rows belong to, or "".

    Raises `DataError` that says what is accepted where nothing fits.
    """
    if not path.exists():
        raise DataError(
            f"There is no file or folder {str(path)!r}. Give an image archive, a CSV, or a folder "
            "of class folders."
        )
    if path.is_dir():
        return _open_container(Folder(path))
    name = path.name.lower()
    if name.endswith(".zip"):
        return _open_container(Zip(path))
    if is_tar(name):
        return [("", _open_tarball(Tarball(path)))]
    if name.endswith(".csv.gz"):
        return [("", TableReader(path.name, lambda: Bounded(gzip.open(path), path), 0))]
    if name.endswith(".csv"):
        size = path.stat().st_size
        return [("", TableReader(path.name, lambda: open(path, "rb"), size, plain=True))]
    raise DataError(
        f"{path} is not read: give a folder or a .zip of class folders, or FER2013's table as "
        ".csv, .csv.gz, .zip or .tar.gz."
    )


def _open_container(container: Container) -> list[tuple[str, Reader]]:
    pictures = [name for name in container.names if _suffix(name) in images.SUFFIXES]
    tables = [name for name in container.names if _suffix(name) == ".csv"]
    with_usage = {}
    for name in tables:
        columns = read_columns(_first_line(lambda name=name: container.open(name)))
        if columns is not None:
            with_usage[name] = columns.usage >= 0
    if with_usage and pictures:
        raise DataError(
            f"{container.title} holds both images and the table {min(with_usage)!r}: "
            "name the one to import."
        )
    if with_usage:
        return _open_tables(container, with_usage)
    return [("", ImageReader(container, read_layout(pictures, container.title)))]


def _open_tables(container: Container, with_usage: dict[str, bool]) -> list[tuple[str, Reader]]:
    """The one table with a Usage column, or the only table, or train.csv, validation.csv, ..."""
    chosen = [name for name, usage in with_usage.items() if usage] or list(with_usage)
    splits = [SPLIT_NAMES.get(PurePosixPath(name).stem.casefold(), "") for name in chosen]
    if len(chosen) == 1:
        splits = [""]
    elif "" in splits or len(set(splits)) < len(splits):
        raise DataError(
            f"{container.title} holds several tables ({', '.join(sorted(chosen)[:4])}): name the "
            "one to import, or one per split like `train=a.csv validation=b.csv test=c.csv`."
        )
    return [
        (split, _table(container.open, name, container.size(name)))
        for split, name in zip(splits, chosen, strict=True)
    ]


def _open_tarball(tarball: Tarball) -> Reader:
    for name, size, first_line in tarball.tables():
        if read_columns(first_line) is not None:
            reader = _table(tarball.open, name, size)
            reader.notes += [f"Not read: {where}: {why}." for where, why in tarball.refused]
            return reader
    raise DataError(
        f"{tarball.path} holds no CSV with the columns emotion,pixels. An archive of image files "
        "must be a .zip, or be unpacked first."
    )


def _table(open_member: Callable[[str], IO[bytes]], name: str, size: int) -> TableReader:
    return TableReader(PurePosixPath(name).name, lambda: open_member(name), size)


def _first_line(open_file: Callable[[], IO[bytes]]) -> bytes:
    try:
        with open_file() as file:
            return file.readline(LINE)
    except Unreadable:
        return b""


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def describe_sources(readers: Sequence[tuple[str, Reader]]) -> str:
    """What was found, in words."""
    return "; ".join(dict.fromkeys(reader.found for _, reader in readers))
