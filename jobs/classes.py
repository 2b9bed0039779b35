"""Stage prepare: which layers of a gradient source carry a signal of their own."""

from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image

from gradenc_core.models import VisionModel, preprocess
from gradenc_core.signals import classify_signals
from gradenc_core.synthetic.images import dead_leaves
from jobs import models
from jobs.extract import build_extractor
from jobs.runner import Arrays, Facts, Work
from jobs.spec import BankSpec, ClassesSpec
from storage_schemas.schemas import SIGNAL_CLASSES
from storage_schemas.store import Store, Unit


def compute(work: Work) -> Iterator[tuple[Store, Unit, Arrays, Facts]]:
    """Yield the class of every layer's gradient, (n_layers,) int8, on the bank's images."""
    torch.set_num_threads(work.how.threads)
    for store, unit in work.units:
        spec = ClassesSpec.model_validate(store.spec)
        model, _ = models.load(spec.model, store.locations.get("checkpoint"))
        sources = ["forward", spec.source]
        extractor = build_extractor(model, sources, spec.signal, spec.bank.n_images)
        names = classify_signals(extractor, bank_images(model, spec.bank))[spec.source]
        codes = np.array([SIGNAL_CLASSES.index(name) for name in names], dtype=np.int8)
        yield store, unit, {"signal_class": codes}, {"classes": names}


def bank_images(model: VisionModel, bank: BankSpec) -> torch.Tensor:
    """Return the bank's preprocessed images, (n_images, 3, height, width)."""
    rng = np.random.default_rng(bank.seed)
    images = [Image.fromarray(dead_leaves(rng, bank.size)) for _ in range(bank.n_images)]
    return torch.stack([preprocess(model, image) for image in images])
