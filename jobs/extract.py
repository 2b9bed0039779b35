"""Stage extract: forward and gradient features of one shard of stimuli, all sources in one pass."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from gradenc_core.models import VisionModel, preprocess
from gradenc_core.readers.images import read_image
from gradenc_core.signals import SignalExtractor
from jobs import models
from jobs.runner import Arrays, Facts, Work
from jobs.spec import FeaturesSpec, SignalSpec
from storage_schemas.files import file_digest
from storage_schemas.store import Store, Unit


def compute(work: Work) -> Iterator[tuple[Store, Unit, Arrays, Facts]]:
    """Yield the shard's features of every source, (n_layers, n_stimuli, n_features) float32.

    All units of an item share model, layers, tokens, projection and stimuli; they differ in their
    source, and the planner gives gradients of one study one scale.
    """
    torch.set_num_threads(work.threads)
    specs = {store.path: FeaturesSpec.model_validate(store.spec) for store, _ in work.units}
    first_store, first_unit = work.units[0]
    model = _checked_model(first_store, specs[first_store.path], work.root)
    signal = next(
        (s.signal for s in specs.values() if s.signal.gradient_scale is not None),
        specs[first_store.path].signal,
    )
    sources = [spec.source for spec in specs.values()]
    extractor = build_extractor(model, sources, signal, work.micro_batch)
    features = extractor(load_shard(model, first_store, first_unit))
    facts = {"micro_batch": work.micro_batch, "threads": work.threads, "device": "cpu"}
    for store, unit in work.units:
        yield store, unit, {"features": features[specs[store.path].source]}, facts


def build_extractor(
    model: VisionModel, sources: Sequence[str], signal: SignalSpec, micro_batch: int
) -> SignalExtractor:
    """Return the extractor of `sources` as the specification describes them."""
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


def load_shard(model: VisionModel, store: Store, unit: Unit) -> torch.Tensor:
    """Read the unit's images, (n_stimuli, 3, height, width), refusing any that changed."""
    rows = slice(unit.key["start"], unit.key["stop"])
    stimuli = store.dataset().isel(stimulus=rows)
    folder = Path(store.locations["stimuli"])
    images = []
    for name, digest in zip(
        stimuli["stimulus"].values, stimuli["stimulus_digest"].values, strict=True
    ):
        path = folder / str(name)
        if not path.is_file():
            raise FileNotFoundError(
                f"the stimulus {path} that the study was planned with is gone; put it back, or "
                "plan the study again without it"
            )
        if file_digest(path) != digest:
            raise ValueError(
                f"the stimulus {path} has changed since the study was planned; put the old file "
                "back, or plan the study again"
            )
        images.append(preprocess(model, read_image(path)))
    return torch.stack(images)


def _checked_model(store: Store, spec: FeaturesSpec, root: Path) -> VisionModel:
    model, digest = models.load(spec.model, store.locations.get("checkpoint"))
    prepared = spec.prepared.open(root).dataset()["weights_digest"].values
    if digest != np.asarray(prepared, dtype=np.uint8).tobytes().hex():
        raise ValueError(
            f"the weights of {spec.model.architecture} here differ from those that stage prepare "
            f"saw for {store.label}; use the same weight files and library versions"
        )
    return model
