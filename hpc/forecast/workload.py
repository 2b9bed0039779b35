"""Computing time of each stage: measured here, taken from records of earlier runs, or assumed."""

import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path

from gradenc_core.arrays import device
from gradenc_core.ridge.cost import Part, Shapes, plan_solver
from gradenc_core.signals.stability import PERTURBATIONS
from hpc.config.profile import Profile, StageProfile
from hpc.forecast.earlier_runs import (
    Key,
    Record,
    encode_records,
    extract_records,
    fit_key,
    pass_key,
)
from hpc.forecast.memory import shapes_of
from hpc.forecast.timings import (
    ExtractSpeed,
    time_cluster,
    time_commit,
    time_extract,
    time_fit,
    time_start,
)
from hpc.plan.extract import n_features
from hpc.plan.store_plan import StorePlan
from hpc.study.resolve import NetworkTurn
from hpc.study.resolved import Resolved, signal_spec
from hpc.study.study import Study
from jobs.spec import ScoresSpec

GPU_FLOPS = 1e13
"""Assumed speed of a GPU where this machine has none: half of an A100's in float32 (1/s)."""
UNIT_S = 1.0
"""Assumed time of a unit of the short stages, without its passes (s)."""

MEASURED = "measured here"
RECORDS = "from records of {} units"
ASSUMED = "assumed"
PARTS = {
    "fit": "scores",
    "bootstrap": "encoding.bootstrap",
    "permutations": "encoding.permutations",
    "commit": "writing",
    "collinearity": "collinearity",
}
"""Parts of stage encode, named by the key of the study that makes them smaller."""
GPU_ASSUMED = f"assumed: a GPU of {GPU_FLOPS:.0e} operations/s; decoding measured here"


@dataclass(frozen=True)
class StageWork:
    """What the processes of a stage have to do."""

    items: int
    seconds: float
    """Time that one process would need for all items (s)."""
    start_s: float
    """Time of a process before its first item (s)."""
    basis: tuple[str, ...]
    """Where the times come from."""
    longest_s: float = UNIT_S
    """Time of the longest item (s)."""


@dataclass(frozen=True)
class NetworkPasses:
    """Speed of one network with all its sources, in one process."""

    image_s: float
    """Time of one image (s)."""
    commit_s: float
    """Time to commit a shard, where it is not part of an image's time (s)."""
    load_s: float
    """Time before the first image (s)."""
    basis: str
    """Where the times come from."""


Tell = Callable[[str], None]
"""Called with the name of what is timed next."""


def workload(
    study: Study,
    resolved: Resolved,
    plans: Sequence[StorePlan],
    profile: Profile,
    passes: Mapping[str, NetworkPasses],
    tell: Tell,
) -> dict[str, StageWork]:
    """Return the work of every stage, given the speed of each network by its name."""
    how = profile.stage("extract")
    tell("timing the start of processes")
    start_s = time_start(frozenset(model.spec.library for model in resolved.models))
    tell("timing the ridge")
    return {
        "prepare": _prepare(resolved, plans, passes, start_s),
        "ingest": _short(plans, "ingest", start_s),
        "extract": _extract(resolved, plans, passes, how, start_s),
        "encode": _encode(study, resolved, plans, profile.stage("encode")),
        "compare": _short(plans, "compare", start_s),
    }


def _units(plans: Sequence[StorePlan], stage: str) -> int:
    return sum(len(p.layout.units) for p in plans if p.stage == stage)


def _short(plans: Sequence[StorePlan], stage: str, start_s: float) -> StageWork:
    units = _units(plans, stage)
    return StageWork(units, units * UNIT_S, start_s, (ASSUMED,))


def _prepare(
    resolved: Resolved,
    plans: Sequence[StorePlan],
    passes: Mapping[str, NetworkPasses],
    start_s: float,
) -> StageWork:
    """Count the passes of the bank's images, of scales, classes and principal components.

    The bank takes a forward pass, twice since scales are made with one of their own; classes take
    four passes of each gradient, components a pass of their stimuli, and scales one of all sources.
    """
    gradients = resolved.gradients.values()
    bank = 2 * resolved.bank.n_images * any(source.needs_bank for source in gradients)
    classes = 4 * len(gradients) * resolved.class_images.n_images
    # A pass of all sources goes forward once and back for every gradient.
    components = sum(p.layout.coords.sizes["stimulus"] for p in plans if p.kind == "pca")
    images = (bank + classes + 2 * components / len(passes)) / (1 + len(gradients))
    images += resolved.scale_images.n_images
    short = _short(plans, "prepare", start_s)
    seconds = short.seconds + sum(p.load_s + images * p.image_s for p in passes.values())
    return StageWork(short.items, seconds, start_s, short.basis)


def time_passes(turn: NetworkTurn, plans: Sequence[StorePlan], how: StageProfile) -> NetworkPasses:
    """Return the speed of a network from records of earlier runs, or else by timing it here."""
    study, resolved, model = turn.study, turn.resolved, turn.built.described
    root, on_gpu = _root(study), how.gpus_per_node > 0
    records = extract_records(root, on_gpu or _gpu_is_here()) if root else {}
    signal = signal_spec(study, model, "forward")
    record = records.get(pass_key(model.spec, signal, resolved.sources))
    if record is not None:
        return NetworkPasses(record.seconds, 0.0, 0.0, RECORDS.format(record.units))
    speed = time_extract(turn, _features(plans, model.name)[: len(resolved.extracted)], how)
    image_s, basis = image_seconds(speed, on_gpu and not _gpu_is_here())
    return NetworkPasses(image_s, speed.commit_s, speed.load_s, basis)


def image_seconds(speed: ExtractSpeed, on_assumed_gpu: bool) -> tuple[float, str]:
    """Return the time of an image (s) and where it comes from."""
    if not on_assumed_gpu:
        return speed.image_s, MEASURED
    return max(speed.decode_s, speed.flops / GPU_FLOPS), GPU_ASSUMED


def _gpu_is_here() -> bool:
    return device().type != "cpu"


def _root(study: Study) -> Path | None:
    return study.folder / study.store_root if study.store_root else None


def _features(plans: Sequence[StorePlan], model: str) -> list[StorePlan]:
    return [p for p in plans if p.kind == "features" and p.attrs["model"] == model]


def _extract(
    resolved: Resolved,
    plans: Sequence[StorePlan],
    passes: Mapping[str, NetworkPasses],
    how: StageProfile,
    start_s: float,
) -> StageWork:
    """Count the shards and each network's stability; all sources of a shard share its passes."""
    items, seconds, longest = len(passes), 0.0, 0.0
    for name, timed in passes.items():
        sets = _features(plans, name)[:: len(resolved.extracted)]
        sizes = [size for p in sets for size in _padded(p, how.micro_batch)]
        images = sum(sizes) + stability_images(resolved)
        items += len(sizes)
        seconds += images * timed.image_s + len(sizes) * timed.commit_s
        largest = max(*sizes, stability_images(resolved))
        longest = max(longest, largest * timed.image_s + timed.commit_s)
    load_s = sum(timed.load_s for timed in passes.values())
    basis = tuple(timed.basis for timed in passes.values())
    return StageWork(items, seconds, start_s + load_s, basis, longest)


def _padded(planned: StorePlan, micro_batch: int) -> Iterator[int]:
    """Yield the images of every shard, whose last micro-batch is padded."""
    for unit in planned.layout.units:
        yield -(-(unit.key["stop"] - unit.key["start"]) // micro_batch) * micro_batch


def stability_images(resolved: Resolved) -> int:
    """Return the images passed for stability: each as it is, and with every perturbation."""
    return resolved.class_images.n_images * (1 + len(PERTURBATIONS))


@dataclass(frozen=True)
class ScoreFit:
    """A store of scores with the shapes and operations of the fit in each of its units."""

    plan: StorePlan
    spec: ScoresSpec
    shapes: Shapes
    parts: Mapping[Part, float]


def _encode(
    study: Study, resolved: Resolved, plans: Sequence[StorePlan], how: StageProfile
) -> StageWork:
    """Add up the parts of all fits, each at the rate measured for its kind of bands."""
    root = _root(study)
    records = encode_records(root) if root else {}
    kinds: dict[Key, list[ScoreFit]] = {}
    for fit in _fits(study, resolved, plans):
        kinds.setdefault(fit_key(fit.spec), []).append(fit)
    seconds: defaultdict[str, float] = defaultdict(float)
    longest, least, basis = 0.0, inf, []
    for key, fits in kinds.items():
        rates, commit_s, said = _rates(study, fits, records.get(key))
        basis.append(said)
        least = min(least, rates["fit"])
        for fit in fits:
            unit = {part: n * rates[part] for part, n in fit.parts.items()} | {"commit": commit_s}
            longest = max(longest, sum(unit.values()))
            for part, own in unit.items():
                seconds[part] += own * len(fit.plan.layout.units)
    collinearity = [p for p in plans if p.kind == "collinearity"]
    operations = sum(_collinearity_operations(study, resolved, p) for p in collinearity)
    seconds["collinearity"] = least * operations
    items = sum(len(p.layout.units) for p in plans if p.stage == "encode")
    # As many workers as this machine has processors for start at once.
    workers = min(how.dask_workers, os.cpu_count() or 1, items)
    basis.append(_largest_part(seconds))
    return StageWork(items, sum(seconds.values()), time_cluster(workers), tuple(basis), longest)


def _rates(
    study: Study, fits: Sequence[ScoreFit], record: Record | None
) -> tuple[Mapping[Part, float], float, str]:
    """Return seconds per operation of each part, the time of a commit (s), and their basis."""
    largest = max(fits, key=lambda fit: sum(fit.parts.values()))
    if record is not None:
        return dict.fromkeys(largest.parts, record.seconds), 0.0, RECORDS.format(record.units)
    rates = time_fit(largest.shapes, largest.spec.encoding.ridge_options, largest.spec.banded)
    return rates, time_commit(largest.plan), MEASURED


def _largest_part(seconds: Mapping[str, float]) -> str:
    """Name the part that takes most of the time, so that a user can reduce it."""
    part = max(seconds, key=lambda part: seconds[part])
    return f"{seconds[part] / sum(seconds.values()):.0%} for {PARTS[part]}"


def _fits(study: Study, resolved: Resolved, plans: Sequence[StorePlan]) -> Iterator[ScoreFit]:
    for p in plans:
        if isinstance(spec := p.spec, ScoresSpec):
            shapes, banded = shapes_of(study, resolved, p)
            plan = plan_solver(shapes, spec.encoding.ridge_options, banded)
            yield ScoreFit(p, spec, shapes, plan.parts)


def _collinearity_operations(study: Study, resolved: Resolved, planned: StorePlan) -> float:
    """Return the operations of the products of all pairs of layers."""
    model = next(m for m in resolved.models if m.name == planned.attrs["model"])
    widths = n_features(study, resolved, model, planned.attrs["source"])
    total = widths * len(model.layers) if isinstance(widths, int) else sum(widths)
    return float(len(resolved.stimulus_ids)) * total**2
