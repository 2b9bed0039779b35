"""`gradenc status`: how far a run is, what failed, and what it waits for."""

import json
import time
from datetime import datetime
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from hpc.cli.arguments import AsJson, RunPath
from hpc.inspect.status import (
    COUNTS,
    ENDED,
    Phase,
    RunStatus,
    StageStatus,
    as_object,
    run_status,
)
from hpc.run.folder import RunFolder
from hpc.run.state import Status

_LOOK_AGAIN_S = {False: 3.0, True: 15.0}
"""Pause between two looks of `--watch` (s): longer on SLURM (True), whose controller is shared."""


def status(
    run: RunPath,
    watch: Annotated[
        bool, typer.Option("--watch", help="Refresh the table until the run ends.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show how far each stage is, how fast it goes, what failed and why, and which tasks run.

    SLURM's queue is asked once; if it does not answer, everything else is shown. `docs/seeing.md`
    explains the keys of `--json`.

    Example: `gradenc status runs/first --watch`
    """
    folder = RunFolder.open(run)
    if watch and as_json:
        raise ValueError("--json prints one object, --watch none: give one of them")
    if as_json:
        typer.echo(json.dumps(as_object(run_status(folder))))
        return
    console = Console()
    if watch:
        _watch(folder, console)
        return
    found = run_status(folder)
    console.print(_table(found))
    for line in _lines(found):
        console.print(line, highlight=False, soft_wrap=True)


def _watch(folder: RunFolder, console: Console) -> None:
    try:
        with Live(console=console, auto_refresh=False) as live:
            while True:
                found = run_status(folder)
                lines = [Text.from_markup(line) for line in _lines(found)]
                live.update(Group(_table(found), *lines), refresh=True)
                if found.phase in ENDED:
                    return
                time.sleep(_LOOK_AGAIN_S[found.on_slurm])
    except KeyboardInterrupt:
        return


def _table(found: RunStatus) -> Table:
    """Return the stages as a table; columns that are empty for all of them are left out."""
    stages = found.stages.values()
    columns = {
        "stage": [*found.stages],
        **{str(name): [_count(stage, name) for stage in stages] for name in COUNTS},
        "units/h": [_number(stage.units_per_hour) for stage in stages],
        "expected end": [_end(stage.expected_end) for stage in stages],
        "GPU h": [_number(stage.gpu_hours) for stage in stages],
        "state": [_word(stage) for stage in stages],
    }
    table = Table(title=f"{found.run.name}: {found.phase}", box=SIMPLE_HEAD, padding=(0, 1))
    shown = {name: cells for name, cells in columns.items() if any(cells)}
    for name in shown:
        table.add_column(name, justify="left" if name in ("stage", "state") else "right")
    for row in zip(*shown.values(), strict=True):
        table.add_row(*row)
    return table


def _count(stage: StageStatus, name: Status) -> str:
    n = stage.state.count(name)
    if name == "committed" and stage.state.planned:
        return f"{n}/{len(stage.state.units)}"
    return str(n or "")


def _number(value: float | None) -> str:
    return f"{value:.0f}" if value and value >= 10 else f"{value:.2g}" if value else ""


def _end(moment: float | None) -> str:
    if moment is None:
        return ""
    hours, minutes = divmod(max(1, round((moment - time.time()) / 60)), 60)
    left = f"{hours} h {minutes:02d}" if hours else f"{minutes} min"
    return f"{datetime.fromtimestamp(moment):{'%a ' if hours >= 12 else ''}%H:%M}, {left}"


def _word(stage: StageStatus) -> str:
    if stage.state.sealed:
        return "sealed"
    return "open" if stage.state.planned else "waits"


def _lines(found: RunStatus) -> list[str]:
    """Return the lines below the table, in rich's markup."""
    run = escape(str(found.run.path))
    lines = [
        f"[red]{f.stage}: {f.units} unit(s) failed[/red] ({f.failure}): {escape(f.error)}\n"
        f"    see `gradenc logs {run} {f.example}`"
        for f in found.failures
    ]
    lines += [f"{name}: {_tasks(stage)}" for name, stage in found.stages.items() if _tasks(stage)]
    lines += [f"{e.stage}: {escape(e.sentence)}" for e in found.ended]
    lines += [
        f"[red]{name}:[/red] {escape(stage.decision)}\n    see `gradenc logs {run}`"
        for name, stage in found.stages.items()
        if stage.decision
    ]
    lines += [f"[yellow]{escape(warning)}[/yellow]" for warning in found.warnings]
    if found.queued.problem:
        lines.append(f"[red]the queue could not be asked:[/red] {escape(found.queued.problem)}")
    return [*lines, *_outlook(found, run)]


def _tasks(stage: StageStatus) -> str:
    waiting = stage.waiting.total()
    reasons = ", ".join(f"{reason} {n}" for reason, n in stage.waiting.most_common(3))
    told = {"at work": stage.running, f"waiting ({escape(reasons)})": waiting}
    return ", ".join(f"{n} task(s) {what}" for what, n in told.items() if n)


def _outlook(found: RunStatus, run: str) -> list[str]:
    """Return what happens next to a run that is not complete."""
    if found.phase is Phase.CANCELLED:
        return [f"The run is cancelled; `gradenc resume {run}` goes on."]
    if found.phase is Phase.NEEDS_YOU:
        return [f"When that is mended, `gradenc resume {run}` goes on."]
    if found.phase is Phase.IDLE and not found.on_slurm:
        return [
            f"no task is at work: unless `submit` or `resume` drives the run in another terminal, "
            f"`gradenc resume {run}` goes on"
        ]
    if not found.on_slurm or found.queued.problem or found.phase is Phase.COMPLETE:
        return []
    if found.queued.gate is None:
        return [
            f"[red]no gate is alive:[/red] nothing will go on by itself; `gradenc resume {run}` "
            "starts one"
        ]
    return []
