"""Stage extract: forward and gradient features of one shard of stimuli, all sources in one pass."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from gradenc_core.models import VisionModel, preprocess
from gradenc_core.objectives import OBJECTIVES, Objective
from gradenc_core.passes import Stimuli
from gradenc_core.readers.images import read_image
from gradenc_core.readout import Context
from gradenc_core.signals import SignalExtractor
from gradenc_core.views import teacher_views
from jobs import models, plugins
from jobs.bank import open_bank
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
    model, weights = _checked_model(first_store, specs[first_store.path], work.root)
    signal = next(
        (s.signal for s in specs.values() if s.signal.gradient_scale is not None),
        specs[first_store.path].signal,
    )
    gradients = [
        (spec.objective, store.locations)
        for (store, _), spec in zip(work.units, specs.values(), strict=True)
        if spec.objective is not None
    ]
    banks = [objective.bank for objective, _ in gradients if objective.bank is not None]
    objectives, head = plugins.load(gradients)
    extractor = build_extractor(
        model,
        [spec.source for spec in specs.values()],
        signal,
        work.micro_batch,
        Context(signal.seed, open_bank(banks[0], work.root, weights) if banks else None, head),
        objectives,
    )
    batches = load_shard(extractor, first_store, first_unit)
    parts = [extractor(s.images, s.labels, s.digests, s.views) for s in batches]
    facts = {"micro_batch": work.micro_batch, "threads": work.threads, "device": "cpu"}
    for store, unit in work.units:
        source = specs[store.path].source
        features = np.concatenate([part[source] for part in parts], axis=1)
        yield store, unit, {"features": features}, facts


def build_extractor(
    model: VisionModel,
    sources: Sequence[str],
    signal: SignalSpec,
    micro_batch: int,
    context: Context | None = None,
    objectives: Mapping[str, Objective] = OBJECTIVES,
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
        context=context,
        objectives=objectives,
    )


def load_shard(extractor: SignalExtractor, store: Store, unit: Unit) -> Iterator[Stimuli]:
    """Yield the unit's stimuli by micro-batch, with views where an objective needs them."""
    stimuli = store.dataset()
    names = [str(name) for name in stimuli["stimulus"].values]
    digests = [str(name) for name in stimuli["stimulus_digest"].values]
    folder, stop = Path(store.locations["stimuli"]), unit.key["stop"]
    for start in range(unit.key["start"], stop, extractor.micro_batch):
        rows = slice(start, min(start + extractor.micro_batch, stop))
        pairs = zip(names[rows], digests[rows], strict=True)
        images = [_read(folder / name, digest) for name, digest in pairs]
        yield _stimuli(extractor, images, digests[rows])


def _stimuli(
    extractor: SignalExtractor, images: Sequence[Image.Image], digests: Sequence[str]
) -> Stimuli:
    model, seed, views = extractor.model, extractor.seed, None
    if "views" in extractor.passes.needs:
        pairs = zip(images, digests, strict=True)
        views = torch.stack([teacher_views(model, image, name, seed) for image, name in pairs])
    shown = torch.stack([preprocess(model, image) for image in images])
    return Stimuli(shown, None, digests, views)


def _read(path: Path, digest: str) -> Image.Image:
    """Decode a stimulus, refusing one that changed."""
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
    return read_image(path)


def _checked_model(store: Store, spec: FeaturesSpec, root: Path) -> tuple[VisionModel, str]:
    model, digest = models.load(spec.model)
    prepared = spec.prepared.open(root).dataset()["weights_digest"].values
    if digest != np.asarray(prepared, dtype=np.uint8).tobytes().hex():
        raise ValueError(
            f"the weights of {spec.model.architecture} here differ from those that stage prepare "
            f"saw for {store.label}; use the same weight files and library versions"
        )
    return model, digest
