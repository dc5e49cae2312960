"""Readers: whatever people have, as batches of decoded rows."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from os import cpu_count
from pathlib import Path
from typing import Protocol

import numpy as np

from raysearch.data import images
from raysearch.data.containers import Container, Folder, Unreadable, Zip, read, walk_names
from raysearch.data.images import BadImage, Header
from raysearch.data.layouts import Layout, read_layout
from raysearch.errors import DataError

BATCH = 256
SURVEY = 1000


@dataclass
class Batch:
    """Decoded rows in source order, and what was refused: pairs of where and why."""

    images_NCHW: np.ndarray
    labels: list[str]
    splits: list[str]
    sources: list[str]
    rejected: list[tuple[str, str]] = field(default_factory=list)


class Reader(Protocol):
    """One source. ``complete``: its splits are the data set's own, none is to be cut."""

    found: str
    title: str
    notes: list[str]
    complete: bool
    rows: int

    def survey(self) -> list[Header]:
        """Sizes and colours of a sample of the images."""
        ...

    def class_names(self) -> set[str]: ...

    def read(self, shape: tuple[int, int, int]) -> Iterator[Batch]: ...


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
        entries = self._layout.entries
        workers = min(8, cpu_count() or 1)
        refused = list(self._container.refused)
        with ThreadPoolExecutor(workers) as pool:
            starts = iter(range(0, len(entries), BATCH))
            waiting = [pool.submit(self._decode, s, shape) for s in islice(starts, workers + 1)]
            while waiting:
                batch = waiting.pop(0).result()
                waiting += [pool.submit(self._decode, s, shape) for s in islice(starts, 1)]
                batch.rejected += refused
                refused = []
                yield batch

    def _decode(self, start: int, shape: tuple[int, int, int]) -> Batch:
        batch = Batch(np.empty((0, *shape), np.uint8), [], [], [])
        decoded = []
        for entry in self._layout.entries[start : start + BATCH]:
            try:
                decoded.append(images.decode(self._bytes(entry.name), shape[1:], shape[0]))
            except (BadImage, Unreadable) as error:
                batch.rejected.append((entry.name, str(error)))
                continue
            batch.labels.append(entry.label)
            batch.splits.append(entry.split)
            batch.sources.append(entry.name)
        if decoded:
            batch.images_NCHW = np.stack(decoded)
        return batch

    def _bytes(self, name: str) -> bytes:
        return read(self._container, name, images.FILE_BYTES)


def open_source(path: Path) -> Reader:
    """The reader for ``path``; `DataError` says what is accepted where nothing fits."""
    if not path.exists():
        raise DataError(f"There is no {path}.")
    if path.is_dir():
        return _open_container(Folder(path))
    if path.suffix.lower() == ".zip":
        return _open_container(Zip(path))
    raise DataError(f"{path} is neither a folder, a .zip nor a .csv.")


def _open_container(container: Container) -> Reader:
    names = list(walk_names(container.names, images.SUFFIXES))
    return ImageReader(container, read_layout(names, container.title))
