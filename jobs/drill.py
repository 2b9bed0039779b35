"""Units of a drill compute nothing: they wait, commit noise, and meet the accidents of the drill.

A drill goes through every step of a real study (plan, submission, lease, commit, seal, gate) on the
user's own cluster in minutes. Accidents are not part of a unit's identity, so a drill that met them
must end with the same bytes as one that did not.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from jobs.runner import Arrays, Facts, Work
from jobs.spec import STAGES, DrillSpec
from storage_schemas.files import write_exclusive
from storage_schemas.protocol.store import Store, Unit

Accident = Literal["kill", "memory", "gpu_memory", "error", "hang", "torn"]

BALLAST = 64 * 2**20
"""Step (bytes) in which `memory` grows until the scheduler kills the task."""
TICK_S = 0.05


class Fault(BaseModel):
    """An accident that one unit of a drill meets."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    stage: str
    unit: int
    accident: Accident
    times: int = Field(default=1, ge=1)
    """how many attempts meet it"""


class Drill(BaseModel):
    """What the units of a drill do; kept in the run's `drill.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    units: dict[str, int] = Field(default_factory=lambda: dict.fromkeys(STAGES, 1))
    """units of each stage"""
    seconds: float = 1.0
    """how long a unit works (s)"""
    values: int = 4096
    """numbers that a unit commits"""
    seed: int = 0
    faults: tuple[Fault, ...] = ()


class OutOfMemoryError(RuntimeError):
    """A batch does not fit the GPU; torch's exception has the same name."""


def compute(work: Work) -> Iterator[tuple[Store, Unit, Arrays, Facts]]:
    """Yield each unit's noise, (1, values) float32, after its time and its accidents."""
    for store, unit in work.units:
        spec = DrillSpec.model_validate(store.spec)
        for reference in spec.upstream:
            reference.open(work.root)
        folder = Path(store.locations["drill"])
        drill = Drill.model_validate_json((folder / "drill.json").read_bytes())
        for fault in _due(drill, spec.stage, unit.index, folder):
            ACCIDENTS[fault.accident](work, store, unit)
        _work(drill.seconds)
        rng = np.random.default_rng([spec.seed, list(STAGES).index(spec.stage), unit.index])
        noise = rng.standard_normal((1, spec.values), dtype=np.float32)
        yield store, unit, {"noise": noise}, {"micro_batch": work.how.micro_batch}


def _due(drill: Drill, stage: str, unit: int, folder: Path) -> Iterator[Fault]:
    """Yield the accidents that this attempt meets; each leaves a mark, which counts them."""
    for number, fault in enumerate(drill.faults):
        if (fault.stage, fault.unit) != (stage, unit):
            continue
        marks = (folder / "met" / f"{number}-{time_}" for time_ in range(fault.times))
        if any(write_exclusive(mark, b"{}") for mark in marks):
            yield fault


def _work(seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(TICK_S)


def _kill(work: Work, store: Store, unit: Unit) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _memory(work: Work, store: Store, unit: Unit) -> None:
    held = []
    while True:
        held.append(np.ones(BALLAST, dtype=np.uint8))
        time.sleep(TICK_S)


def _gpu_memory(work: Work, store: Store, unit: Unit) -> None:
    if work.how.micro_batch > 1:
        raise OutOfMemoryError(f"a drill's batch of {work.how.micro_batch} does not fit")


def _error(work: Work, store: Store, unit: Unit) -> None:
    raise ValueError(f"a drill's error in unit {unit.index}")


def _hang(work: Work, store: Store, unit: Unit) -> None:
    _work(float("inf"))


def _torn(work: Work, store: Store, unit: Unit) -> None:
    """Leave half a shard behind and hang, as if the node were lost during a write."""
    for name in store.owned_files(unit):
        path = store.data / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"torn")
    _hang(work, store, unit)


ACCIDENTS: dict[str, Callable[[Work, Store, Unit], None]] = {
    "kill": _kill,
    "memory": _memory,
    "gpu_memory": _gpu_memory,
    "error": _error,
    "hang": _hang,
    "torn": _torn,
}
