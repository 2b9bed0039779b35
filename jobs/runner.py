"""Run units: take the lease, compute, commit, and leave a record whatever happens.

An item is the list of units that one computation serves (extraction gives all missing sources of a
shard in one pass); every other stage has items of one unit.
"""

import os
import resource
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from storage_schemas import attempts, commit
from storage_schemas.attempts import Attempt
from storage_schemas.store import Store, Unit

HEARTBEAT_S = 15.0

Arrays = dict[str, NDArray[Any]]
Facts = dict[str, Any]
Item = Sequence[tuple[str, int]]
"""Units that are computed together: (store path below the root, unit index)."""

MODULES = {
    "prepared": "jobs.prepare",
    "bank": "jobs.bank",
    "classes": "jobs.classes",
    "responses": "jobs.ingest",
    "features": "jobs.extract",
    "collinearity": "jobs.collinearity",
    "scores": "jobs.encode",
    "comparisons": "jobs.compare",
    "drill": "jobs.drill",
}
"""Kind of store -> module whose `compute` makes its units."""


@dataclass(frozen=True)
class Work:
    """What a stage's `compute` is given: the store root, the units of one item, how to run."""

    root: Path
    units: tuple[tuple[Store, Unit], ...]
    micro_batch: int
    threads: int


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
    should_stop: Callable[[], bool] = lambda: False,
    report: Callable[[Outcome], None] = lambda outcome: None,
) -> None:
    """Run items one after another until all are done or `should_stop()` says so.

    `report` is told how each ended.
    """
    run = partial(
        run_item, root=root, job=job, round_=round_, micro_batch=micro_batch, threads=threads
    )
    for item in items:
        if should_stop():
            return
        report(run(item))


def run_item(
    item: Item, *, root: Path, job: str, round_: int, micro_batch: int, threads: int
) -> Outcome:
    """Compute and commit the units of one item that nobody else holds or has committed.

    A failure is written to the attempt records of the units concerned and is not raised: other
    items do not depend on it, and `gradenc status` and `gradenc logs` show it.
    """
    held = _take(item, root, job, round_)
    if not held:
        return Outcome(0, None)
    started = time.monotonic()
    left = list(held)
    try:
        with _heartbeats([attempt for _, _, attempt in held]):
            while left:
                micro_batch = _commit_all(left, root, micro_batch, threads, started)
    except Exception as error:
        print(traceback.format_exc(), flush=True)
        for _, _, attempt in left:
            attempt.finish(
                "failed",
                error=f"{type(error).__name__}: {error}",
                traceback=traceback.format_exc(),
                used=_used(started),
            )
        return Outcome(len(held) - len(left), traceback.format_exc())
    return Outcome(len(held), None)


def _commit_all(
    left: list[Held], root: Path, micro_batch: int, threads: int, started: float
) -> int:
    """Compute and commit what is left, taking it off the list.

    Where a GPU's memory does not hold the micro-batch, return half of it for another try: a unit is
    made whole at one micro-batch.
    """
    work = Work(root, tuple((store, unit) for store, unit, _ in left), micro_batch, threads)
    open_attempts = {id(unit): (store, unit, attempt) for store, unit, attempt in left}
    try:
        for store, unit, arrays, facts in _compute(work):
            held = open_attempts[id(unit)]
            commit.commit(store, unit, arrays, facts, held[2])
            held[2].finish("committed", used=_used(started))
            left.remove(held)
        if left:
            raise RuntimeError(f"{left[0][2].unit} was not made by {MODULES[left[0][0].kind]}")
    except Exception as error:
        if type(error).__name__ != "OutOfMemoryError" or micro_batch == 1:
            raise
        print(f"{error}: again with a micro-batch of {micro_batch // 2}", flush=True)
    return micro_batch // 2 or 1


def _used(started: float) -> Facts:
    """Return what this process has used since `started` (s), its memory in bytes and its GPU."""
    return {
        "seconds": time.monotonic() - started,
        "max_rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "gpu": os.environ.get("GRADENC_GPU"),
    }


def _take(item: Item, root: Path, job: str, round_: int) -> list[Held]:
    held: list[Held] = []
    for path, index in item:
        store = Store.open(root / path)
        unit = store.units[index]
        if commit.is_committed(store, unit):
            continue
        attempt = attempts.begin(store, unit, job, round_)
        if attempt is None:
            continue
        # Another holder may have committed between the first look and the lease.
        if commit.is_committed(store, unit):
            attempt.finish("committed")
            continue
        held.append((store, unit, attempt))
    return held


def _compute(work: Work) -> Iterator[tuple[Store, Unit, Arrays, Facts]]:
    kind = work.units[0][0].kind
    yield from import_module(MODULES[kind]).compute(work)


@contextmanager
def _heartbeats(held: Sequence[Attempt]) -> Iterator[None]:
    """Touch the attempts' files while the work goes on, for readers on other hosts."""
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


def job_name() -> str:
    """Return the name under which this process's attempts are recorded: its job's id.

    A job that its scheduler put back into the queue adds how often: ``123_4 restart 1``.
    """
    if os.environ.get("SUBMITIT_EXECUTOR") != "slurm":
        return os.environ.get("SUBMITIT_LOCAL_JOB_ID") or f"pid-{os.getpid()}"
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    name = f"{array}_{task}" if array else os.environ["SLURM_JOB_ID"]
    restarts = int(os.environ.get("SLURM_RESTART_COUNT") or 0)
    return f"{name} restart {restarts}" if restarts else name
