"""One small planted study that was run through the door, for all tests that read its results."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

import gradenc as ge
from gradenc_core.signals.sizes import N_PROTOTYPES
from gradenc_core.stimuli.generated import dead_leaves
from gradenc_core.stimuli.images import Images

PROFILE = """
name = "one"
scheduler = "local"
[extract]
micro_batch = 16
[prepare]
micro_batch = 16
[encode]
dask_workers = 1
"""


@pytest.fixture(scope="session")
def finished(small_data: dict, make_once: Callable[..., Path]) -> ge.Run:
    """Return the small study's run with a bank of its own, as a notebook makes it; only read it."""

    def run(folder: Path) -> None:
        (folder / "bank").mkdir()
        rng = np.random.default_rng(0)
        for number in range(N_PROTOTYPES):
            Image.fromarray(dead_leaves(rng, 32)).save(folder / "bank" / f"{number}.png")
        (folder / "one.toml").write_text(PROFILE)
        changes = {"objectives": ["dino"], "bank": "bank", "layers": ["layer2.0", "layer4.0"]}
        (folder / "study.yaml").write_text(yaml.safe_dump(small_data | changes))
        study = ge.Study.load(folder / "study.yaml", set=["encoding.permutations=39"])
        study.run(folder / "run", profile=str(folder / "one.toml"))

    return ge.Run.open(make_once("door", run) / "run")


@pytest.fixture(scope="session")
def stimuli(small_files: Path) -> Images:
    """Return the small study's images."""
    return ge.read_images(small_files / "stimuli")
