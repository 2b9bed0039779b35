"""The `gradenc` command: one file per noun; slow imports happen inside the commands."""

import sys

import typer
from rich.console import Console

from hpc.cli import (
    cluster,
    demo,
    doctor,
    drill,
    explain,
    fetch,
    init,
    logs,
    plan,
    profile,
    query,
    report,
    space,
    status,
    submit,
    verify,
)
from hpc.slurm.client import SlurmUnavailable

app = typer.Typer(
    name="gradenc",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Does the brain's hierarchy look like backpropagation? Extract activations and gradients "
    "of vision models, fit encoding models to fMRI and MEG, compare the hierarchies.",
)
app.command()(init.init)
app.command()(demo.demo)
app.command()(doctor.doctor)
app.command()(fetch.fetch)
app.command()(drill.drill)
app.add_typer(profile.app, name="profile")
app.command()(plan.plan)
app.command()(submit.submit)
app.command()(status.status)
app.command()(submit.resume)
app.command()(submit.cancel)
app.command()(logs.logs)
app.command()(verify.verify)
app.add_typer(report.app, name="report")
app.command()(query.query)
app.command()(explain.why)
app.command()(explain.explain)
app.command()(space.du)
app.command()(space.gc)
app.add_typer(cluster.app, name="cluster")


def main() -> None:
    """Run the command; a refused input ends with one message and exit status 1."""
    try:
        app()
    except (ValueError, OSError, SlurmUnavailable) as error:
        Console(stderr=True, highlight=False).print(
            f"[red]error:[/red] {_escape(str(error))}", soft_wrap=True
        )
        sys.exit(1)


def _escape(text: str) -> str:
    return text.replace("[", "\\[")
