"""Speed of earlier runs, from the attempt records of committed units in a store root."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from pydantic import ValidationError

from gradenc_core.ridge.cost import plan_solver
from gradenc_core.signals.sizes import BASELINE
from jobs.encode import stored_shapes
from jobs.spec import FeaturesSpec, ModelSpec, ScoresSpec, SignalSpec
from storage_schemas.protocol.attempts import latest_attempts
from storage_schemas.protocol.store import Store

Key = tuple[Any, ...]


@dataclass(frozen=True)
class Record:
    """Median over units of the seconds per image, or per operation."""

    seconds: float
    units: int


def pass_key(model: ModelSpec, signal: SignalSpec, sources: Iterable[str]) -> Key:
    """Return a key that passes of equal cost share; weights, seed and scale do not change it."""
    size = model.preprocessing.image_size
    how = signal.model_copy(update={"gradient_scale": None, "seed": 0})
    return model.library, model.architecture, size, how, *sorted(sources)


def fit_key(spec: ScoresSpec) -> Key:
    """Return a key that fits of equal cost per operation share."""
    return spec.banded, spec.beyond is not None


def extract_records(root: Path, on_gpu: bool) -> dict[Key, Record]:
    """Return the seconds per image of one process; all sources of a shard share a pass."""
    shards: dict[Any, dict[str, tuple[float, int]]] = {}
    for store in _stores(root, "extract", "features"):
        try:
            spec = FeaturesSpec.model_validate(store.spec)
        except ValidationError:  # an earlier version's
            continue
        if spec.source == BASELINE:  # made by the passes of the others, and at their cost
            continue
        signal = spec.signal.model_copy(update={"gradient_scale": None})
        for index, seconds in _seconds(store, on_gpu):
            key = store.units[index].key
            shard = spec.model, signal, spec.stimuli, spec.stimuli_per_shard, index
            n_images = key["stop"] - key["start"]
            shards.setdefault(shard, {})[spec.source] = seconds, n_images
    found: dict[Key, list[float]] = {}
    for (model, signal, *_), sources in shards.items():
        seconds, n_images = max(sources.values())
        found.setdefault(pass_key(model, signal, sources), []).append(seconds / n_images)
    return _medians(found)


def encode_records(root: Path) -> dict[Key, Record]:
    """Return the seconds per operation of one process."""
    found: dict[Key, list[float]] = {}
    for store in _stores(root, "encode", "scores"):
        try:
            spec = ScoresSpec.model_validate(store.spec)
        except ValidationError:  # an earlier version's
            continue
        try:
            shapes = stored_shapes(spec, store, root)
        except FileNotFoundError:  # its features are gone
            continue
        operations = plan_solver(shapes, spec.encoding.ridge_options, spec.banded).operations
        rates = found.setdefault(fit_key(spec), [])
        rates.extend(seconds / operations for _, seconds in _seconds(store, on_gpu=False))
    return _medians(found)


def _stores(root: Path, stage: str, kind: str) -> Iterator[Store]:
    """Yield the sealed stores of a kind below a root."""
    for path in sorted((root / stage).glob("*/plan.json")):
        store = Store.open(path.parent)
        if store.kind == kind and store.sealed():
            yield store


def _seconds(store: Store, on_gpu: bool) -> Iterator[tuple[int, float]]:
    for index, attempt in latest_attempts(store).items():
        used = attempt.used
        if attempt.outcome != "committed" or used.seconds is None:
            continue
        if bool(used.gpu) == on_gpu:
            yield index, used.seconds


def _medians(found: dict[Key, list[float]]) -> dict[Key, Record]:
    return {key: Record(median(times), len(times)) for key, times in found.items() if times}
