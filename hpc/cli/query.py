"""`gradenc query`: select results by their labels, print them or write them to a file."""

from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from hpc.cli.arguments import RunPath

if TYPE_CHECKING:
    import xarray as xr

_ROWS = 40


def query(
    run: RunPath,
    node: Annotated[
        str | None,
        typer.Argument(
            help="A leaf such as scores/dinov3/sub-01/fmri, or scores:fmri or scores:meg for all "
            "models and subjects together; default: list the leaves."
        ),
    ] = None,
    variable: Annotated[
        str | None, typer.Option("--var", help="A variable [default: the leaf's first].")
    ] = None,
    sel: Annotated[
        list[str],
        typer.Option(
            "--sel", help="Select by a label: name=value, name=a,b or name=low:high; repeatable."
        ),
    ] = [],  # noqa: B006 (typer copies it)
    mean: Annotated[
        list[str], typer.Option("--mean", help="Average over a dimension; repeatable.")
    ] = [],  # noqa: B006
    to: Annotated[
        Path | None,
        typer.Option(
            help="Write to a file: .csv, .parquet, .nc, .nii.gz, .func.gii, -ave.fif (Evoked)."
        ),
    ] = None,
    surface: Annotated[
        Path | None, typer.Option(help="For GIFTI: the subject's .surf.gii, in scanner space.")
    ] = None,
    partial: Annotated[
        bool,
        typer.Option(
            "--partial", help="Also show unfinished stages; `committed` tells which rows are real."
        ),
    ] = False,
) -> None:
    """Print a selection of a run's results, or write it to a file for other programs.

    Example: `gradenc query runs/first scores/dinov3/sub-01/fmri --var r
    --sel bands=gradient:energy --sel layer=blocks.7 --sel roi=V4 --mean fold --to v4.nii.gz`
    """
    from jobs.export import export, to_table
    from storage_schemas import open_run
    from storage_schemas.results.select import average, parse_selection, select

    tree = open_run(run, partial=partial)
    console = Console(highlight=False)
    if partial:
        console.print(f"{tree.attrs['completeness']:.1%} of the units are committed")
    if node is None:
        console.print(_leaves(tree))
        return
    dataset = _dataset(tree, run, node)
    chosen = select(dataset, parse_selection(dataset, sel))
    name = variable or str(next(iter(dataset.data_vars)))
    if name not in chosen.data_vars:
        raise ValueError(
            f"--var {name}: {node} has the variables {', '.join(map(str, chosen.data_vars))}"
        )
    dims = chosen[name].dims
    if missing := [dim for dim in mean if dim not in dims]:
        raise ValueError(
            f"--mean {missing[0]}: {name} has the dimensions {', '.join(map(str, dims))}"
        )
    data = average(chosen.drop_vars([v for v in chosen.data_vars if v != name]), mean)
    if to is not None:
        export(data, name, to, surface)
        console.print(f"{name} {dict(data[name].sizes)} -> {to}")
        return
    table = to_table(data[name])
    console.print(table.head(_ROWS).to_string(index=False), soft_wrap=True)
    if len(table) > _ROWS:
        console.print(f"… {len(table):,} rows in all; narrow it with --sel, or write it with --to")


def _dataset(tree: "xr.DataTree", run: Path, node: str) -> "xr.Dataset":
    from storage_schemas import gather_scores

    kind, _, modality = node.partition(":")
    if kind == "scores" and modality:
        return gather_scores(tree, modality)
    paths = {leaf.path.strip("/"): leaf for leaf in tree.leaves}
    if node.strip("/") not in paths:
        near = get_close_matches(node.strip("/"), paths, n=3) or list(paths)[:3]
        raise ValueError(
            f"there is no leaf {node}; the nearest are {', '.join(near)} "
            f"(`gradenc query {run}` lists all)"
        )
    return paths[node.strip("/")].to_dataset()


def _leaves(tree: "xr.DataTree") -> Table:
    table = Table(title=f"{tree.attrs['run']}: leaves")
    for column in ("leaf", "dimensions", "variables"):
        table.add_column(column, overflow="fold")
    for leaf in tree.leaves:
        sizes = ", ".join(f"{dim} {n}" for dim, n in leaf.sizes.items())
        table.add_row(leaf.path.strip("/"), sizes, ", ".join(map(str, leaf.data_vars)))
    return table
