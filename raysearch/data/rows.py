"""What readers hand over: batches of decoded rows, made by a few threads, in source order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from os import cpu_count
from typing import Protocol, TypeVar

import numpy as np

from raysearch.data.images import Header
from raysearch.data.shards import digests_of

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Batch:
    """Decoded rows (uint8 [N, C, H, W]), and what was refused: pairs of where and why.

    ``labels`` are class names; a split is empty where the source does not say.
    """

    images_NCHW: np.ndarray
    digests_N16: np.ndarray
    labels: Sequence[str]
    splits: Sequence[str]
    sources: Sequence[str]
    rejected: Sequence[tuple[str, str]]

    @staticmethod
    def of(
        images_NCHW: np.ndarray,
        labels: Sequence[str],
        splits: Sequence[str],
        sources: Sequence[str],
        rejected: Sequence[tuple[str, str]],
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


def in_order(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """``map(function, items)`` on threads, with few results waiting at a time."""
    workers = min(8, cpu_count() or 1)
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
