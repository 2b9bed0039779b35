"""Why a unit will or will not run, and which settings make two identities differ."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpc.run.folder import RunFolder
from hpc.run.state import UnitState, is_reference, run_state, stage_state
from hpc.run.submissions import given_up, unsettled
from jobs.spec import STAGES
from storage_schemas.protocol.attempts import attempts_of, is_alive
from storage_schemas.protocol.commit import problems
from storage_schemas.protocol.store import Store, Unit

_ABSENT = "(absent)"


def find_unit(run: RunFolder, unit_id: str) -> tuple[Store, Unit]:
    """Return the unit with an id such as ``3fa9c1d2e4b5-00003``.

    Raises
    ------
    ValueError
        If the run has none.
    """
    prefix, _, number = unit_id.rpartition("-")
    for stage in STAGES:
        for store in run.stores(stage):
            inside = number.isdecimal() and int(number) < len(store.units)
            if prefix == store.identity[:12] and inside:
                return store, store.units[int(number)]
    raise ValueError(
        f"run {run.path} has no unit {unit_id!r}; `gradenc why {run.path}` lists unfinished ones"
    )


@dataclass(frozen=True)
class MissingUnits:
    """Units of one stage that are not committed and have the same next step."""

    stage: str
    units: tuple[UnitState, ...]
    next_step: str

    @property
    def first(self) -> str:
        """Id, store and name of the first of them."""
        state = self.units[0]
        return f"{state.unit_id} {state.store.label} {state.store.units[state.index].label}"


def missing(run: RunFolder) -> Iterator[MissingUnits]:
    """Yield the units that are not committed, grouped by stage and next step."""
    for stage, state in run_state(run).items():
        # First by what decides the next step, so that files are read once per group.
        alike: dict[tuple[str, str | None], list[UnitState]] = {}
        for unit in state.units:
            if unit.status != "committed":
                alike.setdefault((unit.status, unit.error), []).append(unit)
        groups: dict[str, list[UnitState]] = {}
        for units in alike.values():
            groups.setdefault(_next_step(run, stage, units[0]), []).extend(units)
        for next_step, units in groups.items():
            yield MissingUnits(stage, tuple(units), next_step)


def why(run: RunFolder, store: Store, unit: Unit) -> Iterator[str]:
    """Yield sentences about a unit: its name, its files and attempts, its next step."""
    stage = store.path.parent.name
    yield f"{store.unit_id(unit)} is {unit.label} of {store.reference} (stage {stage})"
    found = problems(store, unit, deep=True)
    if not found:
        yield "it will not run: it is committed, and its files agree with its record"
        if store.sealed() is None:
            yield "its store is not sealed yet: other units are missing"
        return
    yield from found
    for attempt in attempts_of(store, unit.index):
        alive = ", alive" if is_alive(attempt) else ""
        yield (
            f"attempt {attempt.n} by {attempt.job_and_restarts} on {attempt.host} at "
            f"{attempt.started}: {attempt.outcome}{alive}"
            + (f": {attempt.error}" if attempt.error else "")
        )
    state = stage_state(run, stage, [store]).units[unit.index]
    yield _next_step(run, stage, state)


def differences(first: Store, second: Store, where: str = "") -> Iterator[str]:
    """Yield the differences between two identities, following references to earlier stages.

    Parameters
    ----------
    first, second : Store
        Their roots may differ; earlier stages are looked up in the root of each.
    """
    if first.identity == second.identity:
        return
    for key in ("kind", "schema_version", "algorithm_version"):
        ours, theirs = getattr(first.plan, key), getattr(second.plan, key)
        if ours != theirs:
            yield f"{where}{key}: {ours!r} -> {theirs!r}"
    yield from _value_differences(first, second, first.spec, second.spec, where)


def _value_differences(first: Store, second: Store, a: Any, b: Any, where: str) -> Iterator[str]:
    if a == b:
        return
    if is_reference(a) and is_reference(b):
        yield from _reference_differences(first, second, a, b, where)
    elif isinstance(a, dict) and isinstance(b, dict):
        for key in sorted({*a, *b}):
            path = f"{where}.{key}" if where and not where.endswith(": ") else f"{where}{key}"
            yield from _value_differences(
                first, second, a.get(key, _ABSENT), b.get(key, _ABSENT), path
            )
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for position, (one, other) in enumerate(zip(a, b, strict=True)):
            yield from _value_differences(first, second, one, other, f"{where}[{position}]")
    else:
        yield f"{where}: {_shown(a)} -> {_shown(b)}"


def _reference_differences(
    first: Store, second: Store, a: dict[str, str], b: dict[str, str], where: str
) -> Iterator[str]:
    """Compare the stores that two references name, if both still exist."""
    try:
        one, other = _referred(first, a), _referred(second, b)
    except FileNotFoundError as error:
        yield f"{where}: {a['identity'][:12]} -> {b['identity'][:12]} ({error})"
        return
    if one.identity == other.identity:
        yield (
            f"{where}: the same {one.reference} with other content, sealed as "
            f"{a['seal'][:12]} -> {b['seal'][:12]}"
        )
    else:
        yield from differences(one, other, f"{where} -> {one.path.parent.name}: ")


def _referred(store: Store, reference: dict[str, str]) -> Store:
    return Store.find(store.path.parents[1], reference["stage"], reference["identity"])


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def _next_step(run: RunFolder, stage: str, state: UnitState) -> str:
    """Return what will happen to an uncommitted unit."""
    resume = f"`gradenc resume {run.path}`"
    if state.status == "running":
        return "it is running now"
    if run.cancelled:
        return f"it will not run: the run is cancelled; {resume} continues it"
    if state.status == "failed":
        return (
            f"it will not run by itself: it failed ({state.error}); mend the cause, then {resume}"
        )
    if why_not := given_up(run, stage):
        return f"it will not run by itself: {why_not}; {resume}"
    if any(submission.stage == stage for submission in unsettled(run)):
        return "it will run: tasks of its stage are running or in the queue"
    return f"it will run when the run goes on: {resume}"


def open_store(path: Path) -> Store:
    """Open a store by its folder, or by a file or folder in it such as ``data.zarr``.

    Raises
    ------
    ValueError
        If the path is in no store.
    """
    for folder in (path, *path.parents):
        if (folder / "plan.json").is_file():
            return Store.open(folder)
    raise ValueError(
        f"{path} is no store: give <root>/<stage>/<hash>-<label>; `gradenc du ROOT` lists them"
    )
