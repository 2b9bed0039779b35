"""`gradenc why` and `gradenc explain`: the reasons behind units and identities."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from hpc.cli.arguments import RunPath

if TYPE_CHECKING:
    from storage_schemas.protocol.store import Store

    Pair = tuple[str, Store | None, Store | None]


SHOWN = 50


def why(
    run: RunPath,
    unit: Annotated[
        str | None, typer.Argument(help="A unit id; default: all units that are not committed.")
    ] = None,
) -> None:
    """Say why a unit will or will not run.

    Example: `gradenc why runs/first 3fa9c1d2e4b5-00003`
    """
    from hpc.inspect.explain import find_unit, missing
    from hpc.inspect.explain import why as reasons
    from hpc.run.folder import RunFolder

    folder = RunFolder.open(run)
    if unit is not None:
        for sentence in reasons(folder, *find_unit(folder, unit)):
            typer.echo(sentence)
        return
    found = list(missing(folder))
    for store, one, next_step in found[:SHOWN]:
        typer.echo(f"{store.unit_id(one)} {store.label} {one.label}: {next_step}")
    if len(found) > SHOWN:
        typer.echo(f"and {len(found) - SHOWN} more")
    if not found:
        typer.echo("no planned unit is missing; `gradenc status` says which stages are planned")


def explain(
    first: Annotated[Path, typer.Argument(metavar="A", help="A store's folder, or a run's.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Another.")],
) -> None:
    """Say why two stores, or the stores of two runs, have different identities.

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


def _pairs(first: Path, second: Path) -> "Iterator[Pair]":
    """Yield (label, store, store), matching the stores of two runs by stage and label."""
    from hpc.inspect.explain import open_store
    from hpc.run.folder import RunFolder
    from jobs.spec import STAGES

    if not all((path / "run.json").is_file() for path in (first, second)):
        one, other = open_store(first), open_store(second)
        yield f"{one.label} / {other.label}", one, other
        return
    runs = [RunFolder.open(path) for path in (first, second)]
    for stage in STAGES:
        by_label = [{store.label: store for store in run.stores(stage)} for run in runs]
        for label in dict.fromkeys([*by_label[0], *by_label[1]]):
            yield f"{stage}/{label}", by_label[0].get(label), by_label[1].get(label)
