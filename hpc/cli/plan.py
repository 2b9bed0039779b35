"""`gradenc plan`: the dry run."""

from rich.console import Console
from rich.table import Table

from hpc.cli.arguments import Overrides, ProfileName, StudyFile


def plan(
    study: StudyFile,
    overrides: Overrides = [],  # noqa: B006 (typer copies it)
    profile: ProfileName = "local",
) -> None:
    """Check a study and say what it would run: units, bytes, files, expected time.

    Example: `gradenc plan study.yaml --set encoding.folds=4`
    """
    from hpc.forecast import forecast
    from hpc.profile import load_profile
    from hpc.study import load_study

    console = Console()
    with console.status("reading stimuli, recordings and models"):
        stages = forecast(load_study(study, overrides), load_profile(profile))
    table = Table(title=f"{study}: nothing has been submitted")
    for column in ("stage", "stores", "units", "files", "size", "expected time"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for stage in stages:
        table.add_row(
            stage.stage,
            str(stage.stores),
            str(stage.units),
            str(stage.files),
            f"{stage.n_bytes / 2**20:,.1f} MiB",
            f"{stage.seconds:,.0f} s" if stage.seconds is not None else "short",
        )
    console.print(table)
    console.print(
        "Expected times are one micro-batch per model and one matrix product, timed now on this "
        "machine, scaled by what the demo took beyond them: good to a factor of about 2."
    )
