"""Start a run: resolve the study once and plan the stages that wait for nothing."""

from collections import Counter
from pathlib import Path

from hpc.config.profile import Profile
from hpc.forecast.memory import check_memory
from hpc.plan.stages import all_plans
from hpc.run.advance import create_stores
from hpc.run.folder import RunFolder
from hpc.study.resolve import resolve
from hpc.study.resolved import Resolved
from hpc.study.study import Study, anchored, dump_study


def start(study: Study, path: Path, profile: Profile | None = None) -> RunFolder:
    """Create the run of a study, or open it if it is the same study's.

    Parameters
    ----------
    profile : Profile, optional
        How the run will be submitted; if given, the memory of its processes is checked.

    Raises
    ------
    ValueError
        If a process's memory is too small, or the folder holds a run of another study, or
        of stimuli or models that have changed.
    """
    resolved, subjects = resolve(study)
    units: Counter[str] = Counter()
    plans = all_plans(study, resolved, subjects)
    for plan in plans:
        units[plan.stage] += len(plan.layout.units)
    if profile is not None:
        check_memory(study, resolved, plans, profile)
    root = study.folder / study.store_root if study.store_root else None
    run = RunFolder.create(path, study.name, root, units)
    with run.lock():
        if not run.resolved.exists():
            (path / "study.yaml").write_text(dump_study(anchored(study)))
            resolved.write(run.resolved)
        elif _wherever(Resolved.read(run.resolved)) != _wherever(resolved):
            raise ValueError(
                f"{path} holds the run of another version of this study (its file, its stimuli or "
                "its models differ); give this one a folder of its own with --run"
            )
        else:
            # Submitted again: units that failed, or whose tasks were killed, get new tries.
            run.next_round()
        if not (run.stores("prepare") and run.stores("ingest")):
            for stage in ("prepare", "ingest"):
                create_stores(run, stage, [plan for plan in plans if plan.stage == stage])
    return run


def _wherever(resolved: Resolved) -> Resolved:
    """Return the resolved study without its file's folder, on which no path in it depends."""
    return resolved.model_copy(update={"study": resolved.study | {"paths_from": None}})
