"""`gradenc demo`: a planted study, written as a lab would have it, and the whole pipeline on it."""

from pathlib import Path
from typing import Annotated

import typer

from hpc.cli.arguments import ProfileName


def demo(
    folder: Annotated[Path, typer.Argument(help="Where the study and its run go.")] = Path("demo"),
    scenario: Annotated[
        str, typer.Option(help="What is planted: plausible_backprop, misaligned, forward_only, …")
    ] = "plausible_backprop",
    profile: ProfileName = "local",
) -> None:
    """Write a study whose truth is known as real files, run everything, and write the report.

    Run it again after any interruption: only what is missing is done.

    Example: `gradenc demo demo --scenario misaligned`
    """
    from rich.console import Console

    from hpc.cli.progress import drive_with_bars
    from hpc.config.profile import load_profile
    from hpc.demo import write_demo_study
    from hpc.run.start import start
    from hpc.study.study import load_study

    how = load_profile(profile)
    console = Console()
    with console.status("writing the planted study") as status:
        study = write_demo_study(
            folder, scenario, lambda step: status.update(f"writing the planted study: {step}")
        )
    console.print(f"study: {study}", highlight=False)
    with console.status("reading images, recordings and models"):
        run = start(load_study(study), folder / "run", how)
    run.keep_profile(how)
    drive_with_bars(run, how)
