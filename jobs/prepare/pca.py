"""Stage prepare: principal components of a source's layers, on some of a study's stimuli."""

from collections.abc import Iterator

import numpy as np
import torch

from gradenc_core.signals.projection import fit_components
from gradenc_core.signals.readout import Context
from jobs import models, plugins
from jobs.bank import make_bank
from jobs.extract import build_extractor, load, read_labels_of
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
        for index, rows in enumerate(_signals(store, unit, spec, work)):
            width = store.arrays[mean_array(index)].shape[0]
            components, shares = fit_components(rows[:, :width], n_components)
            arrays[mean_array(index)] = components.mean.numpy()
            arrays[components_array(index)] = components.vectors.numpy()
            explained.append(shares)
        arrays["explained"] = np.stack(explained)
        yield store, unit, arrays, {"micro_batch": work.how.micro_batch}


def _signals(store: Store, unit: Unit, spec: PcaSpec, work: Work) -> list[np.ndarray]:
    """Return each layer's scaled signal before projection, (n_stimuli, n_inputs and log-norm)."""
    model, _ = models.load(spec.model, store.locations.get("checkpoint"))
    parts = [] if spec.objective is None else [(spec.objective, store.locations)]
    objectives, head = plugins.load(parts)
    micro_batch, bank = work.how.micro_batch, None
    if spec.bank is not None:
        bank = make_bank(model, spec.bank, store.locations, micro_batch)
    extractor = build_extractor(
        model,
        [spec.source],
        spec.signal.model_copy(update={"projection": None}),
        micro_batch,
        Context(spec.signal.seed, bank, head),
        objectives,
    )
    labels = read_labels_of(store, spec.labels)
    stimuli = load(extractor, store, unit, work.how.threads, labels)
    return list(extractor.stream(stimuli, unit.key["stop"])[spec.source])
