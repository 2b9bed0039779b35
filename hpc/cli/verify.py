"""`gradenc verify`: whether the committed units are what their records say."""

from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track

from hpc.cli.arguments import RunPath
from hpc.folder import RunFolder
from jobs.spec import STAGES


def verify(
    run: RunPath,
    deep: Annotated[
        bool, typer.Option("--deep", help="Also read every file and compare its checksum.")
    ] = False,
) -> None:
    """Check every committed unit of a run; names those that are damaged, exit status 1 if any.

    Example: `gradenc verify --deep demo/run`
    """
    from storage_schemas.commit import committed_units, problems
    from storage_schemas.seal import run_digest

    folder = RunFolder.open(run)
    console = Console(highlight=False)
    stores = [store for stage in STAGES for store in folder.stores(stage)]
    found: list[str] = []
    checked = 0
    for store in track(stores, description="verifying", console=console, transient=True):
        committed = committed_units(store)
        checked += len(committed)
        wanted = store.units if store.sealed() else [store.units[i] for i in sorted(committed)]
        found += [p for unit in wanted for p in problems(store, unit, deep=deep)]
    for problem in found:
        console.print(f"[red]damaged:[/red] {problem}")
    if found:
        console.print(f"`gradenc resume {run}` repairs these units and touches nothing else.")
        raise typer.Exit(1)
    console.print(f"{checked} committed unit(s) in {len(stores)} store(s) are whole.")
    if len(stores) and all(store.sealed() for store in stores) and folder.stores("compare"):
        console.print(f"digest of the run: {run_digest(stores)}")
