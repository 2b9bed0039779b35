"""A small planted study, written once per test session as real files; tests that need SLURM."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

from gradenc_core.planted.study import write_planted_study
from gradenc_core.planted.truth import Sizes
from hpc.devcluster.cluster import missing_programs

os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)

SLURM_TESTS = Path(__file__).parent / "slurm"
SIZES = Sizes(fmri_subjects=1, meg_subjects=1, sessions=2, sensors=3, sampling_hz=20.0)
N_STIMULI = 96
LAYERS = ["layer1.0", "layer2.0", "layer3.0", "layer3.1", "layer4.0"]


def study_data(folder: Path) -> dict:
    """Return the study file's content for the files below `folder`."""
    return {
        "name": "small",
        "stimuli": str(folder / "stimuli"),
        "models": [
            {
                "name": "planted",
                "library": "torchvision",
                "architecture": "resnet18",
                "weights": "untrained",
                "image_size": 64,
            }
        ],
        "layers": LAYERS,
        "objectives": ["classification"],
        "projection": 16,
        "responses": [
            {"reader": "bids", "path": str(folder / "bids")},
            {"reader": "epochs", "path": str(folder / "meg")},
        ],
        "encoding": {
            "folds": 4,
            "alpha_choice": "gcv",
            "baseline_width": 128,
            "forward_all": 24,
            "band_ratios": [0, 0.1, 1],
            "blocks": 5,
            "bootstrap": 10,
            "permutations": 19,
            "windows": {"start": 0.0, "stop": 0.9, "width": 0.1, "step": 0.1},
        },
        "extraction": {"stimuli_per_shard": 32},
    }


@pytest.fixture(scope="session", autouse=True)
def few_images_scale_channels() -> Iterator[None]:
    """Let 16 images of the bank scale channels: drawing 128 takes seconds in every study."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("hpc.study.stimuli", "gradenc.features"):
            patch.setattr(f"{module}.N_SCALE_IMAGES", 16)
        yield


@pytest.fixture(scope="session")
def small_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a small planted study's recordings and images."""
    folder = tmp_path_factory.mktemp("small")
    write_planted_study(folder, folder / "truth.json", "plausible_backprop", 3, N_STIMULI, SIZES)
    return folder


@pytest.fixture(scope="session")
def small_data(small_files: Path) -> dict:
    """Return the content of a study file for the small study."""
    return study_data(small_files)


@pytest.fixture
def small_study(small_data: dict, tmp_path: Path) -> Path:
    """Write a study file for the small study into the test's own folder."""
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(small_data))
    return path


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the tests of SLURM; leave them out where it is not installed, except in CI."""
    slurm = [item for item in items if item.path.is_relative_to(SLURM_TESTS)]
    for item in slurm:
        item.add_marker("slurm")
    if slurm and _without_slurm():
        config.hook.pytest_deselected(items=slurm)
        items[:] = [item for item in items if item not in slurm]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say in one sentence that tests were left out."""
    if _without_slurm():
        terminalreporter.write_line(
            "tests/slurm was left out: SLURM is not installed here; `make slurm` as root installs "
            "it on Debian.",
            yellow=True,
        )


def _without_slurm() -> bool:
    # in CI they are run and fail: green must mean that they passed
    return bool(missing_programs()) and "CI" not in os.environ
