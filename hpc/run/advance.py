"""The only stage logic: count commits, seal, plan the next stage, or submit missing units.

`advance` may be called at any time and by any process that holds the run's lock. It never asks
whether a task succeeded; it reads the stores. A scheduler is asked which tasks are still alive,
and why the others have ended.
"""

from collections.abc import Iterable, Mapping
from typing import Literal

from hpc.config.profile import Profile
from hpc.plan.store_plan import StorePlan
from hpc.run.budget import fitted, measured, over_budget, pilots
from hpc.run.drill import read_drill
from hpc.run.folder import RunFolder
from hpc.run.outcomes import escalated, settle_ended
from hpc.run.state import StageState, outdated, run_state, stage_state
from hpc.run.submissions import claimed_by_others, decide, given_up, unsettled
from hpc.run.submit import SubmitOptions, submit
from hpc.slurm.client import Refused
from jobs.runner import Item
from jobs.spec import STAGES, FeaturesSpec, Reference, ScalesSpec, StabilitySpec
from storage_schemas.identity import digest
from storage_schemas.protocol.commit import problems, withdraw
from storage_schemas.protocol.seal import Unsealable, seal
from storage_schemas.protocol.store import Store
from storage_schemas.runs.root import root_lock

ENGINES: dict[str, Literal["serial", "dask"]] = {"encode": "dask"}
"""Stages that run on Dask inside their task; the others run their units one after another."""


def advance(run: RunFolder, profile: Profile) -> dict[str, StageState]:
    """Bring the run one step further and return the state of every stage; the lock is held."""
    settle_ended(run)
    for stage, upstream in STAGES.items():
        if all(_is_sealed(run, name) for name in upstream):
            _advance_stage(run, stage, profile)
    return run_state(run)


def _is_sealed(run: RunFolder, stage: str) -> bool:
    stores = run.stores(stage)
    return bool(stores) and all(store.sealed() for store in stores)


def _advance_stage(run: RunFolder, stage: str, profile: Profile) -> None:
    stores = run.stores(stage)
    if not stores or any(outdated(run, stores)):
        stores = create_stores(run, stage, plan_stage(run, stage))
        # It may show the stores of an earlier plan.
        run.report.unlink(missing_ok=True)
    state = stage_state(run, stage, stores)
    if state.sealed:
        return
    if state.complete:
        _seal_or_withdraw(stores)
        return
    if run.cancelled or any(s.stage == stage for s in unsettled(run)) or given_up(run, stage):
        return
    _submit_missing(run, state, profile)


def _submit_missing(run: RunFolder, state: StageState, profile: Profile) -> None:
    """Submit the units that are not committed, in progress or given to a task of another run."""
    # Locked, so that one of two runs that share units sees what the other submits.
    with root_lock(run.root):
        missing = items(state, claimed_by_others(run, profile.scheduler == "slurm"))
        if not missing:
            return
        asked = escalated(run, state.stage, profile)
        if asked is None:
            return
        if run.pilot or run.max_gpu_hours is not None:
            seconds = measured(run.stores(state.stage))
            first = pilots(missing, seconds)
            if sentence := over_budget(run, state.stage, asked, first or missing, seconds):
                decide(run, state.stage, sentence)
                return
            missing = first or missing
            asked = fitted(asked, missing, seconds)
        engine = ENGINES.get(state.stage, "serial")
        try:
            submit(
                run, state.stage, missing, SubmitOptions(profile.scheduler, asked, engine, run.dask)
            )
        except Refused as error:
            # Recorded: a gate that tried again and again would end without the user hearing of it.
            decide(run, state.stage, f"{error}: mend the profile, then `gradenc resume {run.path}`")
            raise


def _seal_or_withdraw(stores: Iterable[Store]) -> None:
    """Seal stores; the next advance makes units again that fail the deep check."""
    for store in stores:
        try:
            seal(store)
        except Unsealable as error:
            for unit in (store.units[index] for index in error.problems):
                # Checked again: another run that shares the store may have repaired it by now.
                if problems(store, unit, deep=True):
                    withdraw(store, unit)


def plan_stage(run: RunFolder, stage: str) -> list[StorePlan]:
    """Plan a stage whose upstream is sealed."""
    references = sealed_references(run)
    # Planning imports xarray, which a step that plans nothing need not load.
    if run.drill.exists():
        from hpc.plan.drill import drill_plans

        return list(drill_plans(read_drill(run.drill), run.path, stage, references))
    return _plan_study_stage(run, stage, references)


def _plan_study_stage(
    run: RunFolder, stage: str, references: Mapping[str, Reference]
) -> list[StorePlan]:
    if not STAGES[stage]:
        # Only `start` plans these, from the recordings.
        raise ValueError(
            f"a store of stage {stage} was deleted; submit the study again into this run: "
            f"`gradenc submit STUDY --run {run.path}`"
        )
    from hpc.plan.compare import compare_plans
    from hpc.plan.encode import encode_plans
    from hpc.plan.extract import extract_plans
    from hpc.plan.subjects import Targets
    from hpc.study.resolved import Resolved
    from hpc.study.study import Study

    resolved = Resolved.read(run.resolved)
    study = Study.model_validate(resolved.study)
    targets = [Targets.of_store(store) for store in run.stores("ingest")]
    planners = {
        "extract": extract_plans,
        "encode": encode_plans,
        "compare": compare_plans,
    }
    return list(planners[stage](study, resolved, targets, references))


def create_stores(run: RunFolder, stage: str, plans: Iterable[StorePlan]) -> list[Store]:
    """Create a stage's stores and record them in the run."""
    # `gradenc gc` takes this lock too: it must not remove a store before the run records it.
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


def items(state: StageState, claimed: frozenset[tuple[str, int]] = frozenset()) -> list[Item]:
    """Return the items to submit; sources that share the passes of a network form one item.

    Units that are `claimed` (store below the root, index) are left out. Units that were tried come
    last, so that one that kills its task keeps no other waiting.
    """
    pending = sorted(
        (
            unit
            for unit in state.units
            if unit.status == "pending" and (unit.store.reference, unit.index) not in claimed
        ),
        key=lambda unit: unit.tries,
    )
    passes = {store: _pass_of(store) for store in {unit.store for unit in pending}}
    shards: dict[tuple[str, int], list[tuple[str, int]]] = {}
    for unit in pending:
        key = (passes[unit.store], unit.index)
        shards.setdefault(key, []).append((unit.store.reference, unit.index))
    return list(shards.values())


def _pass_of(store: Store) -> str:
    """Return a key that is equal for stores of one pass: same model and images."""
    if store.kind == "features":
        features = FeaturesSpec.model_validate(store.spec)
        return f"features {features.prepared.identity} {features.stimuli}"
    if store.kind == "stability":
        stability = StabilitySpec.model_validate(store.spec)
        images = digest(stability.images.canonical())
        return f"stability {stability.prepared.identity} {images}"
    if store.kind == "scales":
        scales = ScalesSpec.model_validate(store.spec)
        return f"scales {digest([scales.model.canonical(), scales.images.canonical()])}"
    return store.reference
