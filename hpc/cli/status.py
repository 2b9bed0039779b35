"""`gradenc status`: how far a run is, what failed, and what it waits for."""

import json
import time
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from hpc.cli.arguments import AsJson, RunPath
from hpc.run.folder import RunFolder

if TYPE_CHECKING:
    from hpc.inspect.status import Sight, StageSight
    from hpc.run.state import Status

COUNTS: tuple["Status", ...] = ("committed", "running", "failed", "pending")
LOOK_AGAIN_S = {False: 3.0, True: 15.0}
"""How often `--watch` looks: on a cluster (True) its controller serves others too."""


def status(
    run: RunPath,
    watch: Annotated[
        bool, typer.Option("--watch", help="Look again and again until the run ends.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show how far each stage is, how fast it goes, what failed and why, and who is at work.

    The stores are read and SLURM's queue is asked once; without an answer the rest is shown. The
    keys of `--json` stand in `docs/seeing.md`.

    Example: `gradenc status runs/first --watch`
    """
    from hpc.inspect.status import look

    folder = RunFolder.open(run)
    if watch and as_json:
        raise ValueError("--json prints one object, --watch none: give one of them")
    if as_json:
        typer.echo(json.dumps(as_object(look(folder))))
        return
    console = Console()
    if watch:
        _watch(folder, console)
        return
    sight = look(folder)
    console.print(_table(sight))
    for line in _lines(sight):
        console.print(line, highlight=False, soft_wrap=True)


def as_object(sight: "Sight") -> dict[str, Any]:
    """Return what `--json` prints (see docs/seeing.md)."""
    gate = sight.queued.gate
    return {
        "run": str(sight.run.path),
        "name": sight.run.name,
        "state": sight.phase,
        "queue": {
            "scheduler": "slurm" if sight.on_slurm else "local",
            "problem": sight.queued.problem,
            "gate": gate and {"job_id": gate.job_id, "state": gate.state, "reason": gate.reason},
        },
        "stages": {name: _stage_object(stage) for name, stage in sight.stages.items()},
        "failures": [
            {
                "stage": group.stage,
                "class": group.failure,
                "fingerprint": group.fingerprint,
                "units": group.units,
                "error": group.error,
                "example": group.example,
            }
            for group in sight.failures
        ],
        "ended": [
            {"stage": e.stage, "class": e.failure, "tasks": e.tasks, "sentence": e.sentence}
            for e in sight.ended
        ],
    }


def _stage_object(stage: "StageSight") -> dict[str, Any]:
    state = stage.state
    return {
        "planned": state.planned,
        "sealed": state.sealed,
        "units": len(state.units),
        **{name: state.count(name) for name in COUNTS},
        "failures": dict(state.failures),
        "tasks": {"running": stage.running, "waiting": dict(stage.waiting)},
        "units_per_hour": stage.units_per_hour,
        "expected_end": stage.expected_end and _moment(stage.expected_end).isoformat(),
        "gpu_hours": stage.gpu_hours,
        "decision": stage.decision,
    }


def _watch(folder: RunFolder, console: Console) -> None:
    from hpc.inspect.status import ENDED, look

    try:
        with Live(console=console, auto_refresh=False) as live:
            while True:
                sight = look(folder)
                lines = [Text.from_markup(line) for line in _lines(sight)]
                live.update(Group(_table(sight), *lines), refresh=True)
                if sight.phase in ENDED:
                    return
                time.sleep(LOOK_AGAIN_S[sight.on_slurm])
    except KeyboardInterrupt:
        return


def _table(sight: "Sight") -> Table:
    """Return the stages as a table; columns that are empty for all of them are left out."""
    stages = sight.stages.values()
    columns = {
        "stage": [*sight.stages],
        **{str(name): [_count(stage, name) for stage in stages] for name in COUNTS},
        "units/h": [_number(stage.units_per_hour) for stage in stages],
        "expected end": [_end(stage.expected_end) for stage in stages],
        "GPU h": [_number(stage.gpu_hours) for stage in stages],
        "state": [_word(stage) for stage in stages],
    }
    table = Table(title=f"{sight.run.name}: {sight.phase}", box=SIMPLE_HEAD, padding=(0, 1))
    shown = {name: cells for name, cells in columns.items() if any(cells)}
    for name in shown:
        table.add_column(name, justify="left" if name in ("stage", "state") else "right")
    for row in zip(*shown.values(), strict=True):
        table.add_row(*row)
    return table


def _count(stage: "StageSight", name: "Status") -> str:
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
    return f"{_moment(moment):{'%a ' if hours >= 12 else ''}%H:%M}, {left}"


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds).astimezone()


def _word(stage: "StageSight") -> str:
    if stage.state.sealed:
        return "sealed"
    return "open" if stage.state.planned else "waits"


def _lines(sight: "Sight") -> list[str]:
    """Return what stands below the table, in rich's markup."""
    run = escape(str(sight.run.path))
    lines = [
        f"[red]{f.stage}: {f.units} unit(s) failed[/red] ({f.failure}): {escape(f.error)}\n"
        f"    see `gradenc logs {run} {f.example}`"
        for f in sight.failures
    ]
    lines += [f"{name}: {_tasks(stage)}" for name, stage in sight.stages.items() if _tasks(stage)]
    lines += [f"{e.stage}: {escape(e.sentence)}" for e in sight.ended]
    lines += [
        f"[red]{name}:[/red] {escape(stage.decision)}\n    see `gradenc logs {run}`"
        for name, stage in sight.stages.items()
        if stage.decision
    ]
    if sight.queued.problem:
        lines.append(f"[red]the queue could not be asked:[/red] {escape(sight.queued.problem)}")
    return [*lines, *_outlook(sight, run)]


def _tasks(stage: "StageSight") -> str:
    waiting = stage.waiting.total()
    reasons = ", ".join(f"{reason} {n}" for reason, n in stage.waiting.most_common(3))
    told = {"at work": stage.running, f"waiting ({escape(reasons)})": waiting}
    return ", ".join(f"{n} task(s) {what}" for what, n in told.items() if n)


def _outlook(sight: "Sight", run: str) -> list[str]:
    """Say what happens next to a run that is not complete."""
    from hpc.inspect.status import Phase

    if sight.phase is Phase.CANCELLED:
        return [f"The run is cancelled; `gradenc resume {run}` goes on."]
    if sight.phase is Phase.NEEDS_YOU:
        return [f"When that is mended, `gradenc resume {run}` goes on."]
    if sight.phase is Phase.IDLE and not sight.on_slurm:
        return [
            f"no task is at work: unless `submit` or `resume` drives the run in another terminal, "
            f"`gradenc resume {run}` goes on"
        ]
    if not sight.on_slurm or sight.queued.problem or sight.phase is Phase.COMPLETE:
        return []
    if sight.queued.gate is None:
        return [
            f"[red]no gate is alive:[/red] nothing will go on by itself; `gradenc resume {run}` "
            "starts one"
        ]
    return []
