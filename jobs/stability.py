"""Stage extract: how much one source changes with what nobody sees, and with its seeds."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from gradenc_core.masks import patch_masks
from gradenc_core.passes import Stimuli
from gradenc_core.signals import SignalExtractor
from gradenc_core.stability import (
    PERTURBATIONS,
    cosines,
    perturbed,
    relative_difference,
    retest_reliability,
    split_half_reliability,
)
from gradenc_core.views import teacher_views
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
            "reliability": _reliability(extractor, spec.source, shown, images),
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
    pooled = extractor.pooled(stimuli.images, None, stimuli.digests, stimuli.views, stimuli.masks)
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


def _reliability(
    extractor: SignalExtractor, source: str, shown: Stimuli, images: Sequence[Image.Image]
) -> NDArray[np.float64]:
    """Return each layer's reliability over seeds of its views and masks; 1 where it has none.

    It is of the signal's direction, hence NaN where the norm is all that is kept.
    """
    needs = extractor.passes.needs
    if not needs & {"views", "masks"}:
        return np.ones(len(extractor.layers))
    if extractor.scale == "norm_only":
        return np.full(len(extractor.layers), np.nan)
    if "masks" in needs:
        # One of two complementary masks says nothing of the other: no halves, but a second draw.
        draws, reliability = [shown, _redrawn(extractor, shown, images)], retest_reliability
    else:
        assert shown.views is not None
        halves = shown.views.chunk(2, dim=1)
        draws = [replace(shown, views=half) for half in halves]
        reliability = split_half_reliability
    first, second = (_signal(extractor, source, draw) for draw in draws)
    return np.array([reliability(x, y) for x, y in zip(first, second, strict=True)])


def _redrawn(extractor: SignalExtractor, shown: Stimuli, images: Sequence[Image.Image]) -> Stimuli:
    """Return the stimuli with the masks, and the views if they have any, of another seed."""
    model, digests, seed = extractor.model, shown.digests or (), extractor.seed + 1
    masks = np.stack([patch_masks(digest, seed, model.n_patches) for digest in digests])
    views = shown.views
    if views is not None:
        named = zip(images, digests, strict=True)
        views = torch.stack([teacher_views(model, image, digest, seed) for image, digest in named])
    return replace(shown, masks=torch.from_numpy(masks), views=views)


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
