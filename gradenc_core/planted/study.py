"""Write the planted study as a lab would have it: PNG images, NIfTI betas, FIF epochs.

The truth goes into a file that the pipeline never opens.
"""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from gradenc_core.models.layers import layers_at
from gradenc_core.models.model import VisionModel, load_model
from gradenc_core.planted.brain import Features, Scenario
from gradenc_core.planted.reading import read_raw
from gradenc_core.planted.recordings import write_bids_subject, write_epochs_subject
from gradenc_core.planted.truth import Sizes, driving_features, plant
from gradenc_core.stimuli.generated import write_images
from gradenc_core.stimuli.images import read_image

ARCHITECTURE = "lcnet_035"
"""Narrow enough that a map of its whole baseline can be learned on a few thousand images, and its
layers differ without training."""
N_LAYERS = 7
"""Blocks at even depths that drive the brains."""
IMAGE_SIZE = 64
MODEL_SEED = 0
OBJECTIVE = "energy"
MICRO_BATCH = 50

Progress = Callable[[str], None]


def write_planted_study(
    folder: Path,
    truth_path: Path,
    scenario: Scenario,
    seed: int,
    n_stimuli: int,
    sizes: Sizes | None = None,
    progress: Progress = lambda step: None,
) -> None:
    """Write `stimuli/`, `bids/` and `meg/` below `folder`, and the truth elsewhere.

    Parameters
    ----------
    truth_path : Path
        JSON file; the pipeline never opens it.
    scenario : str
        One of `brain.SCENARIOS`.
    n_stimuli : int
        Distinct images.
    progress : callable
        Called with the name of each part before it is written.
    """
    sizes = sizes or Sizes()
    progress("images")
    names = write_images(folder / "stimuli", n_stimuli, IMAGE_SIZE, seed)
    progress("the planted model's layers")
    planted = plant(scenario, planted_features(folder / "stimuli", names), seed, sizes)
    stimuli = np.array(names, dtype=object)
    for fmri in planted.fmri:
        progress(f"betas of {fmri.subject}")
        write_bids_subject(
            folder / "bids",
            fmri.subject,
            [(data, stimuli[order].tolist()) for data, order in fmri.sessions],
            fmri.ijk,
            fmri.rois,
            fmri.hemispheres,
            fmri.affine,
            fmri.shape,
        )
    for meg in planted.meg:
        progress(f"epochs of {meg.subject}")
        write_epochs_subject(
            folder / "meg",
            meg.subject,
            meg.data,
            stimuli[meg.order].tolist(),
            sizes.sampling_hz,
            sizes.start_s,
            meg.positions,
            meg.sessions.tolist(),
        )
    truth_path.write_text(json.dumps(planted.truth, indent=1))


def planted_features(folder: Path, names: list[str]) -> Features:
    """Return what the planted brains are tuned to."""
    model = planted_model()
    layers = layers_at(model, np.linspace(0, 1, N_LAYERS).tolist())
    images = torch.stack([model.preprocessing.apply(read_image(folder / name)) for name in names])
    raw = read_raw(model, [layer.name for layer in layers], [OBJECTIVE], images.split(MICRO_BATCH))
    depth = np.array([layer.depth for layer in layers])
    return driving_features(raw.mean, raw.gradient[OBJECTIVE], raw.aside, depth)


def planted_model() -> VisionModel:
    """Return the model that drives the planted brains."""
    return load_model("timm", ARCHITECTURE, "untrained", MODEL_SEED, image_size=IMAGE_SIZE)
