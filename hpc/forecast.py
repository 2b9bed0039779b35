"""What a study would run, before anything is submitted: units, bytes, files, expected time."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from gradenc_core.bank import N_PROTOTYPES
from gradenc_core.encoding import encode
from gradenc_core.readout import Bank, Context
from gradenc_core.ridge import RidgeOptions
from gradenc_core.solver import Shapes, plan_solver
from gradenc_core.views import N_VIEWS
from hpc import plan
from hpc.checks import check_models, check_objectives, check_paths
from hpc.memory import check_memory, shapes_of
from hpc.plan import all_plans
from hpc.plugins import all_objectives, find_objectives, loaded_head
from hpc.profile import Profile
from hpc.resolve import Resolved, ResolvedModel, resolve, signal_spec
from hpc.store_plan import StorePlan
from hpc.study import Study
from hpc.targets import Targets, stimulus_sets
from jobs import models
from jobs.encode import ridge_options
from jobs.extract import build_extractor
from jobs.spec import STAGES

PROBE = Shapes(n_stimuli=1_000, n_features=256, n_targets=1_024, n_folds=5)
"""The ridge that is timed."""

OVERHEAD = 2.5
"""Wall time of extraction over its timed passes: it also decodes images and writes shards."""


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
    check_memory(study, resolved, plans, profile)
    seconds = {
        "extract": OVERHEAD * _extract_seconds(study, resolved, targets, profile),
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
        seconds=seconds,
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
    options = ridge_options(plan.encoding_spec(study))
    operations = sum(
        len(p.layout.units) * plan_solver(shapes, options, banded).operations
        for p in plans
        if p.kind == "scores"
        for shapes, banded in [shapes_of(study, resolved, p)]
    )
    return operations / _operations_per_second() / profile.stage("encode").dask_workers


def _operations_per_second() -> float:
    """Time a small fit of one block of targets, with the one thread that stage encode gives it."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((PROBE.n_stimuli, PROBE.n_features))
    y = rng.standard_normal((PROBE.n_stimuli, PROBE.n_targets))
    folds, options = np.arange(len(x)) % PROBE.n_folds, RidgeOptions()
    with threadpool_limits(1):
        encode(x, y, folds, options=options)
        started = time.perf_counter()
        encode(x, y, folds, options=options)
        taken = time.perf_counter() - started
    return plan_solver(PROBE, options, banded=False).operations / taken
