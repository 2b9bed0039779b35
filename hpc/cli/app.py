"""The `gradenc` command. Modules that import slowly are imported inside the commands.

So `gradenc --help`, `status` and `logs` answer at once: they import no torch, scikit-learn or MNE.
"""

import typer

from hpc.cli import (
    begin,
    cluster,
    disk,
    doctor,
    explain,
    logs,
    plan,
    query,
    report,
    status,
    submit,
)
from hpc.cli.errors import Command

app = typer.Typer(
    name="gradenc",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Does the brain's hierarchy look like backpropagation? Extract activations and gradients "
    "of vision models, fit encoding models to fMRI and MEG, compare the hierarchies.",
)
app.command(cls=Command)(begin.init)
app.command(cls=Command)(begin.demo)
app.command(cls=Command)(doctor.doctor)
app.command(cls=Command)(begin.fetch)
app.command(cls=Command)(submit.drill)
app.add_typer(doctor.profile_app, name="profile")
app.command(cls=Command)(plan.plan)
app.command(cls=Command)(submit.submit)
app.command(cls=Command)(status.status)
app.command(cls=Command)(submit.resume)
app.command(cls=Command)(submit.cancel)
app.command(cls=Command)(logs.logs)
app.command(cls=Command)(explain.verify)
app.add_typer(report.app, name="report")
app.command(cls=Command)(query.query)
app.command(cls=Command)(explain.why)
app.command(cls=Command)(explain.explain)
app.command(cls=Command)(disk.du)
app.command(cls=Command)(disk.gc)
app.add_typer(cluster.app, name="cluster")


def main() -> None:
    """Run the command."""
    app()
