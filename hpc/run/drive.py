"""Drive a run from the foreground, with live progress, until it is complete or needs the user."""

from time import monotonic, sleep

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
from hpc.run.advance import advance
from hpc.run.folder import RunFolder
from hpc.run.notify import notify
from hpc.run.state import StageState, is_complete, is_stuck
from jobs.spec import STAGES
from storage_schemas.protocol.seal import run_digest

POLL_S = {"local": 0.5, "slurm": 10.0}
"""How often the foreground looks: a cluster's controller serves others too."""
REST = 4
"""It rests so many times as long as a look takes: one at 100,000 units takes seconds. Of two steps
in a row the shorter is taken for the look: the longer may have planned and submitted a stage."""


def step(run: RunFolder, profile: Profile) -> dict[str, StageState]:
    """Advance the run once; write its report when it is complete, and tell who wants to know."""
    states = advance(run, profile)
    if is_complete(states):
        if not run.report.exists() and not run.drill.exists():
            from jobs.report.page import write_report

            write_report(run.path, run.report)
        notify(run, f"{run.path} is complete")
    elif is_stuck(run, states) and not run.cancelled:
        notify(run, f"{run.path} needs you: see `gradenc status {run.path}`")
    return states


def drive(run: RunFolder, profile: Profile) -> None:
    """Advance the run until it is complete; exit status 1 if it needs a decision."""
    console = Console()
    try:
        states = _follow(run, profile, console)
    except KeyboardInterrupt:
        console.print(
            f"\nleft; started tasks go on. `gradenc resume {run.path}` drives the run on, "
            f"`gradenc cancel {run.path}` ends it."
        )
        raise typer.Exit(130) from None
    if not is_complete(states):
        console.print(f"[red]the run needs you:[/red] see `gradenc status {run.path}`")
        raise typer.Exit(1)
    stores = [store for stage in STAGES for store in run.stores(stage)]
    console.print(f"complete; digest of the run: {run_digest(stores)}", highlight=False)
    if run.report.exists():
        console.print(f"report: {run.report}", highlight=False, soft_wrap=True)


def _follow(run: RunFolder, profile: Profile, console: Console) -> dict[str, StageState]:
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
        took = 0.0
        while True:
            began, before = monotonic(), took
            states = step(run, profile)
            took = monotonic() - began
            for stage, state in states.items():
                _show(progress, bars[stage], state)
            if is_complete(states) or is_stuck(run, states):
                return states
            sleep(max(POLL_S[profile.scheduler], REST * min(took, before)))


def _show(progress: Progress, bar: TaskID, state: StageState) -> None:
    if not state.planned:
        return
    if not progress.tasks[bar].started:
        progress.start_task(bar)
    failed, running = state.count("failed"), state.count("running")
    note = f"{failed} failed" if failed else f"{running} running" if running else ""
    progress.update(bar, total=len(state.units), completed=state.count("committed"), note=note)
    if state.sealed:
        progress.stop_task(bar)
