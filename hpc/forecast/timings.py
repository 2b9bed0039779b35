"""Speed of this machine, from short timings of the parts of a study's units.

The functions that the units call are timed as they stand: they decode images, pass them through the
network, commit a shard and fit a ridge. No factor that was measured on another machine enters.
Stores lie in a temporary folder. The start of processes is timed once, whatever is forecast.
"""

import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from torch.utils.flop_counter import FlopCounterMode

from gradenc_core.arrays import device
from gradenc_core.ridge.cost import REPLICATES, Part, Shapes, plan_solver
from gradenc_core.ridge.encode import score_targets
from gradenc_core.ridge.factorise import factorise
from gradenc_core.ridge.options import RidgeOptions
from gradenc_core.ridge.resample import bootstrap_scores, permutation_scores
from gradenc_core.ridge.targets import TARGET_WIDTH
from gradenc_core.signals.readout import Bank, Context
from gradenc_core.signals.sizes import N_PROTOTYPES
from gradenc_core.signals.stimulus import Stimuli
from hpc.config.profile import StageProfile
from hpc.plan.store_plan import StorePlan
from hpc.study.resolve import NetworkTurn
from hpc.study.resolved import signal_spec
from hpc.study.study import StudyError
from jobs.extract import build_extractor, load
from storage_schemas.protocol.attempts import begin
from storage_schemas.protocol.commit import commit
from storage_schemas.protocol.store import Store

MICRO_BATCH = 16
"""Most images in a timed pass."""
FEW = 1
"""Images in the first timed pass of a network."""
SLOW_S = 1.0
"""If that pass takes less than this (s), a pass of more images is timed too."""
LONG_S = 5.0
"""A first pass that takes longer than this (s) is not repeated: its start-up is a small part."""
REPEATS = 4
"""Most repeats of a timing."""
REPEATED_S = 3.0
"""A timing is not repeated once its repeats took this long together (s)."""
OPERATIONS = 2e11
"""Most operations in a timed fit: a few seconds of one core."""
LEAST_FEATURES = 64
"""A timed fit is not made smaller than this: calls would take longer than matrix products."""
OPENED = 3
"""Stores that a unit of stage encode opens: its own, features, responses."""
EXTRACT = "import submitit, hpc.node.worker, jobs.extract, jobs.stability, {libraries}"
ENCODE = """
import submitit, hpc.node.worker
from hpc.node.dask import local_workers
with local_workers({workers}) as client:
    client.run(exec, "import jobs.encode, jobs.collinearity")
    print("ready", flush=True)
"""
"""What processes do before their first unit."""


@dataclass(frozen=True)
class ExtractSpeed:
    """Extraction of one network with all its sources by one process."""

    load_s: float
    """Time before the first image: loading of the weights, start of the first pass (s)."""
    decode_s: float
    """Time to decode one image (s)."""
    image_s: float
    """Time to decode one image and pass it through the network (s)."""
    commit_s: float
    """Time to write one shard of every source (s)."""
    flops: float
    """Floating-point operations of one image."""


@cache
def time_start(libraries: frozenset[str]) -> float:
    """Return the seconds until a process can load a model of these libraries."""
    return _seconds_until_ready(
        EXTRACT.format(libraries=", ".join(sorted(libraries))) + "; print('ready', flush=True)"
    )


@cache
def time_cluster(workers: int) -> float:
    """Return the seconds until a task and its Dask workers can begin a unit of stage encode."""
    return _seconds_until_ready(ENCODE.format(workers=workers))


def _seconds_until_ready(code: str) -> float:
    started = time.perf_counter()
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdout=pipe, stderr=pipe) as process:
        assert process.stdout is not None
        ready = process.stdout.readline()
        taken = time.perf_counter() - started
        _, errors = process.communicate()
    if not ready:
        raise StudyError(
            "the start of a task could not be timed, because its process ended early; correct the "
            f"installation, or set the environment that it needs: {errors.decode()}"
        )
    return taken


def time_extract(turn: NetworkTurn, plans: Sequence[StorePlan], how: StageProfile) -> ExtractSpeed:
    """Time a pass of a network, after a first one, and the commit of one shard.

    Parameters
    ----------
    plans : sequence of StorePlan
        Features of every source for the same stimuli.
    """
    with TemporaryDirectory() as folder, _threads(how.threads):
        stores = [p.create(Path(folder)) for p in plans]
        commit_s = sum(_seconds_to_commit(store) for store in stores)
        timed = _Passes(turn, stores[0], min(how.micro_batch, FEW), how)
        if timed.run_s < SLOW_S:
            timed = _Passes(turn, stores[0], min(how.micro_batch, MICRO_BATCH), how)
        return ExtractSpeed(
            load_s=turn.built.build_s + timed.first_s,
            decode_s=timed.decode_s / timed.n,
            image_s=timed.run_s / timed.n,
            commit_s=commit_s,
            flops=timed.flops / timed.n,
        )


class _Passes:
    """Passes of the first images of a store."""

    def __init__(self, turn: NetworkTurn, store: Store, most: int, how: StageProfile) -> None:
        resolved, network = turn.resolved, turn.built.network
        network.module.to(device())
        unit = store.units[0]
        start = unit.key["start"]
        self.n = min(most, unit.key["stop"] - start)
        self._unit = replace(unit, key=unit.key | {"stop": start + self.n})
        self._store, self._threads = store, how.threads
        self._extractor = build_extractor(
            network,
            resolved.extracted,
            signal_spec(turn.study, turn.built.described, resolved.sources[-1]),
            self.n,
            _placeholder_context(turn),
            turn.losses.objectives,
            losses=list(resolved.gradients),
            baseline_width=turn.study.encoding.baseline_width,
        )
        with FlopCounterMode(display=False) as counted:
            first_s = _seconds(self._run)
        self.flops: float = counted.get_total_flops()
        self.run_s = first_s if first_s > LONG_S else _best_seconds(self._run)
        self.first_s = max(first_s - self.run_s, 0.0)
        self.decode_s = _best_seconds(lambda: deque(self._images(), maxlen=0))

    def _images(self) -> Iterator[Stimuli]:
        return load(self._extractor, self._store, self._unit, self._threads)

    def _run(self) -> None:
        self._extractor.stream(self._images(), self.n)


def _placeholder_context(turn: NetworkTurn) -> Context:
    """Return noise in the shape of the bank, which does not exist at plan time."""
    rng = torch.Generator().manual_seed(0)
    items, prototypes = (
        torch.randn(n, turn.built.described.n_channels, generator=rng)
        for n in (turn.resolved.bank.n_images, N_PROTOTYPES)
    )
    digests = tuple(str(number) for number in range(len(items)))
    bank = Bank(digests, items, items, items.mean(dim=0), prototypes)
    return Context(turn.study.seed, bank, turn.losses.head)


def time_commit(planned: StorePlan) -> float:
    """Return the time to open the stores that a unit reads and to commit the unit (s)."""
    with TemporaryDirectory() as folder:
        store = planned.create(Path(folder))
        commit_s = _seconds_to_commit(store)
        return commit_s + OPENED * _best_seconds(lambda: store.dataset().load())


def _seconds_to_commit(store: Store) -> float:
    unit, rng = store.units[0], np.random.default_rng(0)
    dtypes = {array.name: array.dtype for array in store.arrays.values()}
    arrays = {
        name: rng.random([b - a for a, b in region], dtype=np.float32).astype(dtypes[name])
        for name, region in unit.regions.items()
    }

    def write() -> None:
        attempt = begin(store, unit, "calibration", 0)
        assert attempt is not None
        commit(store, unit, arrays, {}, attempt)
        attempt.finish("committed")

    return _seconds(write)


def time_fit(shapes: Shapes, options: RidgeOptions, banded: bool) -> dict[Part, float]:
    """Return the seconds per operation of every part of a fit in these shapes.

    One thread is timed, as in a unit of stage encode; a fit that would take long is timed in
    smaller shapes.
    """
    small = _few_replicates(shapes)
    while (
        plan_solver(small, options, banded).operations > OPERATIONS
        and small.n_features > LEAST_FEATURES
    ):
        small = _narrowed(small)
    with threadpool_limits(1):
        _time_parts(replace(small, n_features=2), options, banded)
        timed = _time_parts(small, options, banded)
    counted = plan_solver(small, options, banded).parts
    return {part: seconds / counted[part] for part, seconds in timed.items()}


def _few_replicates(shapes: Shapes) -> Shapes:
    """Return shapes with one block of targets, one of permutations and one of replicates.

    Without a baseline, whose operations are products like those of the fit.
    """
    width = max(1, min(shapes.n_summaries, TARGET_WIDTH))
    return replace(
        shapes,
        n_targets=min(shapes.n_targets, TARGET_WIDTH),
        n_summaries=min(shapes.n_summaries, TARGET_WIDTH),
        n_bootstraps=min(shapes.n_bootstraps, REPLICATES),
        n_permutations=min(shapes.n_permutations, max(1, TARGET_WIDTH // width - 1)),
        n_baseline=0,
        n_unrecorded=0,
    )


def _narrowed(shapes: Shapes) -> Shapes:
    """Return shapes of a quarter fewer features, and of stimuli in proportion."""
    least = 2 * shapes.n_folds * shapes.n_blocks
    return replace(
        shapes,
        n_stimuli=max(min(shapes.n_stimuli, least), shapes.n_stimuli * 3 // 4),
        n_features=shapes.n_features * 3 // 4,
    )


def _time_parts(shapes: Shapes, options: RidgeOptions, banded: bool) -> dict[Part, float]:
    rng, n, p = np.random.default_rng(0), shapes.n_stimuli, shapes.n_features
    x = rng.standard_normal((n, p), dtype=np.float32)
    y, summaries = (_responses(rng, x, width) for width in (shapes.n_targets, shapes.n_summaries))
    folds = np.arange(n) % shapes.n_folds
    blocks = np.arange(n) // shapes.n_folds % shapes.n_blocks
    bands = (p - p // 2, p // 2) if banded else None
    design = factorise(x, folds, None, options, bands)

    def fit() -> None:
        score_targets(factorise(x, folds, None, options, bands), y)

    parts: dict[Part, Callable[[], object]] = {
        "fit": fit,
        "bootstrap": lambda: bootstrap_scores(design, summaries, blocks, shapes.n_bootstraps, 0),
        "permutations": lambda: permutation_scores(design, summaries, shapes.n_permutations, 0),
    }
    wanted = plan_solver(shapes, options, banded).parts
    return {part: _best_seconds(parts[part]) for part in wanted}


def _responses(
    rng: np.random.Generator, x: NDArray[np.float32], n_targets: int
) -> NDArray[np.float32]:
    """Return targets, (n_stimuli, n_targets), that choose many alphas and ratios.

    Each half of the features predicts every target with a strength of its own. A bootstrap solves
    its replicates alpha by alpha, so targets of pure noise, which all choose one alpha, would cost
    less than real ones.
    """
    noise = rng.standard_normal((len(x), n_targets), dtype=np.float32)
    halves = np.array_split(x, 2, axis=1)
    strengths = 10 ** rng.uniform(-2, 1, (2, n_targets))
    for half, strength in zip(halves, strengths, strict=True):
        weights = rng.standard_normal((half.shape[1], n_targets)) / np.sqrt(half.shape[1])
        noise += half @ (weights * strength).astype(np.float32)
    return noise


def _best_seconds(call: Callable[[], object]) -> float:
    """Return the shortest of several timings, which other processes disturbed least."""
    timed = [_seconds(call)]
    while len(timed) < REPEATS and sum(timed) < REPEATED_S:
        timed.append(_seconds(call))
    return min(timed)


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


@contextmanager
def _threads(n: int) -> Iterator[None]:
    """Set torch's threads, and restore them."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)
