"""Small matrices side by side: a thread each gains more than many threads within each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from threadpoolctl import ThreadpoolController

from gradenc_core.arrays import uses_tensors

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_threads(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Map a function over items with as many threads as BLAS has, each of one BLAS thread.

    Needs the memory of that many calls at once, and sets BLAS's threads for the whole process: it
    is not for two threads at a time. Where BLAS has one thread, as in every worker of a study, or
    arrays are on a GPU, items follow each other.
    """
    blas = ThreadpoolController().select(user_api="blas")
    n_threads = max((library["num_threads"] for library in blas.info()), default=1)
    if n_threads == 1 or uses_tensors():
        return [function(item) for item in items]
    with blas.limit(limits=1), ThreadPoolExecutor(n_threads) as pool:
        return list(pool.map(function, items))
