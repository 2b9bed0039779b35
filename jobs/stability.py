"""Stage extract: stability of sources under invisible image changes and between random seeds.

It is measured on the first images of the study's bank, before signals are scaled and projected.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from gradenc_core.signals.extractor import SignalExtractor
from gradenc_core.signals.masks import patch_masks
from gradenc_core.signals.objectives import Need
from gradenc_core.signals.stability import (
    PERTURBATIONS,
    cosines,
    perturbed,
    relative_difference,
    retest_reliability,
    split_half_reliability,
)
from gradenc_core.signals.stimulus import Stimuli
from gradenc_core.signals.views import teacher_views
from jobs.bank import bank_images
from jobs.extract import extractor_of
from jobs.runner import Arrays, Facts, Work
from jobs.spec import StabilitySpec
from storage_schemas.protocol.store import Store, Unit

Signals = dict[str, list[torch.Tensor]]
"""By source, each layer's pooled signal, (n_images, n_features)."""


def compute(work: Work) -> Iterator[tuple[Store, Unit, Arrays, Facts]]:
    """Yield cosines (n_layers, n_perturbations, n_images), reliabilities and errors (n_layers,).

    All units of an item are sources of one model, which share their passes.
    """
    torch.set_num_threads(work.how.threads)
    stores = [store for store, _ in work.units]
    specs = [StabilitySpec.model_validate(store.spec) for store in stores]
    extractor = extractor_of(stores, specs, work)
    digests, images = zip(*bank_images(specs[0].images, stores[0].locations), strict=True)
    shown = _stimuli(extractor, digests, images)
    signals = extractor.pooled(shown)
    changed = {name: _perturbed(extractor, shown, images, name) for name in PERTURBATIONS}
    reliabilities = _reliabilities(extractor, signals, shown, images)
    exact = _exact(stores, specs, work, shown)
    for (store, unit), spec in zip(work.units, specs, strict=True):
        source = spec.source
        arrays = {
            "cosine": _cosines(signals[source], [after[source] for after in changed.values()]),
            "reliability": np.array(reliabilities[source]),
            "precision_error": _errors(signals[source], exact[source] if exact else None),
        }
        yield store, unit, arrays, {"micro_batch": work.how.micro_batch}


def _stimuli(
    extractor: SignalExtractor, digests: Sequence[str], images: Sequence[Image.Image]
) -> Stimuli:
    pairs = zip(digests, images, strict=True)
    return Stimuli.joined([extractor.present(image, digest) for digest, image in pairs])


def _perturbed(
    extractor: SignalExtractor, shown: Stimuli, images: Sequence[Image.Image], name: str
) -> Signals:
    digests = shown.digests or ()
    pairs = zip(images, digests, strict=True)
    changed = [perturbed(image, name, digest, extractor.options.seed) for image, digest in pairs]
    return extractor.pooled(_stimuli(extractor, digests, changed))


def _cosines(
    before: list[torch.Tensor], changed: Sequence[list[torch.Tensor]]
) -> NDArray[np.float64]:
    return np.stack(
        [[cosines(x, y) for x, y in zip(before, after, strict=True)] for after in changed], axis=1
    )


def _reliabilities(
    extractor: SignalExtractor, signals: Signals, shown: Stimuli, images: Sequence[Image.Image]
) -> dict[str, list[float]]:
    """Return each layer's reliability over seeds of views and masks; 1 where nothing is seeded.

    It compares the directions of signals, so it is NaN where only the norm is kept.
    """
    needs = extractor.passes.needs_of
    found = {source: [1.0] * len(layers) for source, layers in signals.items()}
    if shown.views is not None:
        halves = shown.views.chunk(2, dim=1)
        first, second = (extractor.pooled(replace(shown, views=half)) for half in halves)
        found |= _compared(split_half_reliability, first, second, _needing(needs, "views"))
    if masked := _needing(needs, "masks"):
        # The two masks of a draw are complementary, so they are no halves to compare: draw again.
        again = extractor.pooled(_redrawn(extractor, shown, images))
        found |= _compared(retest_reliability, signals, again, masked)
    if extractor.options.scale == "norm_only":
        seeded = {*_needing(needs, "views"), *_needing(needs, "masks")}
        found |= {source: [np.nan] * len(extractor.layers) for source in seeded}
    return found


def _redrawn(extractor: SignalExtractor, shown: Stimuli, images: Sequence[Image.Image]) -> Stimuli:
    """Return the stimuli with the masks, and the views if they have any, of another seed."""
    model, digests, seed = extractor.model, shown.digests or (), extractor.options.seed + 1
    masks = np.stack([patch_masks(digest, seed, model.n_patches) for digest in digests])
    views = shown.views
    if views is not None:
        named = zip(images, digests, strict=True)
        views = torch.stack([teacher_views(model, image, digest, seed) for image, digest in named])
    return replace(shown, masks=torch.from_numpy(masks), views=views)


def _needing(needs: Mapping[str, frozenset[Need]], what: Need) -> list[str]:
    return [source for source, needed in needs.items() if what in needed]


def _compared(
    compare: Callable[[torch.Tensor, torch.Tensor], float],
    first: Signals,
    second: Signals,
    sources: Sequence[str],
) -> dict[str, list[float]]:
    return {
        source: [compare(x, y) for x, y in zip(first[source], second[source], strict=True)]
        for source in sources
    }


def _exact(
    stores: Sequence[Store], specs: Sequence[StabilitySpec], work: Work, shown: Stimuli
) -> Signals | None:
    """Return the signals in float32; None where they are that already."""
    if specs[0].signal.precision == "float32":
        return None
    single = [
        spec.model_copy(update={"signal": spec.signal.model_copy(update={"precision": "float32"})})
        for spec in specs
    ]
    return extractor_of(stores, single, work).pooled(shown)


def _errors(found: list[torch.Tensor], exact: list[torch.Tensor] | None) -> NDArray[np.float64]:
    """Return each layer's relative difference to the same signal in float32."""
    if exact is None:
        return np.zeros(len(found))
    return np.array([relative_difference(x, true) for x, true in zip(found, exact, strict=True)])
