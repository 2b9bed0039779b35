"""`gradenc du` and `gc`: the stores of a root with their sizes, and those that no run uses."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from hpc.cli.arguments import AsJson
from storage_schemas.runs.root import Entry, entries, forget, register, remove, root_lock
from storage_schemas.runs.run import read_run

_Root = Annotated[
    Path, typer.Argument(metavar="ROOT", help="A folder of stores, or a run that uses one.")
]


def du(root: _Root, as_json: AsJson = False) -> None:
    """List every store with its size, its files and the runs that use it.

    Example: `gradenc du runs/first`
    """
    found = sorted(entries(_root(root)), key=lambda entry: -entry.n_bytes)
    if as_json:
        typer.echo(json.dumps([_record(entry) for entry in found]))
        return
    console = Console()
    console.print(_table(found, "largest first"))
    console.print(f"{decimal(sum(e.n_bytes for e in found))} in {len(found)} stores")


def gc(
    root: _Root,
    delete: Annotated[bool, typer.Option("--delete", help="Remove the listed stores.")] = False,
    lost: Annotated[
        list[Path],
        typer.Option("--forget", help="The folder of a run that is gone for good; repeatable."),
    ] = [],  # noqa: B006 (typer copies it)
) -> None:
    """List the stores that no run uses; with --delete, remove them.

    A store is used if a run that was ever submitted with this root still lists it. Nothing is
    removed while one of these runs cannot be read, nor a store while a unit of it is written.

    Example: `gradenc gc /shared/stores --delete`
    """
    folder = _root(root)
    console = Console(highlight=False, soft_wrap=True)
    with root_lock(folder):
        for run in lost:
            forget(folder, run)
        unused = [entry for entry in entries(folder) if not entry.runs]
        idle = [entry for entry in unused if not entry.busy]
        for entry in unused:
            if entry not in idle:
                console.print(f"kept {entry.reference}: a unit of it is being written")
        if not idle:
            console.print(f"every store below {folder} is used by a run")
            return
        console.print(_table(idle, "used by no run"))
        total = decimal(sum(entry.n_bytes for entry in idle))
        if not delete:
            console.print(f"{total} can be freed: `gradenc gc {root} --delete`")
            return
        for entry in idle:
            remove(entry)
        console.print(f"removed {len(idle)} store(s), {total}")


def _root(path: Path) -> Path:
    """Return the store root; a run given in its place is registered as a user of its root."""
    if (path / "run.json").exists():
        root = (path / read_run(path).root).resolve()
        register(root, path)
        return root
    if not (path / "runs").is_dir():
        raise ValueError(
            f"{path} is neither a run (no run.json) nor a store root (no folder runs/)"
        )
    return path.resolve()


def _table(found: list[Entry], title: str) -> Table:
    table = Table(title=title)
    for column in ("store", "size", "files", "units", "sealed", "runs"):
        right = column in ("size", "files", "units")
        table.add_column(column, justify="right" if right else "left", overflow="fold")
    for entry in found:
        units = str(len(entry.store.units)) if entry.store else "remains of a killed process"
        sealed = "yes" if entry.store and entry.store.sealed() else "no"
        runs = ", ".join(run.name for run in entry.runs)
        table.add_row(
            entry.reference, decimal(entry.n_bytes), str(entry.n_files), units, sealed, runs
        )
    return table


def _record(entry: Entry) -> dict[str, object]:
    return {
        "store": entry.reference,
        "bytes": entry.n_bytes,
        "files": entry.n_files,
        "units": len(entry.store.units) if entry.store else None,
        "sealed": bool(entry.store and entry.store.sealed()),
        "runs": [str(run) for run in entry.runs],
    }
