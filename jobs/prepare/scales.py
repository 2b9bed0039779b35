"""Stage prepare: the standard deviation of every channel of a source over the bank's images."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain

import torch

from gradenc_core.signals.extractor import SignalExtractor
from gradenc_core.signals.readout import Context
from gradenc_core.signals.scales import channel_scales
from gradenc_core.signals.stimulus import Stimuli
from jobs import models, plugins
from jobs.bank import bank_images, make_bank
from jobs.extract import build_extractor, loss_parts, signal_of
from jobs.runner import Arrays, Facts, Work
from jobs.spec import BankImages, PcaSpec, ScalesSpec
from storage_schemas.kinds.features import scale_array
from storage_schemas.protocol.store import Store, Unit


def compute(work: Work) -> Iterator[tuple[Store, Unit, Arrays, Facts]]:
    """Yield the scale of every channel of every layer, (width of the layer,) float32 each.

    All units of an item are sources of one model, which share their passes.
    """
    torch.set_num_threads(work.how.threads)
    stores = [store for store, _ in work.units]
    specs = [ScalesSpec.model_validate(store.spec) for store in stores]
    extractor = unscaled_extractor(stores, specs, work.how.micro_batch)
    batches = bank_batches(extractor, specs[0].images, stores[0].locations)
    scales = channel_scales(extractor, batches, extractor.sources)
    for (store, unit), spec in zip(work.units, specs, strict=True):
        arrays = {scale_array(i): layer for i, layer in enumerate(scales[spec.source])}
        yield store, unit, arrays, {"micro_batch": work.how.micro_batch}


def unscaled_extractor(
    stores: Sequence[Store], specs: Sequence[ScalesSpec | PcaSpec], micro_batch: int
) -> SignalExtractor:
    """Return an extractor of whole signals; the bank is made here, where an objective needs one."""
    first = stores[0].locations
    model, _ = models.load(specs[0].model, first.get("checkpoint"))
    objectives, head = plugins.load(chain.from_iterable(map(loss_parts, stores, specs)))
    needing = [
        (spec.bank, store.locations)
        for store, spec in zip(stores, specs, strict=True)
        if spec.bank is not None
    ]
    bank = make_bank(model, *needing[0], micro_batch) if needing else None
    signal = signal_of(specs)
    return build_extractor(
        model,
        [spec.source for spec in specs],
        signal.model_copy(update={"projection": None}),
        micro_batch,
        Context(signal.seed, bank, head),
        objectives,
        losses=[source for spec in specs for source, _ in spec.losses],
    )


def bank_batches(
    extractor: SignalExtractor, images: BankImages, locations: Mapping[str, str]
) -> Iterator[Stimuli]:
    """Yield the first images of a bank in micro-batches."""
    shown = (extractor.present(image, name) for name, image in bank_images(images, locations))
    yield from extractor.batched(shown)
