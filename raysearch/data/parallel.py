"""``map`` in parallel and in order: on threads ahead of its use, or on forked processes."""

import fcntl
import multiprocessing
import os
import pickle
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import TypeVar

from raysearch.errors import DataError
from raysearch.machine import usable_cores

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    workers: int = min(8, usable_cores()),
) -> Iterator[Result]:
    """``map(function, items)`` on threads, with at most two results a thread waiting at a time.

    ``items`` is read by the caller's thread. What ``function`` raises is raised where its result
    is due. Closing the iterator, or an exception, ends the threads before it returns.
    """
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
    workers = min(8, usable_cores(), len(items))
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
    # What glibc gets back of this size it gives back to the system, and smaller things from then
    # on no more: without it, each item's arrays cost their page faults anew.
    bytes(24 * 2**20)
    try:
        for item in items:
            _send(writer, (function(item), None))
    except BrokenPipeError:
        pass
    except Exception as error:
        _send(writer, (None, error))


def _send(writer: Connection, value: object) -> None:
    """Arrays go through the pipe as they lie in memory, behind what else ``value`` holds."""
    buffers: list[pickle.PickleBuffer] = []
    rest = pickle.dumps(value, 5, buffer_callback=buffers.append)
    views = [buffer.raw() for buffer in buffers]
    writer.send((rest, [view.nbytes for view in views]))
    for view in views:
        while view:
            view = view[os.write(writer.fileno(), view) :]


def _read(reader: Connection, size: int) -> bytearray:
    data = bytearray(size)
    missing = memoryview(data)
    while missing:
        got = os.readv(reader.fileno(), [missing])
        if not got:
            raise EOFError
        missing = missing[got:]
    return data


def _receive(reader: Connection) -> Result:
    try:
        rest, sizes = reader.recv()
        result, error = pickle.loads(rest, buffers=[_read(reader, size) for size in sizes])
    except (EOFError, ConnectionError):
        raise DataError(
            "A process that read the table was killed, perhaps for want of memory. Import again."
        ) from None
    if error is not None:
        raise error
    return result
