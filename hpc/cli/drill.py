"""`gradenc drill`: a run whose units compute nothing, to try a cluster before a study."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hpc.cli.arguments import MaxGpuHours, Notify, Pilot, ProfileName, Wait

if TYPE_CHECKING:
    from jobs.drill import Fault


def drill(
    run: Annotated[Path, typer.Argument(help="The drill's folder.", metavar="RUN")],
    profile: ProfileName = "local",
    units: Annotated[
        int, typer.Option(help="Number of units in each of the stages extract and encode.")
    ] = 8,
    seconds: Annotated[float, typer.Option(help="Duration of each unit (s).")] = 1.0,
    fault: Annotated[
        list[str],
        typer.Option(
            help="Let a unit fail, as STAGE:UNIT:KIND with KIND one of kill, memory, gpu_memory, "
            "error, hang, torn; repeatable. hang and torn take the whole time limit of the task."
        ),
    ] = [],  # noqa: B006 (typer copies it)
    root: Annotated[Path | None, typer.Option(help="The store root [default: RUN/stores].")] = None,
    wait: Wait = True,
    notify: Notify = None,
    pilot: Pilot = False,
    max_gpu_hours: MaxGpuHours = None,
) -> None:
    """Try a profile with units that compute nothing: submission, commits, gates, and failures.

    All stages run as in a study. The digest at the end is the same with and without failures.

    Example: `gradenc drill drills/first --profile dev --fault extract:3:kill`
    """
    from hpc.cli.submit import drive_on
    from hpc.config.profile import load_profile
    from hpc.run.drill import start_drill
    from jobs.drill import Drill
    from jobs.spec import STAGES

    counts = {stage: units if stage in ("extract", "encode") else 1 for stage in STAGES}
    wanted = Drill(units=counts, seconds=seconds, faults=tuple(map(_fault, fault)))
    how = load_profile(profile)
    folder = start_drill(run, wanted, root)
    with folder.lock():
        folder.change(notify=notify, pilot=pilot, max_gpu_hours=max_gpu_hours)
    drive_on(folder, how, wait)


def _fault(text: str) -> "Fault":
    from pydantic import ValidationError

    from jobs.drill import ACCIDENTS, Fault

    stage, _, rest = text.partition(":")
    unit, _, kind = rest.partition(":")
    try:
        return Fault.model_validate({"stage": stage, "unit": unit, "accident": kind})
    except ValidationError as error:
        raise ValueError(
            f"--fault {text}: accepted: STAGE:UNIT:KIND, e.g. extract:3:kill, with KIND one of "
            f"{', '.join(ACCIDENTS)}"
        ) from error
