"""The demo's study: planted data written as the files a lab would have, with its study file."""

import shutil
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

N_STIMULI = 800
SEED = 0


def write_demo_study(
    folder: Path,
    scenario: str,
    progress: Callable[[str], None] = lambda step: None,
    n_stimuli: int = N_STIMULI,
) -> Path:
    """Write the planted study into `folder/study`, whole or not at all; return its study file.

    Parameters
    ----------
    folder : Path
        A study that it holds already is left as it is.
    scenario : str
        What is planted (`gradenc_core.planted.brain.SCENARIOS`).
    progress : callable, optional
        Called with the name of every step.
    n_stimuli : int, optional
        Images that are written and seen by every subject.

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
        return study / "study.yaml"
    from gradenc_core.planted.brain import SCENARIOS
    from gradenc_core.planted.study import write_planted_study

    if scenario not in SCENARIOS:
        raise ValueError(f"--scenario {scenario}: choose one of {', '.join(SCENARIOS)}")
    partial = folder / "study.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    write_planted_study(
        partial, folder / "truth.json", scenario, SEED, n_stimuli, progress=progress
    )
    (partial / "study.yaml").write_text(files("hpc").joinpath("demo_study.yaml").read_text())
    (partial / "scenario.txt").write_text(scenario)
    partial.rename(study)
    return study / "study.yaml"
