"""The state of a run: which units are committed, running, failed or pending.

Commit records alone say what is done; attempt records only say why a unit is not. The module is
imported by every command and imports nothing slow.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from hpc.faults.triage import RAISED, UNCHARGED, FailureClass, TaskOutcome, classify
from hpc.run.folder import RunFolder, Wishes
from hpc.run.submissions import given_up, submissions, unsettled
from jobs.spec import STAGES
from storage_schemas.protocol.attempts import (
    AttemptRecord,
    attempts_of,
    is_alive,
    latest_attempts,
)
from storage_schemas.protocol.commit import committed_units
from storage_schemas.protocol.store import Store

Status = Literal["committed", "running", "failed", "pending"]

ATTEMPTS_PER_ROUND = 3
"""How often a unit whose task died is tried before the user is asked (see `Forgiven`)."""


@dataclass(frozen=True)
class UnitState:
    """One unit of a run."""

    store: Store
    index: int
    status: Status
    error: str | None
    failure: str | None = None
    """Class of the failure (`hpc.faults.triage.FailureClass`) of a unit that failed."""
    tries: int = 0
    """How often a pending unit was begun."""

    @property
    def unit_id(self) -> str:
        """The unit's id, as `gradenc logs` takes it."""
        return self.store.unit_id(self.store.units[self.index])

    @property
    def names(self) -> set[str]:
        """The names that `gradenc resume --only` accepts for it."""
        return _names(self.store, self.index, self.failure)


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


class Forgiven:
    """Which attempts that died do not count against their unit's retry limit.

    An attempt does not count if its node failed or its job was preempted, if the next submission
    asks for more memory or time, or if another run made it: this run's tries may end otherwise.
    """

    def __init__(self, run: RunFolder) -> None:
        self.run = run

    @cached_property
    def _ends(self) -> dict[str, TaskOutcome]:
        """How jobs ended, by their ids."""
        return {task.job_id: task for s in submissions(self.run) for task in s.ended}

    def __call__(self, attempt: AttemptRecord) -> bool:
        """Look up how the attempt's job ended."""
        end = self._ends.get(attempt.job)
        if end is None:  # of a job that has not ended, or of another run that shares the store
            return True
        requeued = end.job is not None and attempt.restarts < end.job.restarts
        return end.failure in (*UNCHARGED, *RAISED) or requeued


def stage_state(run: RunFolder, stage: str, stores: Sequence[Store]) -> StageState:
    """Read the state of one stage."""
    forgiven, wishes = Forgiven(run), run.wishes
    units = tuple(u for store in stores for u in _unit_states(store, wishes, forgiven))
    sealed = bool(stores) and all(store.sealed() for store in stores)
    return StageState(stage, bool(stores), sealed, units)


def run_state(run: RunFolder) -> dict[str, StageState]:
    """Read the state of every stage."""
    return {stage: stage_state(run, stage, run.stores(stage)) for stage in STAGES}


def is_complete(states: Mapping[str, StageState]) -> bool:
    """Return whether every stage is sealed."""
    return all(state.sealed for state in states.values())


def is_stuck(run: RunFolder, states: Mapping[str, StageState]) -> bool:
    """Return whether nothing runs and nothing more will be submitted before `resume`."""
    if is_complete(states) or any(state.count("running") for state in states.values()):
        return False
    if unsettled(run):
        return False
    if run.cancelled:
        return True
    if any(_waits(run, state, states) for state in states.values()):
        return False
    return any(state.count("failed") or given_up(run, stage) for stage, state in states.items())


def _waits(run: RunFolder, state: StageState, states: Mapping[str, StageState]) -> bool:
    """Return whether units wait for room in the queue, or for another run that makes them."""
    ready = all(states[name].sealed for name in STAGES[state.stage])
    return bool(ready and state.count("pending") and not given_up(run, state.stage))


def outdated(run: RunFolder, stores: Iterable[Store]) -> Iterator[str]:
    """Yield a sentence for each store whose upstream has another content today.

    A unit that is repaired with another micro-batch or on another device may differ in its last
    bits. Then its store gets another seal, and stores built on the old one are planned again.
    """
    used = [(store, reference) for store in stores for reference in _references(store.spec)]
    stages = {reference["stage"] for _, reference in used}
    own = {source.identity: source for stage in stages for source in run.stores(stage)}
    for store, reference in used:
        source = own.get(reference["identity"])
        seal = source.sealed() if source else None
        now = seal.digest if seal else "" if source else "another store"
        if now and now != reference["seal"]:
            yield (
                f"{store.reference} was made from {reference['stage']} "
                f"{reference['identity'][:12]} sealed as {reference['seal'][:12]}, which is "
                f"now {now[:13]}; run `gradenc resume {run.path}`"
            )


def _references(value: Any) -> Iterator[dict[str, str]]:
    if is_reference(value):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _references(item)


def is_reference(value: Any) -> bool:
    """Return whether a part of a spec refers to a store of an earlier stage."""
    return isinstance(value, dict) and set(value) == {"stage", "identity", "seal"}


def check_only(run: RunFolder, only: Sequence[str]) -> None:
    """Refuse names that fit no failed unit.

    Raises
    ------
    ValueError
        Naming the first of them.
    """
    states = run_state(run).values()
    failed = [unit.names for state in states for unit in state.units if unit.status == "failed"]
    for name in only:
        if not any(name in names for names in failed):
            raise ValueError(
                f"--only {name}: nothing that failed in {run.path} goes by this name; accepted: "
                f"a unit's id, a stage ({', '.join(STAGES)}) or a class of failure "
                f"({', '.join(FailureClass)}), as `gradenc status {run.path}` prints them"
            )


def _unit_states(store: Store, wishes: Wishes, forgiven: Forgiven) -> Iterator[UnitState]:
    committed = committed_units(store)
    attempts = latest_attempts(store, skip=committed)
    for unit in store.units:
        if unit.index in committed:
            yield UnitState(store, unit.index, "committed", None)
        elif unit.index not in attempts:
            yield UnitState(store, unit.index, "pending", None)
        else:
            yield _tried(store, unit.index, attempts[unit.index], wishes, forgiven)


def _tried(
    store: Store, index: int, attempt: AttemptRecord, wishes: Wishes, forgiven: Forgiven
) -> UnitState:
    """Return the state of a unit that was tried and is not committed."""
    if is_alive(attempt):
        return UnitState(store, index, "running", None)
    pending = UnitState(store, index, "pending", None, tries=attempt.n)
    failure = classify(attempt.outcome, attempt.error, None)
    names = _names(store, index, failure)
    if attempt.outcome == "failed" and failure not in RETRIED:
        # A later round than ours is another run's that shares the store.
        if attempt.round > wishes.round or wishes.renewals(names, since=attempt.round):
            return pending
        return UnitState(store, index, "failed", attempt.error, failure)
    limit = ATTEMPTS_PER_ROUND * (1 + wishes.renewals(names))
    if attempt.outcome != "stopped" and attempt.n >= limit:
        charged = sum(not forgiven(one) for one in attempts_of(store, index))
        if charged >= limit:
            return UnitState(store, index, "failed", attempt.error or SILENT, failure)
    return pending


def _names(store: Store, index: int, failure: str | None) -> set[str]:
    stage, unit_id = store.path.parent.name, store.unit_id(store.units[index])
    return {stage, unit_id, *([failure] if failure else ())}


RETRIED = (FailureClass.NODE,)
"""Failures that another node may not have: such units are tried again without asking the user."""
SILENT = "the task died without a message, every time it was tried"
