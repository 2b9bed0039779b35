"""The function that every submitted task runs: one slice of the submission's frozen units.

A task refuses to begin if its code or its type of GPU differs from that of its submission. It
leaves commit and attempt records, and never decides the next step.
"""

import errno
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn, TypedDict

from hpc.faults.breaker import Breaker
from hpc.faults.triage import EXIT_CODES, FailureClass
from hpc.node.environment import code_version, own_job, rank
from hpc.node.gpu import gpu_type, other_type
from hpc.node.payload import Payload
from jobs.runner import Item, Outcome, run_items
from storage_schemas.protocol.attempts import AttemptRecord, attempts_of, is_alive
from storage_schemas.protocol.commit import committed_units, is_committed
from storage_schemas.protocol.store import Store

LOOK_AGAIN_S = 2.0
"""How often an idle rank checks whether the other ranks are alive (s)."""


class ItemOptions(TypedDict):
    """Keywords of `jobs.runner.run_items`: who runs a task's items, and how."""

    root: Path
    job: str
    restarts: int
    round_: int
    micro_batch: int
    threads: int
    memory: float | None
    gpu: str | None
    should_stop: Callable[[], bool]
    report: Callable[[Outcome], None]


class StopFlag:
    """Set by SIGTERM and SIGUSR2: the task stops after the current unit."""

    def __init__(self) -> None:
        self.requested = False

    def install(self) -> None:
        """Handle the signals by which schedulers announce the end of a job."""
        for name in (signal.SIGTERM, signal.SIGUSR2):
            signal.signal(name, self._request)

    def _request(self, signum: int, frame: FrameType | None) -> None:
        self.requested = True


def run_slice(units: str, index: int) -> None:
    """Run slice `index` of the submission whose frozen list is the file `units`.

    Every rank of a task walks the whole slice from its own place; leases make sure that each unit
    is made once. A rank ends when no rank has a unit in progress, so that the others can make the
    units of one that died.
    """
    path = Path(units)
    payload = Payload.read(path)
    breaker = Breaker(path.parent)
    _refuse_other_code(payload, breaker, path)
    if payload.scheduler == "local":
        show_gpu(os.environ, payload.gpus, index)
    bind_gpu(os.environ)
    gpu = gpu_type()
    if gpu is not None:
        _refuse_other_gpu(payload, breaker, gpu)
    stop = StopFlag()
    stop.install()
    job, restarts = own_job(os.environ)
    how: ItemOptions = {
        "root": (path.parent / payload.root).resolve(),
        "job": job,
        "restarts": restarts,
        "round_": payload.round,
        "micro_batch": payload.asked.micro_batch,
        "threads": payload.asked.threads,
        "memory": payload.memory,
        "gpu": gpu,
        "should_stop": lambda: stop.requested or breaker.stopped,
        "report": breaker,
    }
    with _full_disk_stops(breaker):
        _run(payload.slices[index], payload, path.parent, how)


def _run(items: Sequence[Item], payload: Payload, submission: Path, how: ItemOptions) -> None:
    if payload.engine == "dask":
        # Only here: distributed takes a second to import.
        from hpc.node.dask import run_items_on_dask

        run_items_on_dask(
            items,
            workers=payload.asked.dask_workers,
            submission=submission,
            interface=payload.asked.dask_interface,
            address=payload.dask,
            **how,
        )
    else:
        _run_among_ranks(items, *rank(os.environ), how)


def _run_among_ranks(items: Sequence[Item], number: int, ranks: int, how: ItemOptions) -> None:
    """Run one rank's turn, then wait while others have units in progress: they may die."""
    root, own = how["root"], (how["job"], how["restarts"])
    run_items(in_turn(items, number, ranks), **how)
    left = uncommitted(items, root) if ranks > 1 else []
    while not how["should_stop"]() and (left := at_hand(left, root, *own)):
        time.sleep(LOOK_AGAIN_S)
        run_items(abandoned(left, root, *own)[:1], **how)


def in_turn(items: Sequence[Item], number: int, ranks: int) -> list[Item]:
    """Return the items in the order of one rank, which begins at its own place."""
    first = len(items) * number // ranks
    return [*items[first:], *items[:first]]


def uncommitted(items: Sequence[Item], root: Path) -> list[Item]:
    """Return the items with a unit that has no record, in one pass over the names of each store."""
    paths = {path for item in items for path, _ in item}
    done = {path: committed_units(Store.open(root / path)) for path in paths}
    return [item for item in items if any(unit not in done[path] for path, unit in item)]


def at_hand(items: Sequence[Item], root: Path, job: str, restarts: int) -> list[Item]:
    """Return the items with a unit that a rank of this job has begun and not ended.

    The rank may be dead. Units that failed are left out: they wait for the next submission.
    """
    return [item for item in items if _begun(item, root, job, restarts)]


def abandoned(items: Sequence[Item], root: Path, job: str, restarts: int) -> list[Item]:
    """Return the items with a unit that was in progress when its rank died."""
    return [item for item in items if not all(map(is_alive, _begun(item, root, job, restarts)))]


def _begun(item: Item, root: Path, job: str, restarts: int) -> list[AttemptRecord]:
    """Return this job's attempts at an item's units that have not ended."""
    units = [(Store.open(root / path), index) for path, index in item]
    newest = [
        attempt
        for store, index in units
        if not is_committed(store, store.units[index])
        for attempt in attempts_of(store, index)[-1:]
    ]
    return [a for a in newest if a.outcome == "running" and (a.job, a.restarts) == (job, restarts)]


def bind_gpu(environment: MutableMapping[str, str]) -> None:
    """Let this rank see one of its node's GPUs; before torch is imported.

    Without it every rank of a node would put its network on the first.
    """
    visible = environment.get("CUDA_VISIBLE_DEVICES", "").split(",")
    local = environment.get("SLURM_LOCALID")
    if local is not None and len(visible) > 1:
        environment["CUDA_VISIBLE_DEVICES"] = visible[int(local) % len(visible)]


def show_gpu(environment: MutableMapping[str, str], gpus: Sequence[str], index: int) -> None:
    """Let task `index` see one of this machine's GPUs, which submitit's local executor hides."""
    if gpus:
        environment["CUDA_VISIBLE_DEVICES"] = gpus[index % len(gpus)]


@contextmanager
def _full_disk_stops(breaker: Breaker) -> Iterator[None]:
    """Stop the submission if the disk has no room even for the record of a failure."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            breaker.stop(FailureClass.DISK, str(error))
        raise


def _refuse_other_gpu(payload: Payload, breaker: Breaker, found: str) -> None:
    stage = payload.stage
    first = other_type(breaker.submission.parents[1] / "gpus" / f"{stage}.json", found)
    if first is not None:
        sentence = (
            f"stage {stage} was begun on {first}, this task was given {found}: results of the two "
            f"differ in the last digits; name one type in the profile ([{stage}] constraint, or a "
            "partition that has only one)"
        )
        breaker.stop(FailureClass.DRIFT, sentence)
        _end(FailureClass.DRIFT, sentence)


def _refuse_other_code(payload: Payload, breaker: Breaker, path: Path) -> None:
    if payload.version == code_version():
        return
    sentence = (
        f"{path} was submitted by gradenc {payload.version}, its task found {code_version()}: "
        "the code was changed in between, or differs on the node; install one version, then "
        "resume the run so that the units are submitted by the code that runs them"
    )
    breaker.stop(FailureClass.DRIFT, sentence)
    _end(FailureClass.DRIFT, sentence)


def _end(failure: FailureClass, sentence: str) -> NoReturn:
    """End this task before it has begun a unit; its exit code says why."""
    print(sentence, file=sys.stderr, flush=True)
    sys.exit(EXIT_CODES[failure])
