"""The model of a specification, kept between the units that one process runs."""

from functools import lru_cache
from pathlib import Path

from gradenc_core.arrays import device
from gradenc_core.models.model import VisionModel, load_model
from gradenc_core.models.weights import weights_digest
from jobs.spec import ModelSpec


@lru_cache(maxsize=1)
def load(spec: ModelSpec, checkpoint: str | None = None) -> tuple[VisionModel, str]:
    """Return the model in eval mode on `device()`, and the sha256 of its weights.

    Parameters
    ----------
    checkpoint : str, optional
        Path of its file of weights: the location `checkpoint` of a store of that model.

    Raises
    ------
    ValueError
        If weights or preprocessing are not those that the study was planned with.
    """
    model = load_model(
        spec.library,
        spec.architecture,
        spec.weights,
        spec.seed,
        image_size=spec.image_size,
        checkpoint=None if checkpoint is None else Path(checkpoint),
    )
    digest = weights_digest(model.module)
    if spec.weights_digest not in (None, digest) or model.preprocessing != spec.preprocessing:
        raise ValueError(
            f"the weights or the preprocessing of {spec.architecture} here differ from those that "
            "the study was planned with; use the same weight files and library versions, or submit "
            "the study again into a new run"
        )
    model.module.to(device())
    return model, digest
