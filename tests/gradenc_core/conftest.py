from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gradenc_core.stimuli.images import Manifest, read_manifest


@pytest.fixture
def stimuli(tmp_path: Path) -> Path:
    """Six images; c.png has the content of a.png."""
    folder = tmp_path / "stimuli"
    (folder / "more").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.png", "d.png", "e.JPG", "more/f.jpeg"):
        pixels = rng.integers(256, size=(8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    (folder / "c.png").write_bytes((folder / "a.png").read_bytes())
    return folder


@pytest.fixture
def manifest(stimuli: Path) -> Manifest:
    return read_manifest(stimuli)
