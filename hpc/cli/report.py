"""`gradenc report`: the one-page report of a finished run."""

import typer

from hpc.cli.arguments import RunPath
from hpc.folder import RunFolder


def report(run: RunPath) -> None:
    """Write the run's report again from its stores.

    Example: `gradenc report demo/run`
    """
    from jobs.report import write_report

    folder = RunFolder.open(run)
    write_report(folder.path, folder.report)
    typer.echo(f"wrote {folder.report}")
