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
    from hpc.config.profile import load_profile
    from hpc.demo import run_demo

    run_demo(folder, scenario, load_profile(profile))
