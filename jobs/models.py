"""Networks: the only place that loads one and computes the digest of its weights."""

from functools import lru_cache
from pathlib import Path

from gradenc_core.arrays import device
from gradenc_core.models.library import Library
from gradenc_core.models.model import VisionModel, Weights, load_model
from gradenc_core.models.weights import weights_digest
from jobs.spec import ModelSpec


def build(
    library: Library,
    architecture: str,
    weights: Weights,
    seed: int,
    image_size: int | None,
    checkpoint: Path | None,
) -> tuple[VisionModel, ModelSpec]:
    """Build a network and return it with its specification; arguments are those of `load_model`."""
    model = load_model(
        library, architecture, weights, seed, image_size=image_size, checkpoint=checkpoint
    )
    return model, ModelSpec(
        library=library,
        architecture=architecture,
        weights=weights,
        weights_digest=None if weights == "untrained" else weights_digest(model.module),
        seed=seed,
        image_size=image_size,
        preprocessing=model.preprocessing,
    )


@lru_cache(maxsize=1)
def load(spec: ModelSpec, checkpoint: str | None = None) -> tuple[VisionModel, str]:
    """Return the model in eval mode on `device()`, and the sha256 of its weights.

    It is kept between the units that one process runs.

    Parameters
    ----------
    checkpoint : str, optional
        Path of its file of weights: the location `checkpoint` of a store of that model.

    Raises
    ------
    ValueError
        If weights or preprocessing are not those that the study was planned with.
    """
    path = None if checkpoint is None else Path(checkpoint)
    model, found = build(
        spec.library, spec.architecture, spec.weights, spec.seed, spec.image_size, path
    )
    digest = found.weights_digest or weights_digest(model.module)
    changed = found.preprocessing != spec.preprocessing
    if spec.weights_digest not in (None, digest) or changed:
        raise ValueError(
            f"the weights or the preprocessing of {spec.architecture} here differ from those that "
            "the study was planned with; use the same weight files and library versions, or submit "
            "the study again into a new run"
        )
    model.module.to(device())
    return model, digest
