"""What readers hand over: batches of decoded rows, in source order."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from raysearch.data.images import Header
from raysearch.data.shards import digests_of


@dataclass(frozen=True)
class Batch:
    """Decoded rows (uint8 [N, C, H, W]), and what was refused: pairs of where and why.

    ``labels`` are class names; a split is empty where the source does not say.
    """

    images_NCHW: np.ndarray
    digests_N16: np.ndarray
    labels: Sequence[str]
    splits: Sequence[str]
    sources: Sequence
    rejected: Sequence[tuple]

    @staticmethod
    def of(
        images_NCHW: np.ndarray,
        labels: Sequence[str],
        splits: Sequence[str],
        sources: Sequence,
        rejected: Sequence[tuple],
    ) -> "Batch":
        images_NCHW = np.ascontiguousarray(images_NCHW)
        digests = digests_of(images_NCHW)
        return Batch(images_NCHW, digests, labels, splits, sources, rejected)


class Reader(Protocol):
    """One source. ``complete``: its splits are the data set's own, none is to be cut."""

    title: str
    found: str
    notes: list[str]
    complete: bool
    rows: int
    """How many rows there are, or about how many."""

    def survey(self) -> list[Header]:
        """Sizes and colours of a sample of the images."""
        ...

    def class_names(self) -> set[str]: ...

    def read(self, shape: tuple[int, int, int]) -> Iterator[Batch]: ...
