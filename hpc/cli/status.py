"""`gradenc status`: how far a run is, and what failed."""

import json

import typer
from rich.console import Console
from rich.table import Table

from hpc.cli.arguments import AsJson, RunPath
from hpc.folder import RunFolder
from hpc.state import StageState, run_state
from hpc.submissions import given_up


def status(run: RunPath, as_json: AsJson = False) -> None:
    """Show how many units of each stage are committed, running, failed or pending, and why.

    Example: `gradenc status runs/first --json`
    """
    folder = RunFolder.open(run)
    states = run_state(folder)
    if as_json:
        typer.echo(json.dumps({name: _summary(state) for name, state in states.items()}))
        return
    console = Console()
    console.print(_table(folder.name, states))
    for state in states.values():
        for error, n in state.failures.items():
            example = next(u.unit_id for u in state.units if str(u.error) == error)
            console.print(
                f"[red]{state.stage}: {n} unit(s) failed:[/red] {error}\n"
                f"    see `gradenc logs {run} {example}`, then `gradenc resume {run}`",
                highlight=False,
                soft_wrap=True,
            )
        why_not = given_up(folder, state.stage)
        if why_not and state.count("pending"):
            console.print(
                f"[red]{state.stage}:[/red] {why_not}; then `gradenc resume {run}`",
                highlight=False,
                soft_wrap=True,
            )
    if folder.cancelled:
        console.print(f"The run is cancelled; `gradenc resume {run}` goes on.")


def _table(name: str, states: dict[str, StageState]) -> Table:
    table = Table(title=name)
    for column in ("stage", "committed", "running", "failed", "pending", "state"):
        table.add_column(column, justify="left" if column in ("stage", "state") else "right")
    for state in states.values():
        numbers = [str(state.count(s)) for s in ("committed", "running", "failed", "pending")]
        table.add_row(state.stage, *(numbers if state.planned else "····"), _word(state))
    return table


def _word(state: StageState) -> str:
    if state.sealed:
        return "sealed"
    return "in progress" if state.planned else "waits for earlier stages"


def _summary(state: StageState) -> dict[str, object]:
    counts = {s: state.count(s) for s in ("committed", "running", "failed", "pending")}
    return {
        "planned": state.planned,
        "sealed": state.sealed,
        "units": len(state.units),
        **counts,
        "failures": dict(state.failures),
    }
