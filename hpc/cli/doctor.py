"""`gradenc doctor` and `profile`: whether a profile fits this cluster, and a first draft of one."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hpc.cli.arguments import AsJson, ProfileName
from hpc.cli.errors import Command
from hpc.doctor.findings import Finding, Level

profile_app = typer.Typer(
    no_args_is_help=True, help="Write a first profile, or print a shipped one."
)
_COLOURS = {Level.OK: "green", Level.WARNING: "yellow", Level.FAILURE: "red"}


def doctor(
    profile: ProfileName = "local",
    folder: Annotated[
        Path, typer.Option(help="The folder of runs; on a cluster, one that its nodes see.")
    ] = Path("runs"),
    wait: Annotated[
        float,
        typer.Option(min=0.1, help="Minutes to wait for the small jobs that check the nodes."),
    ] = 10.0,
    as_json: AsJson = False,
) -> None:
    """Check profile, folder and cluster before a first submission; exit status 1 if it would fail.

    On a cluster, a job of a few seconds runs for each kind of node that the profile uses.

    Example: `gradenc doctor --profile generic-gpu --folder /shared/runs`
    """
    from hpc.config.profile import load_profile
    from hpc.doctor.doctor import diagnose
    from storage_schemas import records

    loaded = load_profile(profile)
    console = Console(stderr=True)
    with console.status("checking") as status:
        findings = diagnose(loaded, folder, 60 * wait, lambda text: status.update(escape(text)))
    if as_json:
        typer.echo(json.dumps([records.as_json(finding) for finding in findings]))
    else:
        _show(findings, profile)
    if any(finding.level is Level.FAILURE for finding in findings):
        raise typer.Exit(1)


def _show(findings: list[Finding], profile: str) -> None:
    console = Console(highlight=False)
    table = Table(title=f"doctor: {profile}", show_lines=False)
    for column in ("", "check", "where", "found and remedy"):
        table.add_column(column, overflow="fold")
    for finding in findings:
        level = f"[{_COLOURS[finding.level]}]{finding.level}[/]"
        remedy = f"\n[bold]->[/bold] {escape(finding.remedy)}" if finding.remedy else ""
        table.add_row(level, finding.check, finding.where, escape(finding.sentence) + remedy)
    console.print(table)
    counts = [sum(f.level is level for f in findings) for level in (Level.FAILURE, Level.WARNING)]
    console.print(f"{counts[0]} failure(s), {counts[1]} warning(s)")


@profile_app.command(cls=Command)
def draft(
    out: Annotated[
        Path | None, typer.Option(help="The file to write; default: print it.", dir_okay=False)
    ] = None,
) -> None:
    """Write a first profile from this cluster's partitions and your accounts.

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
        raise ValueError(f"{out} exists already; give --out another name") from error
    typer.echo(f"wrote {out}; check it, then run `gradenc doctor --profile {out}`")


@profile_app.command(cls=Command)
def show(
    name: Annotated[str, typer.Argument(help="A shipped profile, or a TOML file's path.")],
) -> None:
    """Print a profile with its comments, as a start for your own.

    Example: `gradenc profile show generic-gpu > my.toml`
    """
    from hpc.config.profile import locate

    typer.echo(locate(name).read_text(encoding="utf-8"), nl=False)
