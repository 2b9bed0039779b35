"""`gradenc verify`: whether the committed units are what their records say."""

from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import track

from hpc.cli.arguments import RunPath
from hpc.run.folder import RunFolder
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
    from hpc.run.state import outdated
    from storage_schemas.protocol.commit import problems
    from storage_schemas.protocol.seal import claimed_units, run_digest
    from storage_schemas.runs.run import stores_problems

    folder = RunFolder.open(run)
    console = Console(highlight=False, soft_wrap=True)
    # First: a store whose plan is damaged cannot be opened.
    if found := stores_problems(run):
        _fail(console, run, found)
    stores = [store for stage in STAGES for store in folder.stores(stage)]
    checked = 0
    for store in track(stores, description="verifying", console=console, transient=True):
        wanted = claimed_units(store)
        checked += len(wanted)
        found += [p for unit in wanted for p in problems(store, unit, deep=deep)]
    found += outdated(folder, stores)
    if found:
        _fail(console, run, found)
    console.print(f"{checked} committed unit(s) in {len(stores)} store(s) are whole.")
    if len(stores) and all(store.sealed() for store in stores) and folder.stores("compare"):
        console.print(f"digest of the run: {run_digest(stores)}")


def _fail(console: Console, run: Path, found: list[str]) -> NoReturn:
    for problem in found:
        console.print(f"[red]damaged:[/red] {escape(problem)}")
    console.print(f"`gradenc resume {run}` repairs this and touches nothing else.")
    raise typer.Exit(1)
