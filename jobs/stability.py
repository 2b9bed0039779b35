"""Stage extract: how much one source changes with what nobody sees, and with its views' seeds."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from gradenc_core.passes import Stimuli
from gradenc_core.signals import SignalExtractor
from gradenc_core.stability import (
    PERTURBATIONS,
    cosines,
    perturbed,
    relative_difference,
    split_half_reliability,
)
from jobs.bank import bank_images
from jobs.extract import extractor_of, stimulus
from jobs.runner import Arrays, Facts, Work
from jobs.spec import StabilitySpec
from storage_schemas.store import Store, Unit


def compute(work: Work) -> Iterator[tuple[Store, Unit, Arrays, Facts]]:
    """Yield cosines (n_layers, n_perturbations, n_images), reliabilities and errors (n_layers,).

    On the first images of the study's bank, of signals before scale and projection.
    """
    torch.set_num_threads(work.how.threads)
    for store, unit in work.units:
        spec = StabilitySpec.model_validate(store.spec)
        extractor = extractor_of([store], [spec], work)
        digests, images = zip(*bank_images(spec.images, store.locations), strict=True)
        shown = _stimuli(extractor, digests, images)
        arrays = {
            "cosine": _cosines(extractor, spec.source, shown, images),
            "reliability": _reliability(extractor, spec.source, shown),
            "precision_error": _precision_error(extractor, store, spec, work, shown),
        }
        yield store, unit, arrays, {"micro_batch": work.how.micro_batch}


def _stimuli(
    extractor: SignalExtractor, digests: Sequence[str], images: Sequence[Image.Image]
) -> Stimuli:
    pairs = zip(digests, images, strict=True)
    return Stimuli.joined([stimulus(extractor, image, digest) for digest, image in pairs])


def _signal(extractor: SignalExtractor, source: str, stimuli: Stimuli) -> list[torch.Tensor]:
    """Return each layer's pooled signal, (n_images, n_features)."""
    pooled = extractor.pooled(stimuli.images, None, stimuli.digests, stimuli.views)
    return pooled[source]


def _cosines(
    extractor: SignalExtractor, source: str, shown: Stimuli, images: Sequence[Image.Image]
) -> NDArray[np.float64]:
    before, digests = _signal(extractor, source, shown), shown.digests or ()
    cosine = []
    for name in PERTURBATIONS:
        pairs = zip(images, digests, strict=True)
        changed = [perturbed(image, name, digest, extractor.seed) for image, digest in pairs]
        after = _signal(extractor, source, _stimuli(extractor, digests, changed))
        cosine.append([cosines(x, y) for x, y in zip(before, after, strict=True)])
    return np.stack(cosine, axis=1)


def _reliability(extractor: SignalExtractor, source: str, shown: Stimuli) -> NDArray[np.float64]:
    """Return each layer's reliability over seeds of its views; 1 where it has none."""
    if shown.views is None:
        return np.ones(len(extractor.layers))
    halves = shown.views.chunk(2, dim=1)
    first, second = (_signal(extractor, source, replace(shown, views=half)) for half in halves)
    return np.array([split_half_reliability(x, y) for x, y in zip(first, second, strict=True)])


def _precision_error(
    extractor: SignalExtractor, store: Store, spec: StabilitySpec, work: Work, shown: Stimuli
) -> NDArray[np.float64]:
    """Return each layer's relative difference to the same signal in float32."""
    if spec.signal.precision == "float32":
        return np.zeros(len(extractor.layers))
    signal = spec.signal.model_copy(update={"precision": "float32"})
    exact = extractor_of([store], [spec.model_copy(update={"signal": signal})], work)
    pairs = zip(
        _signal(extractor, spec.source, shown), _signal(exact, spec.source, shown), strict=True
    )
    return np.array([relative_difference(found, true) for found, true in pairs])
