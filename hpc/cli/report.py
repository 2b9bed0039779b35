"""`gradenc report`: the page of a finished run, and how well its tasks used their resources."""

import typer
from rich.console import Console
from rich.table import Table

from hpc.cli.arguments import RunPath
from hpc.cli.errors import Command
from hpc.config.profile import GB
from hpc.inspect.efficiency import StageUse, efficiency
from hpc.run.folder import RunFolder

app = typer.Typer(
    no_args_is_help=True,
    help="Write a run's page, or show how its tasks used their resources.\n\n"
    "Example: `gradenc report page runs/first`",
)
_UNKNOWN = "not known"


@app.command(cls=Command)
def page(run: RunPath) -> None:
    """Write the run's one-page report again from its stores.

    Example: `gradenc report page demo/run`
    """
    from jobs.report.page import write_report

    folder = RunFolder.open(run)
    write_report(folder.path, folder.report)
    typer.echo(f"wrote {folder.report}")


@app.command(cls=Command, name="efficiency")
def show_efficiency(run: RunPath) -> None:
    """Compare used and requested processors, memory, time and GPUs, and suggest better requests.

    The suggested lines can be copied into the profile.

    Example: `gradenc report efficiency runs/first`
    """
    from hpc.run.outcomes import settle_ended

    folder = RunFolder.open(run)
    # A complete run is not advanced any more, so the ends of its last tasks are recorded here.
    with folder.lock():
        settle_ended(folder)
    uses = efficiency(folder)
    console = Console(highlight=False)
    console.print(_table(folder.name, uses))
    console.print(
        "in units: share of the processes' time that was spent in units that were committed"
    )
    lines = [
        line for use in uses if use.suggestions for line in (f"[{use.stage}]", *use.suggestions)
    ]
    if lines:
        console.print("\nsuggested for the profile:\n")
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)


def _table(name: str, uses: list[StageUse]) -> Table:
    table = Table(title=name)
    table.add_column("stage")
    for column in ("tasks", "CPU", "memory", "longest task", "GPU h held", "in units"):
        table.add_column(column, justify="right")
    for use in uses:
        table.add_row(
            use.stage,
            str(use.tasks),
            _percent(use.cpu_share),
            _of(use.memory, use.memory_asked, GB, "GB"),
            _of(use.longest_s, use.limit_s, 60, "min"),
            _UNKNOWN if use.gpu_hours is None else f"{use.gpu_hours:.2g}",
            _percent(use.unit_share),
        )
    return table


def _percent(share: float | None) -> str:
    return _UNKNOWN if share is None else f"{share:.0%}"


def _of(used: float | None, asked: float | None, unit: float, name: str) -> str:
    if used is None:
        return _UNKNOWN
    limit = "" if asked is None else f"/{asked / unit:.3g}"
    return f"{used / unit:.2g}{limit} {name}"
