"""The only stage logic: count commits, seal, plan the next stage, or submit what is missing.

`advance` may be called at any time by anybody: the foreground loop of `demo` and `submit`, and
`resume`. It never asks whether a task succeeded; it reads the stores.
"""

from collections.abc import Iterable

from rich.progress import track

from hpc import plan
from hpc.folder import RunFolder
from hpc.plan import StorePlan
from hpc.profile import Profile
from hpc.resolve import Resolved
from hpc.state import StageState, run_state, stage_state
from hpc.study import Study
from hpc.submissions import given_up, submissions
from hpc.submit import submit
from hpc.targets import Targets
from jobs.runner import Item
from jobs.spec import STAGES, Reference
from storage_schemas.commit import committed_units, problems, withdraw
from storage_schemas.root import root_lock
from storage_schemas.seal import Unsealable, seal
from storage_schemas.store import Store

ENGINES = {"encode": "dask"}
"""Stages that run on Dask inside their job; the others run their units one after another."""


def advance(run: RunFolder, profile: Profile) -> dict[str, StageState]:
    """Bring the run one step further and return the state of every stage."""
    with run.lock():
        for stage, upstream in STAGES.items():
            if all(_is_sealed(run, name) for name in upstream):
                _advance_stage(run, stage, profile)
        return run_state(run)


def is_complete(states: dict[str, StageState]) -> bool:
    """Return whether every stage is sealed."""
    return all(state.sealed for state in states.values())


def is_stuck(run: RunFolder, states: dict[str, StageState]) -> bool:
    """Return whether nothing runs and nothing more will be submitted before `resume`."""
    if is_complete(states) or any(state.count("running") for state in states.values()):
        return False
    if any(submission.alive() for submission in submissions(run)):
        return False
    return run.cancelled or any(
        state.count("failed") or given_up(run, stage) for stage, state in states.items()
    )


def _is_sealed(run: RunFolder, stage: str) -> bool:
    stores = run.stores(stage)
    return bool(stores) and all(store.sealed() for store in stores)


def _advance_stage(run: RunFolder, stage: str, profile: Profile) -> None:
    stores = run.stores(stage)
    if not stores:
        stores = create_stores(run, stage, plan_stage(run, stage))
    state = stage_state(stage, stores, run.round)
    if state.sealed:
        return
    if state.complete:
        _seal_or_withdraw(stores)
        return
    if run.cancelled or any(s.stage == stage and s.alive() for s in submissions(run)):
        return
    missing = items(state)
    if missing and not given_up(run, stage):
        submit(run, stage, missing, profile.stage(stage), ENGINES.get(stage, "serial"))


def _seal_or_withdraw(stores: Iterable[Store]) -> None:
    """Seal stores; units that fail the deep check are made again by the next advance."""
    for store in stores:
        try:
            seal(store)
        except Unsealable as error:
            for unit in (store.units[index] for index in error.problems):
                # Looked at again: another run that shares the store may have mended it by now.
                if problems(store, unit, deep=True):
                    withdraw(store, unit)


def withdraw_damaged(run: RunFolder, deep: bool = True) -> int:
    """Withdraw committed units whose files differ from their records; return how many.

    Nothing else is touched. With `deep` every committed byte is read, else only sizes are compared.
    """
    stores = [store for stage in STAGES for store in run.stores(stage)]
    withdrawn = 0
    for store in track(stores, description="checking stores", transient=True):
        for index in sorted(committed_units(store)):
            if problems(store, store.units[index], deep):
                withdraw(store, store.units[index])
                withdrawn += 1
    return withdrawn


def plan_stage(run: RunFolder, stage: str) -> list[StorePlan]:
    """Plan a stage whose upstream is sealed."""
    resolved = Resolved.read(run.resolved)
    study = Study.model_validate(resolved.study)
    references = sealed_references(run)
    targets = [Targets.of_store(store) for store in run.stores("ingest")]
    planners = {
        "extract": plan.extract_plans,
        "encode": plan.encode_plans,
        "compare": plan.compare_plans,
    }
    return list(planners[stage](study, resolved, targets, references))


def create_stores(run: RunFolder, stage: str, plans: Iterable[StorePlan]) -> list[Store]:
    """Create a stage's stores and record them in the run."""
    # Locked with `gradenc gc`: what is found here must not be removed before it is recorded.
    with root_lock(run.root):
        stores = [store_plan.create(run.root) for store_plan in plans]
        run.record(stage, stores)
    return stores


def sealed_references(run: RunFolder) -> dict[str, Reference]:
    """Return a reference to every sealed store by `<stage>/<label>`."""
    references = {}
    for stage in STAGES:
        for store in run.stores(stage):
            reference = Reference.of(store)
            if reference is not None:
                references[f"{stage}/{store.label}"] = reference
    return references


def items(state: StageState) -> list[Item]:
    """Return the units to submit; extraction's sources of one shard travel together."""
    pending = [unit for unit in state.units if unit.status == "pending"]
    if state.stage != "extract":
        return [[(unit.store.reference, unit.index)] for unit in pending]
    shards: dict[tuple[str, int], list[tuple[str, int]]] = {}
    for unit in pending:
        key = (_pass_of(unit.store), unit.index)
        shards.setdefault(key, []).append((unit.store.reference, unit.index))
    return list(shards.values())


def _pass_of(store: Store) -> str:
    """Name what stores must share to be filled by one pass: model and stimulus set."""
    spec = store.spec
    return f"{spec['prepared']['identity']} {spec['stimuli']} {spec['signal']['projection']}"
