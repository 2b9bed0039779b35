"""What a submitted task runs: one slice of a frozen list of units."""

import errno
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from hpc.faults.breaker import Breaker
from hpc.faults.triage import EXIT_CODES, FailureClass
from hpc.node.environment import code_version, rank
from hpc.node.gpu import gpu_type, other_type
from jobs.runner import Item, job_name, run_items
from storage_schemas.protocol.attempts import attempts_of, is_alive
from storage_schemas.protocol.commit import committed_units, is_committed
from storage_schemas.protocol.store import Store

LOOK_AGAIN_S = 2.0
"""How often a rank that has nothing left to begin looks whether others still live."""


class StopFlag:
    """Set by SIGTERM and SIGUSR2: stop after the unit at hand."""

    def __init__(self) -> None:
        self.requested = False

    def install(self) -> None:
        """Handle the signals by which schedulers announce the end."""
        for name in (signal.SIGTERM, signal.SIGUSR2):
            signal.signal(name, self._request)

    def _request(self, signum: int, frame: FrameType | None) -> None:
        self.requested = True


def run_slice(units: str, index: int) -> None:
    """Run slice `index` of the submission whose frozen list is the file `units`.

    Every rank of a task has the whole slice and begins at its own place; the leases see to it that
    each unit is made once. A rank ends when none has a unit at hand any more, so what a dead one
    leaves is made by the others.
    """
    path = Path(units)
    payload: dict[str, Any] = json.loads(path.read_bytes())
    breaker = Breaker(path.parent)
    _refuse_other_code(payload, breaker, path)
    if payload["scheduler"] == "local":
        show_gpu(os.environ, payload["gpus"], index)
    bind_gpu(os.environ)
    _refuse_other_gpu(payload, breaker)
    stop = StopFlag()
    stop.install()
    how = {
        "root": (path.parent / payload["root"]).resolve(),
        "job": job_name(),
        "round_": payload["round"],
        "micro_batch": payload["micro_batch"],
        "threads": payload["threads"],
        "memory": payload["memory"],
        "should_stop": lambda: stop.requested or breaker.stopped,
        "report": breaker,
    }
    items: list[Item] = [[(s, unit) for s, unit in item] for item in payload["slices"][index]]
    with _full_disk_stops(breaker):
        _run(items, payload, path.parent, how)


def _run(items: list[Item], payload: dict[str, Any], submission: Path, how: dict[str, Any]) -> None:
    if payload["engine"] == "dask":
        from hpc.node.dask import run_items_on_dask

        run_items_on_dask(
            items,
            workers=payload["dask_workers"],
            submission=submission,
            interface=payload["asked"]["dask_interface"],
            address=payload["dask"],
            **how,
        )
    else:
        _run_among_ranks(items, *rank(os.environ), how)


def _run_among_ranks(items: list[Item], number: int, ranks: int, how: dict[str, Any]) -> None:
    """Run one rank's turn, then stay while others have units at hand: they may die of them."""
    run_items(in_turn(items, number, ranks), **how)
    left = uncommitted(items, how["root"]) if ranks > 1 else []
    while not how["should_stop"]() and (left := at_hand(left, how["root"], how["job"])):
        time.sleep(LOOK_AGAIN_S)
        run_items(abandoned(left, how["root"], how["job"])[:1], **how)


def in_turn(items: list[Item], number: int, ranks: int) -> list[Item]:
    """Return the items in the order of one rank, which begins at its own place."""
    first = len(items) * number // ranks
    return [*items[first:], *items[:first]]


def uncommitted(items: list[Item], root: Path) -> list[Item]:
    """Return the items with a unit that has no record, in one pass over the names of each store."""
    paths = {path for item in items for path, _ in item}
    done = {path: committed_units(Store.open(root / path)) for path in paths}
    return [item for item in items if any(unit not in done[path] for path, unit in item)]


def at_hand(items: list[Item], root: Path, job: str) -> list[Item]:
    """Return the items with a unit that a rank of this job has begun and not brought to its end.

    The rank may be dead. What failed is not among them: it waits for the next submission.
    """
    return [item for item in items if _begun(item, root, job)]


def abandoned(items: list[Item], root: Path, job: str) -> list[Item]:
    """Return the items with a unit that was at hand when its rank died."""
    return [item for item in items if not all(map(is_alive, _begun(item, root, job)))]


def _begun(item: Item, root: Path, job: str) -> list[dict[str, Any]]:
    """Return this job's attempts at an item's units that have come to no end."""
    units = [(Store.open(root / path), index) for path, index in item]
    newest = [
        attempt
        for store, index in units
        if not is_committed(store, store.units[index])
        for attempt in attempts_of(store, index)[-1:]
    ]
    return [a for a in newest if a["outcome"] == "running" and a["job"] == job]


def bind_gpu(environment: MutableMapping[str, str]) -> None:
    """Let this rank see one of its node's GPUs; before torch is imported.

    Without it every rank of a node would put its network on the first.
    """
    visible = environment.get("CUDA_VISIBLE_DEVICES", "").split(",")
    local = environment.get("SLURM_LOCALID")
    if local is not None and len(visible) > 1:
        environment["CUDA_VISIBLE_DEVICES"] = visible[int(local) % len(visible)]


def show_gpu(environment: MutableMapping[str, str], gpus: list[str], index: int) -> None:
    """Let task `index` see one of this machine's GPUs, which submitit's local executor hides."""
    if gpus:
        environment["CUDA_VISIBLE_DEVICES"] = gpus[index % len(gpus)]


@contextmanager
def _full_disk_stops(breaker: Breaker) -> Iterator[None]:
    """Stop the submission where the stores' disk has no room even to say that a unit failed."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            breaker.stop(FailureClass.DISK, str(error))
        raise


def _refuse_other_gpu(payload: dict[str, Any], breaker: Breaker) -> None:
    found, stage = gpu_type(), payload["stage"]
    if found is None:
        return
    os.environ["GRADENC_GPU"] = found
    first = other_type(breaker.submission.parents[1] / "gpus" / f"{stage}.json", found)
    if first is not None:
        sentence = (
            f"stage {stage} was begun on {first}, this task was given {found}: results of the two "
            f"differ in the last digits; name one type in the profile ([{stage}] constraint, or a "
            "partition that has only one)"
        )
        breaker.stop(FailureClass.DRIFT, sentence)
        _end(FailureClass.DRIFT, sentence)


def _refuse_other_code(payload: dict[str, Any], breaker: Breaker, path: Path) -> None:
    if payload["version"] == code_version():
        return
    sentence = (
        f"{path} was submitted by gradenc {payload['version']}, its task found {code_version()}: "
        "the code was changed in between, or differs on the node; install one version, then run "
        "`gradenc resume` so that the units are submitted by the code that runs them"
    )
    breaker.stop(FailureClass.DRIFT, sentence)
    _end(FailureClass.DRIFT, sentence)


def _end(failure: FailureClass, sentence: str) -> NoReturn:
    """End this task before it has begun a unit, so that its exit code tells why."""
    print(sentence, file=sys.stderr, flush=True)
    sys.exit(EXIT_CODES[failure])
