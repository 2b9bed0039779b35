"""Progress bars of a run, and the message at its end."""

from collections.abc import Mapping

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from hpc.config.profile import Profile
from hpc.run.drive import drive
from hpc.run.folder import RunFolder
from hpc.run.state import StageState, is_complete
from jobs.spec import STAGES
from storage_schemas.protocol.seal import run_digest


def drive_with_bars(run: RunFolder, profile: Profile) -> None:
    """Drive a run and show a bar for each stage; exit status 1 if the run needs a decision."""
    console = Console()
    try:
        states = _drive(run, profile, console)
    except KeyboardInterrupt:
        console.print(f"\n{_left(run, profile)}", highlight=False, soft_wrap=True)
        raise typer.Exit(130) from None
    if not is_complete(states):
        console.print(f"[red]the run needs you:[/red] see `gradenc status {run.path}`")
        raise typer.Exit(1)
    stores = [store for stage in STAGES for store in run.stores(stage)]
    sentence = f"complete; digest of the run: {run_digest(stores)}"
    console.print(sentence, highlight=False, soft_wrap=True)
    if run.report.exists():
        console.print(f"report: {run.report}", highlight=False, soft_wrap=True)


def _left(run: RunFolder, profile: Profile) -> str:
    """Return what became of the tasks of a run whose foreground was interrupted."""
    if profile.scheduler == "slurm":
        return (
            f"left; jobs and gate go on. `gradenc resume {run.path}` follows the run, "
            f"`gradenc cancel {run.path}` ends it."
        )
    return (
        "interrupted; the tasks on this machine are ended, committed units are kept. "
        f"`gradenc resume {run.path}` continues the run."
    )


def _drive(run: RunFolder, profile: Profile, console: Console) -> dict[str, StageState]:
    columns = (
        TextColumn("{task.description:10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as progress:
        bars = {
            stage: progress.add_task(stage, total=None, start=False, note="") for stage in STAGES
        }

        def show(states: Mapping[str, StageState]) -> None:
            for stage, state in states.items():
                _update(progress, bars[stage], state)

        return drive(run, profile, show)


def _update(progress: Progress, bar: TaskID, state: StageState) -> None:
    if not state.planned:
        return
    if not progress.tasks[bar].started:
        progress.start_task(bar)
    failed, running = state.count("failed"), state.count("running")
    note = f"{failed} failed" if failed else f"{running} running" if running else ""
    progress.update(bar, total=len(state.units), completed=state.count("committed"), note=note)
    if state.sealed:
        progress.stop_task(bar)
