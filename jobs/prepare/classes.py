"""Stage prepare: the class of every layer's gradient, which says whether it can be compared."""

from collections.abc import Iterator

import numpy as np
import torch

from gradenc_core.signals.bank import build_bank
from gradenc_core.signals.classify import classify_signals
from gradenc_core.signals.readout import Context
from gradenc_core.signals.stimulus import Stimuli
from jobs import models, plugins
from jobs.bank import bank_images
from jobs.extract import build_extractor
from jobs.runner import Arrays, Facts, Work
from jobs.spec import ClassesSpec
from storage_schemas.kinds.schema import flag_value
from storage_schemas.protocol.store import Store, Unit

IMAGES_PER_PROTOTYPE = 2
"""Images for each prototype of the small bank, made of the images on which layers are classed."""


def compute(work: Work) -> Iterator[tuple[Store, Unit, Arrays, Facts]]:
    """Yield the class of every layer's gradient, (n_layers,) int8, on the bank's first images.

    The images are each other's bank, so that classes do not wait for the whole one.
    """
    torch.set_num_threads(work.how.threads)
    for store, unit in work.units:
        spec = ClassesSpec.model_validate(store.spec)
        model, _ = models.load(spec.model, store.locations.get("checkpoint"))
        digests, decoded = zip(*bank_images(spec.images, store.locations), strict=True)
        images = [model.preprocessing.apply(image) for image in decoded]
        n, seed = len(digests), spec.signal.seed
        micro_batch = min(n, work.how.micro_batch)
        bank = build_bank(
            model, zip(digests, images, strict=True), seed, micro_batch, n // IMAGES_PER_PROTOTYPE
        )
        objectives, head = plugins.load([(spec.objective, store.locations)])
        extractor = build_extractor(
            model,
            ["forward", spec.source],
            spec.signal,
            micro_batch,
            context=Context(seed, bank, head),
            objectives=objectives,
        )
        pairs = zip(decoded, digests, strict=True)
        stimuli = Stimuli.joined([extractor.present(image, name) for image, name in pairs])
        names = classify_signals(extractor, stimuli)[spec.source]
        meanings = store.arrays["signal_class"].attrs
        codes = np.array([flag_value(meanings, name) for name in names], dtype=np.int8)
        yield store, unit, {"signal_class": codes}, {"classes": names, "micro_batch": micro_batch}
