"""Stage prepare: principal components of a source's layers, on some of a study's stimuli."""

from collections.abc import Iterator

import numpy as np
import torch

from gradenc_core.signals.projection import fit_components
from gradenc_core.signals.scales import channel_scales
from jobs.extract import load, read_labels_of
from jobs.prepare.scales import bank_batches, unscaled_extractor
from jobs.runner import Arrays, Facts, Work
from jobs.spec import PcaSpec
from storage_schemas.kinds.pca import components_array, mean_array
from storage_schemas.protocol.store import Store, Unit


def compute(work: Work) -> Iterator[tuple[Store, Unit, Arrays, Facts]]:
    """Yield each layer's mean (n_inputs,), components (n_components, n_inputs) and their shares."""
    torch.set_num_threads(work.how.threads)
    for store, unit in work.units:
        spec = PcaSpec.model_validate(store.spec)
        n_components = spec.signal.projection
        assert n_components is not None
        arrays, explained = {}, []
        extractor = unscaled_extractor([store], [spec], work.how.micro_batch)
        batches = bank_batches(extractor, spec.images, store.locations)
        scales = channel_scales(extractor, batches, [spec.source])[spec.source]
        labels = read_labels_of(store, spec.labels)
        stimuli = load(extractor, store, unit, work.how.threads, labels)
        signals = extractor.stream(stimuli, unit.key["stop"])[spec.source]
        for index, (rows, scale) in enumerate(zip(signals, scales, strict=True)):
            components, shares = fit_components(rows[:, : len(scale)] / scale, n_components)
            arrays[mean_array(index)] = components.mean.numpy()
            arrays[components_array(index)] = components.vectors.numpy()
            explained.append(shares)
        arrays["explained"] = np.stack(explained)
        yield store, unit, arrays, {"micro_batch": work.how.micro_batch}
