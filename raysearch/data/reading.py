"""Rows of memory-mapped shards, read only when asked for."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa

from raysearch.data.batches import read_batch, values_of


class ImageStack:
    """uint8 ``[N, C, H, W]``: chosen rows of one or more arrays, in any order.

    Indexed by rows as an array is (a number, a slice, numbers, a mask), it reads those rows into
    new memory; `np.asarray` reads them all.

    Args:
        parts: arrays ``[n, C, H, W]``, or stacks, that rows are numbered through; at least one.
        rows_N: which rows, in order; all where left out.
    """

    dtype = np.dtype(np.uint8)

    def __init__(
        self, parts: "Sequence[np.ndarray | ImageStack]", rows_N: np.ndarray | None = None
    ):
        self._parts = list(parts)
        self._starts = np.cumsum([0, *map(len, self._parts)])
        self._rows_N = np.arange(self._starts[-1]) if rows_N is None else rows_N
        self.shape = (len(self._rows_N), *self._parts[0].shape[1:])

    def __len__(self) -> int:
        return len(self._rows_N)

    def __getitem__(self, rows: int | slice | np.ndarray) -> np.ndarray:
        if isinstance(rows, int | np.integer):
            return self[np.array([rows])][0]
        picked = self._rows_N[rows]
        if len(self._parts) == 1:
            return self._parts[0][picked]
        part_of = np.searchsorted(self._starts, picked, side="right") - 1
        out = np.empty((len(picked), *self.shape[1:]), np.uint8)
        for part in np.unique(part_of):
            inside = part_of == part
            out[inside] = self._parts[part][picked[inside] - self._starts[part]]
        return out

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return np.asarray(self[:], dtype)


@dataclass(frozen=True)
class Split:
    """The rows of one split in order, read from its memory-mapped shards on first use."""

    name: str
    digest: str
    """Hex; names the images and labels of the split in order, whatever the shard size."""
    paths: tuple[Path, ...]
    rows: int
    shape: tuple[int, int, int]
    kept: tuple[int, ...] | None = None
    """Labels in the files whose rows belong to the split, renumbered in this order; None: all."""

    def __len__(self) -> int:
        return self.rows

    @cached_property
    def _batches(self) -> list[pa.RecordBatch]:
        return [read_batch(path, self.shape) for path in self.paths]

    @cached_property
    def _file_labels_R(self) -> np.ndarray:
        """int64, of every row in the files."""
        parts = [values_of(batch.column("label"), np.int16) for batch in self._batches]
        return _joined(parts, np.empty(0, np.int16)).astype(np.int64)

    @cached_property
    def _rows_N(self) -> np.ndarray | slice:
        """Which rows of the files belong to the split."""
        if self.kept is None:
            return slice(None)
        return np.flatnonzero(np.isin(self._file_labels_R, self.kept))

    @cached_property
    def images_NCHW(self) -> np.ndarray | ImageStack:
        """uint8 [N, C, H, W], read-only: a view of the file where the split is all of one shard,
        else rows that are read when asked for."""
        parts = [batch.column("image").to_numpy_ndarray() for batch in self._batches]
        parts = parts or [np.empty((0, *self.shape), np.uint8)]
        if self.kept is None:
            return parts[0] if len(parts) == 1 else ImageStack(parts)
        return ImageStack(parts, self._rows_N)

    @cached_property
    def labels_N(self) -> np.ndarray:
        """int64 [N], positions in `Shards.classes`."""
        labels_N = self._file_labels_R[self._rows_N]
        if self.kept is None:
            return labels_N
        new_K = np.zeros(max(self.kept) + 1, np.int64)
        new_K[list(self.kept)] = np.arange(len(self.kept))
        return new_K[labels_N]

    @cached_property
    def digests_N16(self) -> np.ndarray:
        """uint8 [N, 16]."""
        parts = [values_of(batch.column("digest"), "V16") for batch in self._batches]
        parts = [part.view(np.uint8).reshape(-1, 16) for part in parts]
        return _joined(parts, np.empty((0, 16), np.uint8))[self._rows_N]

    @cached_property
    def sources(self) -> Sequence[str]:
        """Where each row came from: a file name, or ``file.csv:row``."""
        names = [name for batch in self._batches for name in batch.column("source").to_pylist()]
        return names if self.kept is None else [names[row] for row in self._rows_N]


def _joined(parts: list[np.ndarray], empty: np.ndarray) -> np.ndarray:
    if len(parts) > 1:
        return np.concatenate(parts)
    return parts[0] if parts else empty
