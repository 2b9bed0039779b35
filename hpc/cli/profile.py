"""`gradenc profile`: shipped profiles to copy, and a first one for the cluster at hand."""

from pathlib import Path
from typing import Annotated

import typer

from hpc.cli.errors import Command

app = typer.Typer(no_args_is_help=True, help="Write a first profile, or print a shipped one.")


@app.command(cls=Command)
def draft(
    out: Annotated[
        Path | None, typer.Option(help="The file to write; default: print it.", dir_okay=False)
    ] = None,
) -> None:
    """Write a first profile from what this cluster says of its partitions and your account.

    Example: `gradenc profile draft --out cluster.toml`
    """
    from hpc.doctor.draft import draft_profile

    text = draft_profile() + "\n"
    if out is None:
        typer.echo(text, nl=False)
        return
    try:
        with out.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError as error:
        raise ValueError(f"{out} is there already; give --out another name") from error
    typer.echo(f"wrote {out}; look it over, then `gradenc doctor --profile {out}`")


@app.command(cls=Command)
def show(
    name: Annotated[str, typer.Argument(help="A shipped profile, or a TOML file's path.")],
) -> None:
    """Print a profile with its comments, to copy it.

    Example: `gradenc profile show generic-gpu > my.toml`
    """
    from hpc.config.profile import locate

    typer.echo(locate(name).read_text(encoding="utf-8"), nl=False)
