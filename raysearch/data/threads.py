"""Work done ahead of its use, on threads."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from os import cpu_count
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    workers: int = min(8, cpu_count() or 1),
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
