"""Stage extract: forward and gradient features of one shard of stimuli, all sources in one pass."""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from gradenc_core.device import device
from gradenc_core.feeding import prefetch
from gradenc_core.models import VisionModel, preprocess
from gradenc_core.readers.images import read_stimulus
from gradenc_core.signals import Batch, Features, SignalExtractor
from jobs import models
from jobs.runner import Arrays, Facts, Work
from jobs.spec import FeaturesSpec, SignalSpec
from storage_schemas.schemas import layer_array
from storage_schemas.store import Store, Unit

BATCHES_AHEAD = 2
"""Micro-batches that are decoded while the network has another."""


def compute(work: Work) -> Iterator[tuple[Store, Unit, Arrays, Facts]]:
    """Yield the shard's features of every source, (n_layers, n_stimuli, n_features) float32.

    Without projection every layer is an array of its own.

    All units of an item share model, layers, tokens, projection and stimuli; they differ in their
    source, and the planner gives gradients of one study one scale.
    """
    torch.set_num_threads(work.how.threads)
    specs = {store.path: FeaturesSpec.model_validate(store.spec) for store, _ in work.units}
    first_store, first_unit = work.units[0]
    model = _checked_model(first_store, specs[first_store.path], work.root)
    signal = next(
        (s.signal for s in specs.values() if s.signal.gradient_scale is not None),
        specs[first_store.path].signal,
    )
    sources = [spec.source for spec in specs.values()]
    extractor = build_extractor(model, sources, signal, work.how.micro_batch)
    batches = load(model, first_store, first_unit, work.how.micro_batch, work.how.threads)
    n_stimuli = first_unit.key["stop"] - first_unit.key["start"]
    features = extractor.stream(batches, n_stimuli)
    facts = {
        "micro_batch": work.how.micro_batch,
        "threads": work.how.threads,
        "device": device().type,
        "gpu": torch.cuda.get_device_name() if device().type == "cuda" else None,
    }
    for store, unit in work.units:
        yield store, unit, _arrays(features[specs[store.path].source]), facts


def build_extractor(
    model: VisionModel, sources: Sequence[str], signal: SignalSpec, micro_batch: int
) -> SignalExtractor:
    """Return the extractor of `sources` as the specification describes them, on `device()`."""
    model.module.to(device())
    return SignalExtractor(
        model,
        layers=[name for name, _ in signal.layers],
        sources=sources,
        tokens=signal.tokens,
        projection=signal.projection,
        seed=signal.seed,
        scale=signal.gradient_scale or "unit",
        micro_batch=micro_batch,
    )


def load(
    model: VisionModel, store: Store, unit: Unit, micro_batch: int, threads: int
) -> Iterator[Batch]:
    """Yield the unit's images in micro-batches, decoded ahead, refusing any that changed."""
    folder = Path(store.locations["stimuli"])
    rows = slice(unit.key["start"], unit.key["stop"])
    stimuli = store.dataset().isel(stimulus=rows)
    named = zip(stimuli["stimulus"].values, stimuli["stimulus_digest"].values, strict=True)

    def read(stimulus: tuple[str, str]) -> torch.Tensor:
        return preprocess(model, read_stimulus(folder, *stimulus))

    images = prefetch(read, named, threads, BATCHES_AHEAD * micro_batch)
    while batch := list(islice(images, micro_batch)):
        yield torch.stack(batch), None


def _arrays(features: Features) -> Arrays:
    if isinstance(features, np.ndarray):
        return {"features": features}
    return {layer_array(index): layer for index, layer in enumerate(features)}


def _checked_model(store: Store, spec: FeaturesSpec, root: Path) -> VisionModel:
    model, digest = models.load(spec.model, store.locations.get("checkpoint"))
    prepared = spec.prepared.open(root).dataset()["weights_digest"].values
    if digest != np.asarray(prepared, dtype=np.uint8).tobytes().hex():
        raise ValueError(
            f"the weights of {spec.model.architecture} here differ from those that stage prepare "
            f"saw for {store.label}; use the same weight files and library versions"
        )
    return model
