"""Stage extract: forward and gradient features of one shard of stimuli, all sources in one pass."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from PIL import Image

from gradenc_core.arrays import device
from gradenc_core.models.model import VisionModel
from gradenc_core.signals.extractor import ExtractionOptions, Features, SignalExtractor
from gradenc_core.signals.objectives import OBJECTIVES, Objective
from gradenc_core.signals.projection import Components
from gradenc_core.signals.readout import Context
from gradenc_core.signals.sizes import BASELINE
from gradenc_core.signals.stimulus import Stimuli
from gradenc_core.stimuli.generated import numbered_image
from gradenc_core.stimuli.images import read_stimulus
from gradenc_core.stimuli.label_tables import read_labels
from jobs import models, plugins
from jobs.bank import open_bank
from jobs.runner import Arrays, Facts, Work
from jobs.spec import (
    FeaturesSpec,
    GeneratedImages,
    ObjectiveSpec,
    PcaSpec,
    ScalesSpec,
    SignalSpec,
    SourceSpec,
)
from storage_schemas.kinds.features import layer_array, scale_array
from storage_schemas.kinds.pca import components_array, mean_array
from storage_schemas.protocol.store import Store, Unit


def compute(work: Work) -> Iterator[tuple[Store, Unit, Arrays, Facts]]:
    """Yield the shard's features of every source, (n_layers, n_stimuli, n_features) float32.

    Without projection every layer is an array of its own.

    All units of an item share model, layers, tokens, projection and stimuli; they differ in their
    source, and the planner gives gradients of one study one scale.
    """
    torch.set_num_threads(work.how.threads)
    specs = {store.path: FeaturesSpec.model_validate(store.spec) for store, _ in work.units}
    first_store, first_unit = work.units[0]
    stores, each = [store for store, _ in work.units], list(specs.values())
    extractor = extractor_of(
        stores, each, work, _components(each, work.root), _scales(each, work.root)
    )
    labels = _labels(stores, each)
    drawn = each[0].generated
    batches = load(extractor, first_store, first_unit, work.how.threads, labels, drawn)
    features = extractor.stream(batches, first_unit.key["stop"] - first_unit.key["start"])
    facts = {
        "micro_batch": work.how.micro_batch,
        "threads": work.how.threads,
        "device": device().type,
        "gpu": torch.cuda.get_device_name() if device().type == "cuda" else None,
    }
    for store, unit in work.units:
        yield store, unit, _arrays(features[specs[store.path].source]), facts


def _components(specs: Sequence[FeaturesSpec], root: Path) -> dict[str, list[Components]]:
    """Read the principal components of every layer, by the sources that have them."""
    return {s.source: _opened(s.pca.open(root).dataset()) for s in specs if s.pca is not None}


def _opened(data: xr.Dataset) -> list[Components]:
    arrays = (
        (data[mean_array(index)].values, data[components_array(index)].values)
        for index in range(data.sizes["layer"])
    )
    return [Components(torch.from_numpy(mean), torch.from_numpy(x)) for mean, x in arrays]


def _scales(specs: Sequence[FeaturesSpec], root: Path) -> dict[str, list[torch.Tensor]]:
    """Read the scales of every layer's channels, by source."""
    opened = {s.source: s.scales.open(root).dataset() for s in specs if s.scales is not None}
    return {
        source: [
            torch.from_numpy(data[scale_array(index)].values)
            for index in range(data.sizes["layer"])
        ]
        for source, data in opened.items()
    }


def extractor_of(
    stores: Sequence[Store],
    specs: Sequence[SourceSpec],
    work: Work,
    components: Mapping[str, Sequence[Components]] | None = None,
    scales: Mapping[str, Sequence[torch.Tensor]] | None = None,
) -> SignalExtractor:
    """Return the extractor of the sources of stores and their specifications, of one model."""
    model, weights = _checked_model(stores[0], specs[0], work.root)
    signal = signal_of(specs)
    gradients = [
        part for s, spec in zip(stores, specs, strict=True) for part in loss_parts(s, spec)
    ]
    banks = [objective.bank for objective, _ in gradients if objective.bank is not None]
    objectives, head = plugins.load(gradients)
    baselines = [s.baseline for s in specs if isinstance(s, FeaturesSpec) and s.baseline]
    bank = open_bank(banks[0], work.root, weights) if banks else None
    return build_extractor(
        model,
        [spec.source for spec in specs],
        signal,
        work.how.micro_batch,
        Context(signal.seed, bank, head),
        objectives,
        components,
        scales,
        [source for baseline in baselines for source, _ in baseline.losses],
        baselines[0].width if baselines else None,
    )


def signal_of(specs: Sequence[SourceSpec | ScalesSpec | PcaSpec]) -> SignalSpec:
    """Return how the signals of all sources of one pass are made.

    That of a gradient knows its scale; that of the baseline, whose features are neither pooled nor
    projected like the others, serves only where it is alone.
    """
    ordered = sorted(specs, key=lambda s: (s.signal.gradient_scale is None, s.source == BASELINE))
    return ordered[0].signal


def loss_parts(
    store: Store, spec: SourceSpec | ScalesSpec | PcaSpec
) -> Iterator[tuple[ObjectiveSpec, Mapping[str, str]]]:
    """Yield the parts of every loss of a store's source, with the locations of their files.

    The baseline has several losses, whose locations end in `@` and their source.
    """
    if spec.objective is not None:
        yield spec.objective, store.locations
    for source, objective in spec.losses:
        end = f"@{source}"
        own = {k.removesuffix(end): p for k, p in store.locations.items() if k.endswith(end)}
        yield objective, own


def build_extractor(
    model: VisionModel,
    sources: Sequence[str],
    signal: SignalSpec,
    micro_batch: int,
    context: Context | None = None,
    objectives: Mapping[str, Objective] = OBJECTIVES,
    components: Mapping[str, Sequence[Components]] | None = None,
    scales: Mapping[str, Sequence[torch.Tensor]] | None = None,
    losses: Sequence[str] = (),
    baseline_width: int | None = None,
) -> SignalExtractor:
    """Return the extractor of `sources` as the specification describes them."""
    options = ExtractionOptions(
        layers=[name for name, _ in signal.layers],
        tokens=signal.tokens,
        projection=signal.projection,
        seed=signal.seed,
        scale=signal.gradient_scale or "unit",
        precision=signal.precision,
        micro_batch=micro_batch,
        context=context,
        objectives=objectives,
        components=components,
        scales=scales,
        losses=losses,
        baseline_width=baseline_width,
    )
    return SignalExtractor(model, sources, options)


def _labels(stores: Sequence[Store], specs: Sequence[FeaturesSpec]) -> Mapping[str, int] | None:
    """Return the true classes by stimulus, if one of the sources takes them."""
    found = (read_labels_of(s, spec.labels) for s, spec in zip(stores, specs, strict=True))
    return next((labels for labels in found if labels is not None), None)


def read_labels_of(store: Store, digest: str | None) -> Mapping[str, int] | None:
    """Return the true classes that a store was planned with, by stimulus; None without any."""
    if digest is None:
        return None
    path = Path(store.locations["labels"])
    plugins.require_unchanged(path, digest, "these labels")
    return read_labels(path)


def load(
    extractor: SignalExtractor,
    store: Store,
    unit: Unit,
    threads: int,
    labels: Mapping[str, int] | None = None,
    drawn: GeneratedImages | None = None,
) -> Iterator[Stimuli]:
    """Yield the unit's stimuli in micro-batches, decoded or drawn ahead; refuse any that changed.

    Parameters
    ----------
    drawn : GeneratedImages, optional
        How generated images are drawn; by default they are read from the store's folder.
    """
    stimuli = store.dataset().isel(stimulus=slice(unit.key["start"], unit.key["stop"]))
    named = zip(stimuli["stimulus"].values, stimuli["stimulus_digest"].values, strict=True)
    if drawn is not None:
        return extractor.load(partial(_draw, drawn), named, threads, labels)
    decode = partial(read_stimulus, Path(store.locations["stimuli"]))
    return extractor.load(decode, named, threads, labels)


def _draw(how: GeneratedImages, name: str, _: str) -> Image.Image:
    """Return the generated image whose number ends its id."""
    return numbered_image(int(name.rpartition("/")[2]), how.size, how.seed)


def _arrays(features: Features) -> Arrays:
    if isinstance(features, np.ndarray):
        return {"features": features}
    return {layer_array(index): layer for index, layer in enumerate(features)}


def _checked_model(store: Store, spec: SourceSpec, root: Path) -> tuple[VisionModel, str]:
    model, digest = models.load(spec.model, store.locations.get("checkpoint"))
    prepared = spec.prepared.open(root).dataset()["weights_digest"].values
    if digest != np.asarray(prepared, dtype=np.uint8).tobytes().hex():
        raise ValueError(
            f"the weights of {spec.model.architecture} here differ from those that stage prepare "
            f"saw for {store.label}; use the same weight files and library versions"
        )
    return model, digest
