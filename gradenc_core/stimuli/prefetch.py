"""Images are decoded ahead in threads, so that the network never waits for a decoder."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


def prefetch(
    make: Callable[[Item], Made], items: Iterable[Item], threads: int, ahead: int
) -> Iterator[Made]:
    """Yield `make(item)` for every item in order, made by threads, at most `ahead` in advance.

    Decoders and resizers release Python's lock, so threads suffice, and need no copies between
    processes. An exception of `make` is raised where its item was due, and no further item is
    begun.
    """
    waiting: deque[Future[Made]] = deque()
    pool = ThreadPoolExecutor(threads, "prefetch")
    try:
        for item in items:
            waiting.append(pool.submit(make, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
