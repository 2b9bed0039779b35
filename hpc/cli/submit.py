"""`gradenc submit`, `resume`, `cancel` of a study's run, and `gradenc drill` to try a cluster."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hpc.cli.arguments import (
    DaskAddress,
    MaxGpuHours,
    Notify,
    Overrides,
    Pilot,
    ProfileName,
    RunPath,
    StudyFile,
    Wait,
)

if TYPE_CHECKING:
    from hpc.config.profile import Profile
    from hpc.run.folder import RunFolder
    from jobs.drill import Fault


def submit(
    study: StudyFile,
    run: Annotated[
        Path | None, typer.Option(help="The run's folder [default: runs/<study name>].")
    ] = None,
    overrides: Overrides = [],  # noqa: B006 (typer copies it)
    profile: ProfileName = "local",
    wait: Wait = True,
    notify: Notify = None,
    dask: DaskAddress = None,
    pilot: Pilot = False,
    max_gpu_hours: MaxGpuHours = None,
) -> None:
    """Check a study, submit its missing units and show their progress.

    Submitting a study again runs no unit twice. On a cluster the run goes on when you log out.

    Example: `gradenc submit study.yaml --run runs/first`
    """
    from hpc.config.profile import load_profile
    from hpc.study.study import load_study

    # Files with mistakes are refused before torch is imported, which takes seconds.
    loaded, how = load_study(study, overrides), load_profile(profile)
    from hpc.run.start import start

    folder = start(loaded, run or Path("runs") / loaded.name, how)
    with folder.lock():
        folder.change(notify=notify, dask=dask, pilot=pilot, max_gpu_hours=max_gpu_hours)
    drive_on(folder, how, wait)


def resume(
    run: RunPath,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Compare only the sizes of files, without reading them."),
    ] = False,
    only: Annotated[
        list[str],
        typer.Option(
            help="Try only these failed units again: a unit's id, a stage or a class of failure, "
            "as status prints them; repeatable."
        ),
    ] = [],  # noqa: B006 (typer copies it)
    profile: Annotated[
        str | None,
        typer.Option("--profile", help="Another profile [default: the one it was submitted with]."),
    ] = None,
    wait: Wait = True,
    notify: Notify = None,
    dask: DaskAddress = None,
    max_gpu_hours: MaxGpuHours = None,
) -> None:
    """Continue a run: repair damaged units, try failed ones again, run missing ones.

    Every committed byte is read and compared first; `--quick` leaves that to `verify --deep`. With
    `--only`, units that failed and are not named stay as they are.

    Example: `gradenc resume runs/first --only extract --only 3fa9c1d2e4b5-00003`
    """
    from rich.progress import track

    from hpc.config.profile import load_profile
    from hpc.run.folder import RunFolder
    from hpc.run.resume import resume as repair

    folder = RunFolder.open(run)
    how = folder.profile() if profile is None else load_profile(profile)
    repairs = repair(
        folder,
        only,
        {"notify": notify, "dask": dask, "max_gpu_hours": max_gpu_hours},
        deep=not quick,
        each=partial(track, description="checking stores", transient=True),
    )
    for file in repairs.files:
        typer.echo(f"put back {file}")
    if repairs.units:
        typer.echo(f"{repairs.units} committed unit(s) were damaged and are made again")
    drive_on(folder, how, wait)


def cancel(run: RunPath) -> None:
    """Stop a run: its tasks end now, and nothing is submitted before `gradenc resume`.

    Committed units are kept; units that were being computed start again with `resume`.

    Example: `gradenc cancel runs/first`
    """
    from hpc.run.cancel import cancel_run
    from hpc.run.folder import RunFolder

    n = cancel_run(RunFolder.open(run))
    typer.echo(f"cancelled: ended {n} task(s); `gradenc resume {run}` goes on from here")


def drive_on(run: "RunFolder", profile: "Profile", wait: bool) -> None:
    """Drive a run in the foreground, or take the first step and leave."""
    from hpc.cli.progress import drive_with_bars
    from hpc.run.drive import step

    run.keep_profile(profile)
    if wait:
        drive_with_bars(run, profile)
        return
    step(run, profile)
    typer.echo(f"submitted: `gradenc status {run.path}` shows it")
    if profile.scheduler == "local":
        typer.echo(f"`gradenc resume {run.path}` goes on to the next stages")


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
