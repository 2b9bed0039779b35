"""A small planted study as real files, and its run; tests that need SLURM.

Both are made once for all processes of a test run.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import settings

from gradenc_core.planted.study import write_planted_study
from gradenc_core.planted.truth import Sizes
from hpc.devcluster.cluster import missing_programs
from hpc.run.advance import create_stores, items, plan_stage
from hpc.run.folder import RunFolder
from hpc.run.start import start
from hpc.run.state import stage_state
from hpc.study.study import load_study
from jobs.report.page import write_report
from jobs.runner import run_items
from jobs.spec import STAGES
from storage_schemas.files import locked
from storage_schemas.protocol.seal import seal

os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)
# A busy machine must not fail a property: no example has a time limit.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

SLURM_TESTS = Path(__file__).parent / "slurm"
LONG_FILES = [
    Path(__file__).parent / name
    for name in (
        "scenarios",
        "hpc/test_mended.py",
        "slurm",
        "hpc/test_end_to_end.py",
        "benchmarks",
        "gradenc",
    )
]
"""Those that are begun first: one that is begun last has the other processes wait for it."""
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
            "baseline_width": 4,
            "band_ratios": [0, 0.1, 1],
            "blocks": 5,
            "bootstrap": 10,
            "permutations": 19,
            "windows": {"start": 0.0, "stop": 0.9, "width": 0.1, "step": 0.1},
        },
        "extraction": {"stimuli_per_shard": 32},
    }


MakeOnce = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="session", autouse=True)
def few_images_scale_channels() -> Iterator[None]:
    """Let 16 images of the bank scale channels: drawing 128 takes seconds in every study."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("hpc.study.stimuli", "gradenc.features"):
            patch.setattr(f"{module}.N_SCALE_IMAGES", 16)
        yield


@pytest.fixture(scope="session")
def make_once(tmp_path_factory: pytest.TempPathFactory) -> MakeOnce:
    """Return a function that fills a folder once, however many processes run the tests."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent

    def once(name: str, make: Callable[[Path], object]) -> Path:
        folder, done = root / name, root / f"{name}.done"
        with locked(root / f"{name}.lock"):
            if not done.exists():
                # What another process began and could not end.
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                make(folder)
                done.touch()
        return folder

    return once


@pytest.fixture(scope="session")
def small_files(make_once: MakeOnce) -> Path:
    """Write a small planted study's recordings and images."""

    def write(folder: Path) -> None:
        write_planted_study(
            folder, folder / "truth.json", "plausible_backprop", 3, N_STIMULI, SIZES
        )

    return make_once("small", write)


@pytest.fixture(scope="session")
def small_data(small_files: Path) -> dict:
    """Return the content of a study file for the small study."""
    return study_data(small_files)


@pytest.fixture(scope="session")
def small_run(small_data: dict, make_once: MakeOnce) -> Path:
    """Return the finished run of the small study, its study file beside it; leave it as it is."""

    def submit(folder: Path) -> None:
        study = folder / "study.yaml"
        study.write_text(yaml.safe_dump(small_data))
        gradenc = Path(sys.executable).with_name("gradenc")
        subprocess.run([gradenc, "submit", study, "--run", folder / "run"], check=True, timeout=600)

    return make_once("small-run", submit) / "run"


@pytest.fixture
def small_study(small_data: dict, tmp_path: Path) -> Path:
    """Write a study file for the small study into the test's own folder."""
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(small_data))
    return path


@pytest.fixture(scope="session")
def run_here() -> Callable[[Path, Path], RunFolder]:
    """Return a function that runs a study file into a folder, report included, in this process.

    The command imports torch in five processes; a test that is not about them need not wait.
    """

    def run(study: Path, path: Path) -> RunFolder:
        folder = start(load_study(study), path)
        for stage in STAGES:
            stores = folder.stores(stage) or create_stores(folder, stage, plan_stage(folder, stage))
            missing = items(stage_state(folder, stage, stores))
            run_items(missing, root=folder.root, job="test", round_=0, micro_batch=32, threads=1)
            for store in stores:
                seal(store)
        write_report(folder.path, folder.report)
        return folder

    return run


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put long files first; mark the tests of SLURM, leave them out where it is not installed.

    In CI they run all the same, and fail.
    """
    items.sort(key=lambda item: [not item.path.is_relative_to(file) for file in LONG_FILES])
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
