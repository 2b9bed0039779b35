"""A drill: a run whose units compute nothing, to try a cluster, a profile and every way to fail."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from hpc.plan.store_plan import StorePlan
from hpc.run.folder import RunFolder
from jobs.drill import Drill
from jobs.spec import STAGES, DrillSpec, Reference
from storage_schemas.files import write_exclusive
from storage_schemas.identity import canonical_json
from storage_schemas.kinds import layouts as kinds


def start_drill(path: Path, drill: Drill, root: Path | None = None) -> RunFolder:
    """Create the run of a drill, or open it if it is the same drill's.

    Raises
    ------
    ValueError
        If the folder holds another run, or a drill with other units.
    """
    run = RunFolder.create(path, "drill", root, drill.units)
    if run.resolved.exists():
        raise ValueError(f"{path} holds the run of a study; give the drill a folder of its own")
    if not write_exclusive(run.drill, canonical_json(drill.model_dump(mode="json"))):
        if read_drill(run) != drill:
            raise ValueError(f"{path} holds another drill; give this one a folder of its own")
        with run.lock():
            run.next_round()
    return run


def read_drill(run: RunFolder) -> Drill:
    """Read what the units of a drill do."""
    return Drill.model_validate_json(run.drill.read_bytes())


def drill_plans(
    run: RunFolder, stage: str, references: Mapping[str, Reference]
) -> Iterator[StorePlan]:
    """Plan one stage of a drill: one store, built on those of the stages it waits for."""
    drill = read_drill(run)
    spec = DrillSpec(
        stage=stage,
        units=drill.units[stage],
        values=drill.values,
        seed=drill.seed,
        upstream=tuple(references[f"{name}/drill"] for name in STAGES[stage]),
    )
    layout = kinds.drill(drill.units[stage], drill.values)
    yield StorePlan(
        stage, "drill", "drill", spec, layout, {"stage": stage}, {"drill": str(run.path.resolve())}
    )
