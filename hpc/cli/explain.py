"""`gradenc verify`, `why` and `explain`: whether files are whole, and the reasons behind units."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import track

from hpc.cli.arguments import RunPath
from hpc.run.folder import RunFolder
from jobs.spec import STAGES

if TYPE_CHECKING:
    from storage_schemas.protocol.store import Store

    Pair = tuple[str, Store | None, Store | None]

_SHOWN = 50
"""Groups of units that `why` lists."""


def verify(
    run: RunPath,
    deep: Annotated[
        bool,
        typer.Option(
            "--deep",
            help="Also read every file, images and recordings too, and compare its checksum.",
        ),
    ] = False,
) -> None:
    """Check every committed unit of a run; exit status 1 if one is damaged.

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
    if deep:
        _refuse_changed_inputs(console, folder)
    console.print(f"{checked} committed unit(s) in {len(stores)} store(s) are whole.")
    if len(stores) and all(store.sealed() for store in stores) and folder.stores("compare"):
        console.print(f"digest of the run: {run_digest(stores)}")


def why(
    run: RunPath,
    unit: Annotated[
        str | None, typer.Argument(help="A unit id; default: all units that are not committed.")
    ] = None,
) -> None:
    """Say what a unit waits for, or why it will not run.

    Example: `gradenc why runs/first 3fa9c1d2e4b5-00003`
    """
    from hpc.inspect.explain import find_unit, missing
    from hpc.inspect.explain import why as reasons

    folder = RunFolder.open(run)
    if unit is not None:
        for sentence in reasons(folder, *find_unit(folder, unit)):
            typer.echo(sentence)
        return
    found = list(missing(folder))
    for group in found[:_SHOWN]:
        n = len(group.units)
        count = "" if n == 1 else f"{n} units of stage {group.stage}, the first is "
        typer.echo(f"{count}{group.first}: {group.next_step}")
    if len(found) > _SHOWN:
        typer.echo(f"and {sum(len(group.units) for group in found[_SHOWN:])} more units")
    if not found:
        typer.echo(
            f"no planned unit is missing; `gradenc status {run}` says which stages are planned"
        )


def explain(
    first: Annotated[Path, typer.Argument(metavar="A", help="The folder of a store or a run.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="The one to compare with.")],
) -> None:
    """Compare two stores, or the stores of two runs: which settings make their identities differ.

    Example: `gradenc explain runs/first runs/second`
    """
    from hpc.inspect.explain import differences

    console = Console(highlight=False, soft_wrap=True)
    for label, one, other in _pairs(first, second):
        if one is None or other is None:
            console.print(f"{label}: only in {first if other is None else second}")
            continue
        if one.identity == other.identity:
            console.print(f"{label}: the same identity, {one.identity[:12]}")
            continue
        console.print(f"{label}: {one.identity[:12]} -> {other.identity[:12]}")
        for sentence in dict.fromkeys(differences(one, other)):
            console.print(f"    {sentence}", markup=False)


def _refuse_changed_inputs(console: Console, run: RunFolder) -> None:
    """Read the run's images and recordings again, and end here if they are not the planned ones."""
    from hpc.inspect.changed_inputs import read_inputs

    inputs = read_inputs(run)
    for folder in inputs.absent:
        console.print(f"{escape(str(folder))} is not here, and its files were not read again.")
    for line in inputs.changed:
        console.print(f"[red]changed since the run was planned:[/red] {escape(line)}")
    if inputs.changed:
        console.print(
            "The stores are whole, but of other files than these: put the old files back, or "
            "submit the study again into a new run."
        )
        raise typer.Exit(1)


def _fail(console: Console, run: Path, found: list[str]) -> NoReturn:
    for problem in found:
        console.print(f"[red]damaged:[/red] {escape(problem)}")
    console.print(f"`gradenc resume {run}` repairs this and touches nothing else.")
    raise typer.Exit(1)


def _pairs(first: Path, second: Path) -> "Iterator[Pair]":
    """Yield (label, store, store), matching the stores of two runs by stage and label."""
    from hpc.inspect.explain import open_store

    if not all((path / "run.json").is_file() for path in (first, second)):
        one, other = open_store(first), open_store(second)
        yield f"{one.label} / {other.label}", one, other
        return
    runs = [RunFolder.open(path) for path in (first, second)]
    for stage in STAGES:
        by_label = [{store.label: store for store in run.stores(stage)} for run in runs]
        for label in dict.fromkeys([*by_label[0], *by_label[1]]):
            yield f"{stage}/{label}", by_label[0].get(label), by_label[1].get(label)
