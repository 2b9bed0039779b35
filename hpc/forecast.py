"""What a study would run, before anything is submitted: units, bytes, files, expected time."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from gradenc_core.bank import N_PROTOTYPES
from gradenc_core.readout import Bank, Context
from gradenc_core.views import N_VIEWS
from hpc import plan
from hpc.checks import check_models, check_objectives, check_paths
from hpc.plan import all_plans
from hpc.plugins import all_objectives, find_objectives, loaded_head
from hpc.profile import Profile
from hpc.resolve import Resolved, ResolvedModel, resolve, signal_spec
from hpc.store_plan import StorePlan
from hpc.study import Study
from hpc.targets import Targets, stimulus_sets
from jobs import models
from jobs.extract import build_extractor
from jobs.spec import STAGES, EncodingSpec

PROBE_SIZE = 512
"""Side of the matrices whose product is timed."""

OVERHEAD = {"extract": 2.5, "encode": 4.0}
"""Wall time over timed arithmetic, measured on the demo with 2 cores (11 s over 4, 181 s over 43):
decoding and writing images and shards; start-up, resampling and memory traffic of the ridge."""

INNER_FITS = {"kfold": 10.0, "gcv": 1.0, "loo": 10.0}
"""Products per target and fold for the choice of alpha, relative to one projection."""


@dataclass(frozen=True)
class StageForecast:
    """What one stage would run; `seconds` is None for stages of a few seconds."""

    stage: str
    stores: int
    units: int
    files: int
    n_bytes: int
    seconds: float | None


def forecast(study: Study, profile: Profile) -> list[StageForecast]:
    """Check the study as `submit` would and count what it would run."""
    check_paths(study)
    check_objectives(study)
    check_models(study)
    resolved, subjects = resolve(study)
    targets = [Targets.of_subject(subject) for subject in subjects]
    plans = all_plans(study, resolved, subjects)
    seconds = {
        "extract": _extract_seconds(study, resolved, targets, profile),
        "encode": _encode_seconds(study, resolved, plans, profile),
    }
    return [_stage(stage, plans, seconds.get(stage)) for stage in STAGES]


def _stage(stage: str, plans: Sequence[StorePlan], seconds: float | None) -> StageForecast:
    chosen = [p.layout for p in plans if p.stage == stage]
    return StageForecast(
        stage=stage,
        stores=len(chosen),
        units=sum(len(layout.units) for layout in chosen),
        files=sum(layout.n_files for layout in chosen),
        n_bytes=sum(layout.n_bytes for layout in chosen),
        seconds=None if seconds is None else seconds * OVERHEAD[stage],
    )


def _extract_seconds(
    study: Study, resolved: Resolved, targets: Sequence[Targets], profile: Profile
) -> float:
    """Time one micro-batch of each model with all its sources."""
    stage = profile.stage("extract")
    n_stimuli = sum(len(stimuli) for stimuli in stimulus_sets(targets))
    per_image = [
        _seconds_per_image(study, resolved, model, stage.micro_batch, stage.threads)
        for model in resolved.models
    ]
    return sum(per_image) * n_stimuli / stage.slots


def _seconds_per_image(
    study: Study, resolved: Resolved, model: ResolvedModel, micro_batch: int, threads: int
) -> float:
    loaded, _ = models.load(model.spec, model.checkpoint)
    signal = signal_spec(study, model, resolved.sources[-1])
    found = find_objectives(study, study.objectives)
    context = _placeholder_context(study, resolved, model)
    extractor = build_extractor(
        loaded, resolved.sources, signal, micro_batch, context, all_objectives(found)
    )
    images = torch.zeros(micro_batch, 3, loaded.image_size, loaded.image_size)
    views = images[:, None].expand(-1, N_VIEWS, -1, -1, -1)
    run = partial(extractor, images, None, ["0" * 64] * micro_batch, views)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        run()
        started = time.perf_counter()
        run()
        return (time.perf_counter() - started) / micro_batch
    finally:
        torch.set_num_threads(before)


def _placeholder_context(study: Study, resolved: Resolved, model: ResolvedModel) -> Context:
    """Return noise in the shape of the bank, which does not exist at plan time."""
    rng = torch.Generator().manual_seed(0)
    items, prototypes = (
        torch.randn(n, model.n_channels, generator=rng)
        for n in (resolved.bank.n_images, N_PROTOTYPES)
    )
    digests = tuple(str(number) for number in range(len(items)))
    bank = Bank(digests, items, items, items.mean(dim=0), prototypes)
    return Context(study.seed, bank, loaded_head(study))


def _encode_seconds(
    study: Study, resolved: Resolved, plans: Sequence[StorePlan], profile: Profile
) -> float:
    encoding = plan.encoding_spec(study)
    widest = max(width for model in resolved.models for width in model.widths)
    p_source = study.projection or widest
    scores = [p for p in plans if p.kind == "scores"]
    operations = sum(sum(_unit_operations(p, p_source, encoding)) for p in scores)
    return operations / _operations_per_second() / profile.stage("encode").dask_workers


def _unit_operations(p: StorePlan, p_source: int, encoding: EncodingSpec) -> Iterator[float]:
    """Yield multiply-adds x 2 of the unit of each layer: factorisations, then targets."""
    arrays = {array.name: array for array in p.layout.arrays}
    banded = len(p.layout.coords["measure"]) > len(("r", "sse", "sst", "alpha"))
    p_total = p_source + (encoding.forward_all if banded else 0)
    ratios = len(encoding.band_ratios) if banded else 1
    fits = encoding.folds * ratios * INNER_FITS[encoding.alpha_choice]
    eigh = 10.0 * p_total**3 * ratios * encoding.folds
    n_summaries = arrays["bootstrap"].shape[-1]
    targets = arrays["scores"].shape[-1] + n_summaries * encoding.permutations
    per_target = 2.0 * p_total**2 * fits
    resampled = encoding.bootstrap * (eigh + n_summaries * 2.0 * p_total**2 * encoding.folds)
    for _ in p.layout.units:
        yield eigh * INNER_FITS[encoding.alpha_choice] + targets * per_target + resampled


def _operations_per_second() -> float:
    """Time a float64 matrix product on this machine, with the threads BLAS has here."""
    square = np.random.default_rng(0).standard_normal((PROBE_SIZE, PROBE_SIZE))
    square @ square
    started = time.perf_counter()
    for _ in range(5):
        square @ square
    return 5 * 2.0 * PROBE_SIZE**3 / (time.perf_counter() - started)
