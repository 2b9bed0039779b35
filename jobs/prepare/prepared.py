"""Stage prepare: the digest of a model's weights, which extraction checks again."""

from collections.abc import Iterator

import numpy as np

from gradenc_core.models.model import model_summary
from gradenc_core.signals.passes import reading_summary
from jobs import models
from jobs.runner import Arrays, Facts, Work
from jobs.spec import PreparedSpec
from storage_schemas.protocol.store import Store, Unit


def compute(work: Work) -> Iterator[tuple[Store, Unit, Arrays, Facts]]:
    """Yield the digest of the model's weights, (32,) uint8, which enters extraction's identity."""
    for store, unit in work.units:
        spec = PreparedSpec.model_validate(store.spec)
        model, digest = models.load(spec.model, store.locations.get("checkpoint"))
        weights = np.frombuffer(bytes.fromhex(digest), dtype=np.uint8)
        facts = model_summary(model) | {"reads": reading_summary(model)}
        yield store, unit, {"weights_digest": weights}, facts
