"""`gradenc init`: a commented study file to start from."""

from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer


def init(
    path: Annotated[Path, typer.Argument(help="Where to write it.")] = Path("study.yaml"),
) -> None:
    """Write a commented study file to start from.

    Example: `gradenc init my_study.yaml`
    """
    if path.exists():
        raise FileExistsError(f"{path} exists already; name another file, or remove it first")
    path.write_text(files("hpc.study").joinpath("template.yaml").read_text())
    typer.echo(f"wrote {path}: edit it, then run `gradenc plan {path}`")
