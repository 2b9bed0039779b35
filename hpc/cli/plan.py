"""`gradenc plan`: check a study and forecast its run; submits nothing."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.progress import Progress
from rich.table import Table

from hpc.cli.arguments import Overrides, ProfileName, StudyFile

if TYPE_CHECKING:
    from gradenc_core.identify.rates import Rates
    from hpc.config.profile import Profile
    from hpc.forecast.forecast import StageForecast
    from hpc.forecast.identifiable import Identifiable
    from hpc.study.study import Study

_COLUMNS = ("stage", "stores", "units", "files", "size", "jobs", "wall time", "GPU hours")
_SMALLER = {
    "extract": "extraction.stimuli_per_shard",
    "encode": "encoding.permutations or encoding.bootstrap",
}
"""Keys of the study with which the units of a stage get smaller."""


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
    identify: Annotated[
        bool,
        typer.Option(
            "--identify", help="Simulate the study instead: which verdicts could it reach?"
        ),
    ] = False,
    ceiling: Annotated[
        float | None,
        typer.Option(
            help="With --identify: the noise ceiling to assume, as a correlation.  [default: 0.5]"
        ),
    ] = None,
) -> None:
    """Check a study and forecast its run: units, bytes, files, jobs, time, GPU hours.

    With `--identify` simulate brains of known truth at the study's size, and show how often each
    verdict would be given (docs/identify.md).

    Example: `gradenc plan study.yaml --profile generic-gpu --set encoding.folds=4`
    """
    from hpc.config.profile import load_profile
    from hpc.study.study import load_study

    if ceiling is not None and not (identify and 0 < ceiling < 1):
        raise ValueError("--ceiling is a correlation between 0 and 1, and goes with --identify")
    if identify:
        _identify(load_study(study, overrides), shapes, ceiling)
        return
    # Files with mistakes are refused before torch is imported, which takes seconds.
    loaded, how = load_study(study, overrides), load_profile(profile)
    from hpc.forecast.forecast import forecast, forecast_shapes
    from hpc.forecast.shapes import load_shapes

    console = Console()
    with console.status("reading stimuli, recordings and models") as status:
        if shapes:
            stages = forecast_shapes(loaded, how, load_shapes(shapes), status.update)
        else:
            stages = forecast(loaded, how, status.update)
    console.print(_table(study, stages))
    for stage in stages:
        console.print(f"Time of {stage.stage}: {stage.basis}.")
        if stage.note:
            console.print(stage.note, markup=False, highlight=False)
        if warning := too_long(stage, how):
            console.print(f"[red]{warning}")
    if "random" in loaded.objectives:
        console.print(
            f"random stands for {loaded.random_draws} gradients (random_draws), each of which "
            "costs as much as another objective's."
        )
    console.print(
        "Stores, units, files, sizes (uncompressed) and jobs are counted. Times are without waits "
        "in a queue and between stages, on processors like those of this machine; GPU hours follow "
        "from them. A SLURM run also keeps one short gate job in the queue."
    )
    if loaded.store_root:
        console.print(f"What {loaded.store_root} holds already counts too, but is not run again.")


def _table(study: Path, stages: "Sequence[StageForecast]") -> Table:
    """Return the forecast of every stage."""
    table = Table(title=f"{study}: nothing has been submitted")
    for column in _COLUMNS:
        table.add_column(column, justify="left" if column == "stage" else "right")
    for stage in stages:
        jobs = f"{stage.array_jobs} array, {stage.tasks} tasks"
        table.add_row(
            stage.stage,
            str(stage.stores),
            str(stage.units),
            str(stage.files),
            decimal(stage.n_bytes),
            jobs if stage.array_jobs else f"{stage.tasks} here",
            duration(stage.seconds),
            f"{stage.gpu_hours:,.2f}",
        )
    return table


def _identify(study: "Study", shapes: Path | None, ceiling: float | None) -> None:
    """Simulate every modality of every model, and print what it could tell apart."""
    from gradenc_core.identify.assumed import Assumed
    from gradenc_core.identify.rates import N_FOR_POWER, N_STUDIES, identify, n_simulated
    from hpc.forecast.identifiable import find_identifiable
    from hpc.forecast.shapes import load_shapes

    assumed = Assumed() if ceiling is None else Assumed(ceiling=ceiling)
    console = Console()
    with console.status("reading stimuli, recordings and models"):
        found = find_identifiable(study, load_shapes(shapes) if shapes else None, assumed)
    designs = [one.design for one in found if one.design is not None]
    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task("simulating studies", total=sum(map(n_simulated, designs)))
        rates = [
            None if one.design is None else identify(one.design, lambda: progress.advance(bar))
            for one in found
        ]
    for one, own in zip(found, rates, strict=True):
        if own is None:
            console.print(f"{one.title}: {one.refusal}.", highlight=False)
        else:
            _print_rates(console, one, own)
    if designs:
        console.print(
            f"Verdicts are of {N_STUDIES} simulated studies each (standard error up to 8 %); power "
            f"is the mean of {N_FOR_POWER} brains whose gradients have no order, of how often "
            "backpropagation would be rejected.",
            highlight=False,
        )
    for line in dict.fromkeys(line for design in designs for line in design.assumptions()):
        console.print(line, highlight=False)


def _print_rates(console: Console, one: "Identifiable", rates: "Rates") -> None:
    """Print how often each verdict is given, the power of changed designs, and what would help."""
    from gradenc_core.compare.verdict import Verdict

    table = Table("simulated brains", title=one.title)
    for verdict in Verdict:
        table.add_column(verdict.replace("_", " "), justify="right")
    for hypothesis, shares in rates.verdicts.items():
        table.add_row(hypothesis, *(f"{shares[verdict]:.0%}" for verdict in Verdict))
    console.print(table)
    powers = Table("design", "power")
    for name, power in rates.power.items():
        powers.add_row(name, f"{power:.2f}")
    console.print(powers)
    console.print(rates.advice(), highlight=False)


def too_long(stage: "StageForecast", profile: "Profile") -> str | None:
    """Return what to do about a unit that no task of a stage could finish, or None."""
    limit_s = 60 * profile.stage(stage.stage).timeout_minutes
    if profile.scheduler != "slurm" or stage.longest_s <= limit_s:
        return None
    smaller = f", or lower {_SMALLER[stage.stage]}" if stage.stage in _SMALLER else ""
    return (
        f"Its longest unit takes {duration(stage.longest_s)} but a task is stopped after "
        f"{duration(limit_s)}: raise {stage.stage}.timeout_minutes in the profile {profile.name}"
        f"{smaller}."
    )


def duration(seconds: float) -> str:
    """Return a time in the unit that suits it."""
    if seconds < 600:
        return f"{seconds:,.0f} s"
    return f"{seconds / 60:,.0f} min" if seconds < 36_000 else f"{seconds / 3600:,.1f} h"
