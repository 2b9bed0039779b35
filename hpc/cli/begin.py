"""`gradenc init`, `demo` and `fetch`: a study file, a study whose truth is known, weights."""

from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.filesize import decimal

from hpc.cli.arguments import Overrides, ProfileName, StudyFile

_WHERE_NODES_FIND_THEM = (
    "Compute nodes find the weights there if they see these folders. If they do not, set "
    "TORCH_HOME and HF_HOME to folders on a shared file system, here and in the profile's `setup`, "
    "and fetch again. With `export HF_HUB_OFFLINE=1` in `setup`, nodes without internet do not "
    "wait for an answer."
)


def init(
    path: Annotated[Path, typer.Argument(help="The file to write.")] = Path("study.yaml"),
) -> None:
    """Write a commented study file to start from.

    Example: `gradenc init my_study.yaml`
    """
    if path.exists():
        raise FileExistsError(f"{path} exists already; name another file, or remove it first")
    path.write_text(files("hpc.study").joinpath("template.yaml").read_text())
    typer.echo(f"wrote {path}: edit it, then run `gradenc plan {path}`")


def demo(
    folder: Annotated[Path, typer.Argument(help="The folder for the study and its run.")] = Path(
        "demo"
    ),
    scenario: Annotated[
        str,
        typer.Option(help="The planted truth: plausible_backprop, misaligned, forward_only, …"),
    ] = "plausible_backprop",
    profile: ProfileName = "local",
) -> None:
    """Write a study whose truth is known as real files, run everything, and write the report.

    Run it again after any interruption: only unfinished work is done.

    Example: `gradenc demo demo --scenario misaligned`
    """
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


def fetch(
    study: StudyFile,
    overrides: Overrides = [],  # noqa: B006 (typer copies it)
) -> None:
    """Download the pretrained weights that a study names, and print where they are.

    Run it on a login node with internet. `plan` and `submit` load the weights too, so a study whose
    weights are missing is refused before anything runs.

    Example: `gradenc fetch study.yaml`
    """
    from hpc.study.fetch import fetch as fetch_weights
    from hpc.study.study import load_study

    console = Console(highlight=False, soft_wrap=True)
    loaded = load_study(study, overrides)
    n = 0
    with console.status("fetching weights"):
        for found in fetch_weights(loaded):
            console.print(f"{found.model}: {found.path} ({decimal(found.n_bytes)})", markup=False)
            n += 1
    console.print(
        _WHERE_NODES_FIND_THEM if n else "The study names no pretrained weights: nothing to fetch."
    )
