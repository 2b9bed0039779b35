"""The demo: write a planted study as real files, then run it as any other study."""

import shutil
from importlib.resources import files
from pathlib import Path

from rich.console import Console

from hpc.config.profile import Profile
from hpc.run.drive import drive
from hpc.run.start import start
from hpc.study.study import load_study

N_STIMULI = 800
SEED = 0


def run_demo(folder: Path, scenario: str, profile: Profile) -> None:
    """Write the study unless it is there, then run it or go on with its run."""
    console = Console()
    write_demo_study(folder, scenario, console)
    console.print(f"study: {folder / 'study' / 'study.yaml'}", highlight=False)
    with console.status("reading images, recordings and models"):
        run = start(load_study(folder / "study" / "study.yaml"), folder / "run", profile)
    run.keep_profile(profile)
    drive(run, profile)


def write_demo_study(folder: Path, scenario: str, console: Console) -> None:
    """Write the planted study into `folder/study`, whole or not at all.

    Raises
    ------
    ValueError
        If the folder holds a study of another scenario, or the scenario is unknown.
    """
    study, marker = folder / "study", folder / "study" / "scenario.txt"
    if study.exists():
        if marker.read_text() != scenario:
            raise ValueError(
                f"{study} holds the scenario {marker.read_text()}, not {scenario}; "
                "name another folder"
            )
        return
    from gradenc_core.planted.study import write_planted_study
    from gradenc_core.planted.truth import SCENARIOS

    if scenario not in SCENARIOS:
        raise ValueError(f"--scenario {scenario}: choose one of {', '.join(SCENARIOS)}")
    partial = folder / "study.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    with console.status("writing the planted study") as status:
        write_planted_study(
            partial,
            folder / "truth.json",
            scenario,
            SEED,
            N_STIMULI,
            progress=lambda step: status.update(f"writing the planted study: {step}"),
        )
    (partial / "study.yaml").write_text(files("hpc").joinpath("demo_study.yaml").read_text())
    (partial / "scenario.txt").write_text(scenario)
    partial.rename(study)
