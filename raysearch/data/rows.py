"""What readers hand over: batches of decoded rows, made in parallel, in source order."""

import fcntl
import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from os import cpu_count
from typing import Protocol, TypeVar

import numpy as np

from raysearch.data.images import Header
from raysearch.data.shards import digests_of
from raysearch.errors import DataError

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


def in_processes(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """``map(function, items)`` on forked processes, for work that holds Python's lock.

    Raises what ``function`` raises, and `DataError` where a process is killed. The processes end
    with this one, whatever ends it: they cannot write to a pipe that nobody reads.
    """
    items = list(items)
    context = multiprocessing.get_context("fork")
    workers = min(8, cpu_count() or 1, len(items))
    readers: list[Connection] = []
    processes = []
    try:
        for first in range(workers):
            reader, writer = context.Pipe(duplex=False)
            fcntl.fcntl(reader.fileno(), fcntl.F_SETPIPE_SZ, 2**20)
            readers.append(reader)
            share = items[first::workers]
            process = context.Process(
                target=_send_all, args=(function, share, writer, list(readers)), daemon=True
            )
            process.start()
            processes.append(process)
            writer.close()
        for position in range(len(items)):
            yield _receive(readers[position % workers])
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.join()


def _send_all(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    writer: Connection,
    readers: Sequence[Connection],
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    for reader in readers:
        reader.close()
    try:
        for item in items:
            writer.send((function(item), None))
    except BrokenPipeError:
        pass
    except Exception as error:
        writer.send((None, error))


def _receive(reader: Connection) -> Result:
    try:
        result, error = reader.recv()
    except (EOFError, ConnectionError):
        raise DataError(
            "A process that read the table was killed, perhaps for want of memory. Import again."
        ) from None
    if error is not None:
        raise error
    return result
