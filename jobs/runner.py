"""Run units: take the lease, compute, commit, and leave a record whatever happens.

An item is the list of units that one computation makes (extraction makes all missing sources of a
shard in one pass); every other stage has items of one unit. No scheduler and no variable of the
environment is known here: the caller passes the job and the GPU.
"""

import re
import resource
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from storage_schemas.protocol import attempts, commit
from storage_schemas.protocol.attempts import Attempt, Used
from storage_schemas.protocol.store import Store, Unit

HEARTBEAT_S = 15.0

GPU_IS_FULL = re.compile(
    r"OutOfMemoryError|(CUDA|HIP) (error: )?out of memory|hipErrorOutOfMemory"
    r"|\b(CU|HIP|ROC)\w+_ALLOC_FAILED"
)
"""Exceptions of CUDA and ROCm, as `<type>: <message>`, for a GPU without memory left."""

Arrays = dict[str, NDArray[Any]]
Facts = commit.Facts
Result = tuple[Store, Unit, Arrays, Facts]
Item = Sequence[tuple[str, int]]
"""Units that are computed together: (store path below the root, unit index)."""

MODULES = {
    "prepared": "jobs.prepare.prepared",
    "bank": "jobs.bank",
    "pca": "jobs.prepare.pca",
    "classes": "jobs.prepare.classes",
    "scales": "jobs.prepare.scales",
    "responses": "jobs.ingest",
    "features": "jobs.extract",
    "stability": "jobs.stability",
    "collinearity": "jobs.collinearity",
    "scores": "jobs.encode",
    "comparisons": "jobs.compare.compare",
    "drill": "jobs.drill",
}
"""Kind of store -> module whose `compute` makes its units."""


@dataclass(frozen=True)
class Resources:
    """What computing an item may take of its machine.

    Attributes
    ----------
    micro_batch : int
        Images in one pass through a network.
    threads : int
    memory : float or None
        Bytes that this process may use; None: no limit is known.
    gpu : str or None
        Type of the GPU that this process is bound to; None without one.
    """

    micro_batch: int
    threads: int
    memory: float | None
    gpu: str | None = None


@dataclass(frozen=True)
class Work:
    """The argument of a stage's `compute`: the store root, the units of one item, how to run."""

    root: Path
    units: tuple[tuple[Store, Unit], ...]
    how: Resources


Held = tuple[Store, Unit, Attempt]
"""A unit with the attempt that holds it."""


@dataclass(frozen=True)
class Outcome:
    """How an item ended: units committed by this process, and the traceback of what stopped it."""

    committed: int
    traceback: str | None


def run_items(
    items: Sequence[Item],
    *,
    root: Path,
    job: str,
    round_: int,
    micro_batch: int,
    threads: int,
    memory: float | None = None,
    restarts: int = 0,
    gpu: str | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    report: Callable[[Outcome], None] = lambda outcome: None,
) -> None:
    """Run items one after another until all are done or `should_stop()` says so.

    While an item's results are written and committed, the next one is computed.

    Parameters
    ----------
    items : sequence of Item
    root : Path
        The store root.
    job, round_, restarts
        Who makes the attempts; see `storage_schemas.protocol.attempts.begin`.
    micro_batch, threads, memory, gpu
        See `Resources`.
    should_stop : callable, optional
        Asked between items.
    report : callable, optional
        Called with the outcome of every item.
    """
    take = partial(attempts.begin, job=job, round_=round_, restarts=restarts)
    make = partial(_make, root=root, take=take, how=Resources(micro_batch, threads, memory, gpu))
    with ThreadPoolExecutor(1, "commit") as writer:
        writing: Future[Outcome] | None = None
        for item in items:
            if should_stop():
                break
            made = make(item)
            # One at a time: no more than two items' results are in memory.
            try:
                if writing is not None:
                    report(writing.result())
            finally:  # whatever that raised, what was made is committed and its leases given back
                writing = None if isinstance(made, Outcome) else writer.submit(made)
            if isinstance(made, Outcome):
                report(made)
        if writing is not None:
            report(writing.result())


def run_item(
    item: Item,
    *,
    root: Path,
    job: str,
    round_: int,
    micro_batch: int,
    threads: int,
    memory: float | None = None,
    restarts: int = 0,
    gpu: str | None = None,
) -> Outcome:
    """Compute and commit the units of one item that nobody else holds or has committed.

    A failure is written to the attempt records of the units concerned and is not raised: other
    items do not depend on it, and `gradenc status` and `gradenc logs` show it.
    """
    take = partial(attempts.begin, job=job, round_=round_, restarts=restarts)
    made = _make(item, root=root, take=take, how=Resources(micro_batch, threads, memory, gpu))
    return made if isinstance(made, Outcome) else made()


def _make(
    item: Item, *, root: Path, take: Callable[[Store, Unit], Attempt | None], how: Resources
) -> Outcome | Callable[[], Outcome]:
    """Take the leases and compute; return what commits the results, or how the item ended."""
    held = _take(item, root, take)
    if not held:
        return Outcome(0, None)
    started = time.monotonic()
    with ExitStack() as heartbeats:
        heartbeats.enter_context(_heartbeats([attempt for _, _, attempt in held]))
        try:
            results = _results(held, root, how)
        except Exception as error:
            return _failed(held, held, error, _used(started, how))
        return partial(_commit, held, results, heartbeats.pop_all(), started, how)


def _results(held: Sequence[Held], root: Path, how: Resources) -> list[Result]:
    """Compute all units; halve the micro-batch and start again while the GPU's memory is too small.

    A unit is made whole at one micro-batch, which is among its facts.
    """
    units = tuple((store, unit) for store, unit, _ in held)
    while True:
        try:
            results = list(_compute(Work(root, units, how)))
            break
        except Exception as error:
            if not GPU_IS_FULL.search(f"{type(error).__name__}: {error}") or how.micro_batch == 1:
                raise
            how = replace(how, micro_batch=how.micro_batch // 2)
            print(f"{error}: again with a micro-batch of {how.micro_batch}", flush=True)
    made = {id(unit) for _, unit, _, _ in results}
    for store, unit, attempt in held:
        if id(unit) not in made:
            raise RuntimeError(f"{attempt.unit} was not made by {MODULES[store.kind]}")
    return results


def _commit(
    held: Sequence[Held],
    results: Sequence[Result],
    heartbeats: ExitStack,
    started: float,
    how: Resources,
) -> Outcome:
    left = {id(unit): (store, unit, attempt) for store, unit, attempt in held}
    with heartbeats:
        try:
            for store, unit, arrays, facts in results:
                attempt = left[id(unit)][2]
                commit.commit(store, unit, arrays, facts, attempt)
                attempt.finish("committed", used=_used(started, how))
                del left[id(unit)]
        except Exception as error:
            return _failed(held, list(left.values()), error, _used(started, how))
    return Outcome(len(held), None)


def _failed(held: Sequence[Held], left: Sequence[Held], error: Exception, used: Used) -> Outcome:
    """Record the failure at the units that are left without a commit."""
    told = "".join(traceback.format_exception(error))
    print(told, flush=True)
    for _, _, attempt in left:
        sentence = f"{type(error).__name__}: {error}"
        attempt.finish("failed", error=sentence, traceback=told, used=used)
    return Outcome(len(held) - len(left), told)


def _used(started: float, how: Resources) -> Used:
    """Return what this process has used since `started` (s)."""
    return Used(
        seconds=time.monotonic() - started,
        max_rss=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        gpu=how.gpu,
    )


def _take(item: Item, root: Path, take: Callable[[Store, Unit], Attempt | None]) -> list[Held]:
    held: list[Held] = []
    for path, index in item:
        store = Store.open(root / path)
        unit = store.units[index]
        if commit.is_committed(store, unit):
            continue
        attempt = take(store, unit)
        if attempt is None:
            continue
        # Another holder may have committed between the first look and the lease.
        if commit.is_committed(store, unit):
            attempt.finish("committed")
            continue
        held.append((store, unit, attempt))
    return held


def _compute(work: Work) -> Iterator[Result]:
    kind = work.units[0][0].kind
    module = import_module(MODULES[kind])
    # By default BLAS uses all processors of the node, and the last bits depend on how many.
    with threadpool_limits(work.how.threads, user_api="blas"):
        yield from module.compute(work)


@contextmanager
def _heartbeats(held: Sequence[Attempt]) -> Iterator[None]:
    """Touch the attempts' files while the work goes on: readers on other hosts see it alive."""
    done = threading.Event()

    def beat() -> None:
        while not done.wait(HEARTBEAT_S):
            for attempt in held:
                attempt.heartbeat()

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
