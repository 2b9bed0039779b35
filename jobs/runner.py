"""Run units: take the lease, compute, commit, and leave a record whatever happens.

An item is the list of units that one computation serves (extraction gives all missing sources of a
shard in one pass); every other stage has items of one unit.
"""

import os
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
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
    "classes": "jobs.classes",
    "responses": "jobs.ingest",
    "features": "jobs.extract",
    "collinearity": "jobs.collinearity",
    "scores": "jobs.encode",
    "comparisons": "jobs.compare",
}
"""Kind of store -> module whose `compute` makes its units."""


@dataclass(frozen=True)
class Work:
    """What a stage's `compute` is given: the store root, the units of one item, how to run."""

    root: Path
    units: tuple[tuple[Store, Unit], ...]
    micro_batch: int
    threads: int


def run_items(
    items: Sequence[Item],
    *,
    root: Path,
    job: str,
    round_: int,
    micro_batch: int,
    threads: int,
    should_stop: Callable[[], bool] = lambda: False,
) -> None:
    """Run items one after another until all are done or `should_stop()` says so."""
    for item in items:
        if should_stop():
            return
        run_item(item, root=root, job=job, round_=round_, micro_batch=micro_batch, threads=threads)


def run_item(
    item: Item, *, root: Path, job: str, round_: int, micro_batch: int, threads: int
) -> None:
    """Compute and commit the units of one item that nobody else holds or has committed.

    A failure is written to the attempt records of the units concerned and is not raised: other
    items do not depend on it, and `gradenc status` and `gradenc logs` show it.
    """
    held = _take(item, root, job, round_)
    if not held:
        return
    open_attempts = {id(unit): attempt for _, unit, attempt in held}
    work = Work(root, tuple((store, unit) for store, unit, _ in held), micro_batch, threads)
    started = time.monotonic()
    try:
        with _heartbeats([attempt for _, _, attempt in held]):
            for store, unit, arrays, facts in _compute(work):
                attempt = open_attempts[id(unit)]
                commit.commit(store, unit, arrays, facts, attempt)
                attempt.finish("committed", used={"seconds": time.monotonic() - started})
                del open_attempts[id(unit)]
    except Exception as error:
        print(traceback.format_exc(), flush=True)
        for attempt in open_attempts.values():
            attempt.finish(
                "failed",
                error=f"{type(error).__name__}: {error}",
                traceback=traceback.format_exc(),
                used={"seconds": time.monotonic() - started},
            )


def _take(item: Item, root: Path, job: str, round_: int) -> list[tuple[Store, Unit, Attempt]]:
    held = []
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
    """Return the name under which this process's attempts are recorded."""
    return os.environ.get("SUBMITIT_LOCAL_JOB_ID") or f"pid-{os.getpid()}"
