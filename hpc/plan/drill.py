"""Plans the stores of a drill, a run whose units compute nothing."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from hpc.plan.store_plan import StorePlan
from jobs.drill import Drill
from jobs.spec import STAGES, DrillSpec, Reference
from storage_schemas.kinds.drill import drill_layout


def drill_plans(
    drill: Drill, folder: Path, stage: str, references: Mapping[str, Reference]
) -> Iterator[StorePlan]:
    """Plan one stage of a drill: one store, built on those of the stages it waits for.

    Parameters
    ----------
    drill : Drill
    folder : Path
        The run's folder, where units leave marks of the accidents they had.
    stage : str
    references : mapping
        The sealed stores of the earlier stages by ``<stage>/<label>``.
    """
    spec = DrillSpec(
        stage=stage,
        units=drill.units[stage],
        values=drill.values,
        seed=drill.seed,
        upstream=tuple(references[f"{name}/drill"] for name in STAGES[stage]),
    )
    layout = drill_layout(drill.units[stage], drill.values)
    yield StorePlan(
        stage, "drill", "drill", spec, layout, {"stage": stage}, {"drill": str(folder.resolve())}
    )
