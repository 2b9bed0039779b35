"""The model of a specification, kept between the units that one process runs."""

from functools import lru_cache

from gradenc_core.models import VisionModel, load_model, weights_digest
from jobs.spec import ModelSpec


@lru_cache(maxsize=1)
def load(spec: ModelSpec) -> tuple[VisionModel, str]:
    """Return the model in eval mode and the sha256 of its weights."""
    model = load_model(
        spec.library, spec.architecture, spec.weights, spec.seed, image_size=spec.image_size
    )
    return model, weights_digest(model.module)
