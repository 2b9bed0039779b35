"""`gradenc submit`, `resume` and `cancel`."""

from pathlib import Path
from typing import Annotated

import typer

from hpc.cli.arguments import Overrides, ProfileName, RunPath, StudyFile


def submit(
    study: StudyFile,
    run: Annotated[
        Path | None, typer.Option(help="The run's folder [default: runs/<study name>].")
    ] = None,
    overrides: Overrides = [],  # noqa: B006 (typer copies it)
    profile: ProfileName = "local",
    wait: Annotated[bool, typer.Option(help="Stay and drive the run until it ends.")] = True,
) -> None:
    """Check a study, submit what is missing of it and show its progress.

    Submitting the same study twice runs nothing twice.

    Example: `gradenc submit study.yaml --run runs/first`
    """
    from hpc.start import start
    from hpc.study import load_study

    loaded = load_study(study, overrides)
    folder = start(loaded, run or Path("runs") / loaded.name)
    _drive(folder.path, profile, wait)


def resume(
    run: RunPath,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick", help="Check only that files have their sizes, without reading them."
        ),
    ] = False,
    profile: ProfileName = "local",
    wait: Annotated[bool, typer.Option(help="Stay and drive the run until it ends.")] = True,
) -> None:
    """Go on with a run: repair damaged units, try failed ones again, run whatever is missing.

    Every committed byte is read and compared first; `--quick` leaves that to `verify --deep`.

    Example: `gradenc resume runs/first`
    """
    from hpc.advance import withdraw_damaged
    from hpc.folder import RunFolder

    folder = RunFolder.open(run)
    with folder.lock():
        folder.next_round()
        n = withdraw_damaged(folder, deep=not quick)
    if n:
        typer.echo(f"{n} committed unit(s) were damaged and are made again")
    _drive(run, profile, wait)


def cancel(run: RunPath) -> None:
    """Stop a run: its tasks end now, and nothing more is submitted until `gradenc resume`.

    Committed units stay; units being written are done again when the run is resumed.

    Example: `gradenc cancel runs/first`
    """
    from hpc.cancel import cancel_run
    from hpc.folder import RunFolder

    n = cancel_run(RunFolder.open(run))
    typer.echo(f"cancelled: ended {n} task(s); `gradenc resume {run}` goes on from here")


def _drive(path: Path, profile: str, wait: bool) -> None:
    from hpc.drive import drive, step
    from hpc.folder import RunFolder
    from hpc.profile import load_profile

    run = RunFolder.open(path)
    if wait:
        drive(run, load_profile(profile))
    else:
        step(run, load_profile(profile))
        typer.echo(f"submitted: `gradenc status {path}` shows it, `gradenc resume {path}` goes on")
