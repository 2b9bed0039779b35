"""What a run's stores say: which units are committed, running, failed or still to do.

The stores say what is done; attempt records only say why something is not. Imports nothing slow.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from hpc.folder import RunFolder
from jobs.spec import STAGES
from storage_schemas.attempts import is_alive, latest_attempts
from storage_schemas.commit import committed_units
from storage_schemas.store import Store

Status = Literal["committed", "running", "failed", "pending"]

ATTEMPTS_PER_ROUND = 3
"""How often a unit whose task died without a word is tried before the user is asked."""


@dataclass(frozen=True)
class UnitState:
    """One unit of a run."""

    store: Store
    index: int
    status: Status
    error: str | None

    @property
    def unit_id(self) -> str:
        """The unit's id, as `gradenc logs` takes it."""
        return self.store.unit_id(self.store.units[self.index])


@dataclass(frozen=True)
class StageState:
    """All units of a stage; a stage that is not planned yet has none."""

    stage: str
    planned: bool
    sealed: bool
    units: tuple[UnitState, ...]

    def count(self, status: Status) -> int:
        """Return the number of units with this status."""
        return sum(unit.status == status for unit in self.units)

    @property
    def complete(self) -> bool:
        """Whether every unit is committed."""
        return self.planned and self.count("committed") == len(self.units)

    @property
    def failures(self) -> Counter[str]:
        """Distinct errors with the number of units that met them."""
        return Counter(str(unit.error) for unit in self.units if unit.status == "failed")


def stage_state(stage: str, stores: Sequence[Store], round_: int) -> StageState:
    """Read the state of one stage."""
    units = tuple(unit for store in stores for unit in _unit_states(store, round_))
    sealed = bool(stores) and all(store.sealed() for store in stores)
    return StageState(stage, bool(stores), sealed, units)


def run_state(run: RunFolder) -> dict[str, StageState]:
    """Read the state of every stage."""
    return {stage: stage_state(stage, run.stores(stage), run.round) for stage in STAGES}


def _unit_states(store: Store, round_: int) -> Iterator[UnitState]:
    committed = committed_units(store)
    attempts = latest_attempts(store, skip=committed)
    for unit in store.units:
        if unit.index in committed:
            yield UnitState(store, unit.index, "committed", None)
            continue
        attempt = attempts.get(unit.index)
        status, error = _uncommitted(attempt, round_)
        yield UnitState(store, unit.index, status, error)


def _uncommitted(attempt: dict | None, round_: int) -> tuple[Status, str | None]:
    if attempt is None:
        return "pending", None
    if attempt["outcome"] == "running" and is_alive(attempt):
        return "running", None
    if attempt["outcome"] == "failed" and attempt["round"] == round_:
        return "failed", attempt["error"]
    if attempt["outcome"] == "running" and attempt["n"] >= ATTEMPTS_PER_ROUND * (round_ + 1):
        return "failed", "the task died without a message, every time it was tried"
    return "pending", None
