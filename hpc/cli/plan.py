"""`gradenc plan`: the dry run."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from hpc.cli.arguments import Overrides, ProfileName, StudyFile

COLUMNS = ("stage", "stores", "units", "files", "size", "jobs", "wall time", "GPU hours", "time is")
LEFT = ("stage", "time is")


def plan(
    study: StudyFile,
    overrides: Overrides = [],  # noqa: B006 (typer copies it)
    profile: ProfileName = "local",
    shapes: Annotated[
        Path | None,
        typer.Option(
            help="A YAML file of sizes that takes the place of the study's stimuli and recordings."
        ),
    ] = None,
) -> None:
    """Check a study and say what it would run: units, bytes, files, jobs, time, GPU hours.

    Example: `gradenc plan study.yaml --profile generic-gpu --set encoding.folds=4`
    """
    from hpc.forecast import forecast, forecast_shapes
    from hpc.profile import load_profile
    from hpc.shapes import load_shapes
    from hpc.study import load_study

    console = Console()
    with console.status("reading stimuli, recordings and models; timing this machine"):
        loaded, how = load_study(study, overrides), load_profile(profile)
        stages = (
            forecast_shapes(loaded, how, load_shapes(shapes)) if shapes else forecast(loaded, how)
        )
    table = Table(title=f"{study}: nothing has been submitted")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column in LEFT else "right")
    for stage in stages:
        jobs = f"{stage.array_jobs} array, {stage.tasks} tasks"
        table.add_row(
            stage.stage,
            str(stage.stores),
            str(stage.units),
            str(stage.files),
            f"{stage.n_bytes / 2**20:,.1f} MiB",
            jobs if stage.array_jobs else f"{stage.tasks} here",
            duration(stage.seconds),
            f"{stage.gpu_hours:,.2f}",
            stage.basis,
        )
    console.print(table)
    console.print(
        "Stores, units, files, sizes (uncompressed) and jobs are counted. Times are without waits "
        "in a queue and between stages, on processors like those of this machine; GPU hours follow "
        "from them. A SLURM run also keeps one short gate job in the queue."
    )


def duration(seconds: float) -> str:
    """Return a time in the unit that suits it."""
    if seconds < 600:
        return f"{seconds:,.0f} s"
    return f"{seconds / 60:,.0f} min" if seconds < 36_000 else f"{seconds / 3600:,.1f} h"
