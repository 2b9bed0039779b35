"""`gradenc logs`: what happened to one unit."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from hpc.cli.arguments import RunPath
from hpc.folder import RunFolder
from jobs.spec import STAGES
from storage_schemas.attempts import attempts_of
from storage_schemas.store import Store


def logs(
    run: RunPath,
    unit: Annotated[
        str | None,
        typer.Argument(help="A unit id, as status prints it; default: all failed."),
    ] = None,
) -> None:
    """Show the attempts at a unit with their errors, tracebacks and log files.

    Example: `gradenc logs runs/first 3fa9c1d2e4b5-00003`
    """
    folder = RunFolder.open(run)
    console = Console(highlight=False, markup=False)
    found = False
    for store, index in _units(folder, unit):
        found = True
        for attempt in attempts_of(store, index):
            console.print(
                f"{attempt['unit']} {store.label}: attempt {attempt['n']} by {attempt['job']} on "
                f"{attempt['host']} from {attempt['started']}: {attempt['outcome']}"
            )
            if attempt.get("traceback"):
                console.print(attempt["traceback"])
            for path in _log_files(folder, str(attempt["job"])):
                console.print(f"    log: {path}")
    if not found:
        console.print(
            f"no unit {unit} in {run}; `gradenc status {run}` names units"
            if unit
            else "no unit has failed"
        )
        raise typer.Exit(1 if unit else 0)


def _units(folder: RunFolder, unit: str | None) -> list[tuple[Store, int]]:
    from hpc.state import run_state

    if unit is None:
        states = run_state(folder).values()
        return [(u.store, u.index) for s in states for u in s.units if u.status == "failed"]
    prefix, _, index = unit.rpartition("-")
    stores = [store for stage in STAGES for store in folder.stores(stage)]
    return [(s, int(index)) for s in stores if prefix and s.identity.startswith(prefix)]


def _log_files(folder: RunFolder, job: str) -> list[Path]:
    return sorted((folder.path / "submissions").glob(f"*/log/{job}_*_log.*"))
