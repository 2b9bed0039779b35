"""Responses of the planted study, trial by trial, as a lab records them.

What drives them is in `gradenc_core.planted.brain`; here are the anatomy, the sensors, the sessions
and the noise of single trials. The truth of a study stands beside its recordings (docs/methods.md).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gradenc_core.planted.brain import (
    SCENARIOS,
    Array,
    Assignment,
    Brain,
    Features,
    Latencies,
    Scenario,
    region_signals,
    scaled,
    sensor_signals,
)

REGIONS = ("V1", "V2", "V3", "V4", "LO", "VO", "PHC", "FFA")
REGION_STEP_MM = 10.0
VOXEL_MM = 2.0
BLOCK = (5, 3, 2)
"""Voxels of one region in one hemisphere along x, y and z: 30."""
N_COMPONENTS = 10
"""Dimensions of a layer that drive the brain: the first principal components of its features."""
N_RESIDUALISED = 50
"""Principal components of every layer's forward features that are removed from gamma."""
N_COMMON = 30
"""Components of all layers' gradients together that drive what the layers share."""
GRADIENT_SHARE = 0.4


@dataclass(frozen=True)
class Sizes:
    """How much is recorded, and how cleanly: noise is per trial, relative to a unit signal."""

    fmri_subjects: int = 2
    meg_subjects: int = 2
    sessions: int = 3
    sensors: int = 6
    sampling_hz: float = 40.0
    start_s: float = -0.1
    stop_s: float = 0.9
    voxel_noise: float = 1.2
    sensor_noise: float = 2.0


@dataclass(frozen=True)
class FmriSubject:
    """Trials of one subject; every stimulus is shown once per session.

    Attributes
    ----------
    sessions : list of (array (n_trials, n_voxels) float32, order (n_trials,))
        Responses, and which stimulus each trial showed.
    ijk : array, (n_voxels, 3)
    rois, hemispheres : tuple of str, (n_voxels,)
    """

    subject: str
    sessions: list[tuple[NDArray[np.float32], NDArray[np.intp]]]
    ijk: NDArray[np.intp]
    rois: tuple[str, ...]
    hemispheres: tuple[str, ...]
    affine: Array
    shape: tuple[int, int, int]


@dataclass(frozen=True)
class MegSubject:
    """Trials of one subject: data (n_trials, n_sensors, n_times), order and session (n_trials,)."""

    subject: str
    data: NDArray[np.float32]
    order: NDArray[np.intp]
    sessions: NDArray[np.intp]
    times: Array
    positions: Array


@dataclass(frozen=True)
class Planted:
    """A planted study's recordings, and the truth, which the pipeline never sees."""

    fmri: list[FmriSubject]
    meg: list[MegSubject]
    truth: dict[str, object] = field(default_factory=dict)


def components(features: Array, n: int = N_COMPONENTS) -> Array:
    """Return the first principal components, (n_stimuli, n), of variance 1 in sum."""
    left, size, _ = np.linalg.svd(features - features.mean(axis=0), full_matrices=False)
    return scaled(left[:, :n] * size[:n])


def residual_gradients(forward: Sequence[Array], gradient: Sequence[Array]) -> list[Array]:
    """Remove from gradients the part linear in the leading components of any layer's forward.

    Parameters
    ----------
    forward, gradient : sequence of array, each (n_stimuli, n_features)
        Per layer.

    Returns
    -------
    list of array, each (n_stimuli, n_features)
    """
    leading = []
    for layer in forward:
        left, _, _ = np.linalg.svd(layer - layer.mean(axis=0), full_matrices=False)
        leading.append(left[:, :N_RESIDUALISED])
    basis = np.linalg.qr(np.hstack(leading))[0]
    centred = [layer - layer.mean(axis=0) for layer in gradient]
    return [layer - basis @ (basis.T @ layer) for layer in centred]


def driving_features(
    forward: Sequence[Array], gradient: Sequence[Array], aside: Sequence[Array], depth: Array
) -> Features:
    """Return what the planted brains are tuned to: a few components of every layer.

    Parameters
    ----------
    forward, gradient, aside : sequence of array, each (n_stimuli, n_features)
        Per layer; see `gradenc_core.planted.brain.Features`.
    depth : array, (n_layers,)
        Relative depths.
    """
    gamma = [components(layer) for layer in residual_gradients(forward, gradient)]
    return Features(
        [components(layer) for layer in forward],
        gamma,
        [components(layer) for layer in aside],
        components(np.hstack(gamma), N_COMMON),
        np.asarray(depth, dtype=np.float64),
    )


def plant(scenario: Scenario, features: Features, seed: int, sizes: Sizes | None = None) -> Planted:
    """Plant a study.

    Parameters
    ----------
    scenario : str
        One of `SCENARIOS`.
    features : Features
        See `driving_features`.
    seed : int

    Raises
    ------
    ValueError
        If the scenario is unknown.
    """
    if scenario not in SCENARIOS:
        raise ValueError(f"unknown scenario {scenario!r}; choose one of {', '.join(SCENARIOS)}")
    sizes = sizes or Sizes()
    rng = np.random.default_rng([seed, SCENARIOS.index(scenario)])
    brain = Brain(scenario, features, GRADIENT_SHARE, rng)
    assignment = brain.assignment(len(REGIONS))
    # One assignment and one set of latencies for all subjects, as one truth is written down.
    assignment, latencies = brain.assignment(len(REGIONS)), brain.latencies()
    fmri = [
        _record_fmri(brain, f"sub-{i + 1:02d}", assignment, sizes)
        for i in range(sizes.fmri_subjects)
    ]
    meg = [
        _record_meg(brain, f"sub-{sizes.fmri_subjects + i + 1:02d}", latencies, sizes)
        for i in range(sizes.meg_subjects)
    ]
    truth: dict[str, object] = {
        "scenario": scenario,
        "seed": seed,
        "region_forward_layer": dict(zip(REGIONS, assignment.forward.tolist(), strict=True)),
        "forward_latency_s": latencies[0].tolist(),
        "gradient_latency_s": None if latencies[1] is None else latencies[1].tolist(),
    }
    return Planted(fmri, meg, truth)


def _record_fmri(brain: Brain, subject: str, assignment: Assignment, sizes: Sizes) -> FmriSubject:
    ijk, rois, hemispheres, affine, shape = _anatomy()
    n = BLOCK[0] * BLOCK[1] * BLOCK[2]
    signals = np.hstack([np.hstack(region_signals(brain, assignment, n)) for _ in ("L", "R")])
    sessions = []
    for _ in range(sizes.sessions):
        order = brain.rng.permutation(len(signals))
        noise = sizes.voxel_noise * brain.rng.standard_normal(signals.shape)
        sessions.append(((signals[order] + noise).astype(np.float32), order))
    return FmriSubject(subject, sessions, ijk, rois, hemispheres, affine, shape)


def _anatomy() -> tuple[
    NDArray[np.intp], tuple[str, ...], tuple[str, ...], Array, tuple[int, int, int]
]:
    """Place the regions along y, 10 mm apart, in both hemispheres."""
    step = round(REGION_STEP_MM / VOXEL_MM)
    gap = 8
    shape = (2 * BLOCK[0] + gap, step * len(REGIONS), BLOCK[2])
    affine = np.diag([VOXEL_MM, VOXEL_MM, VOXEL_MM, 1.0])
    affine[:3, 3] = [-VOXEL_MM * (shape[0] - 1) / 2, -90.0, 0.0]
    corner = np.indices(BLOCK).reshape(3, -1).T
    ijk, rois, hemispheres = [], [], []
    for side, x in (("L", 0), ("R", BLOCK[0] + gap)):
        for number, region in enumerate(REGIONS):
            ijk.append(corner + np.array([x, step * number, 0]))
            rois += [region] * len(corner)
            hemispheres += [side] * len(corner)
    return np.concatenate(ijk), tuple(rois), tuple(hemispheres), affine, shape


def _record_meg(brain: Brain, subject: str, latencies: Latencies, sizes: Sizes) -> MegSubject:
    n_times = round((sizes.stop_s - sizes.start_s) * sizes.sampling_hz) + 1
    times = sizes.start_s + np.arange(n_times) / sizes.sampling_hz
    signal = sensor_signals(brain, latencies, times, sizes.sensors)
    order = np.concatenate([brain.rng.permutation(len(signal)) for _ in range(sizes.sessions)])
    sessions = np.repeat(np.arange(1, sizes.sessions + 1), len(signal))
    noise = sizes.sensor_noise * brain.rng.standard_normal((len(order), *signal.shape[1:]))
    angles = np.linspace(0, np.pi, sizes.sensors)
    positions = 0.1 * np.stack([np.cos(angles), np.sin(angles) - 0.5, np.full_like(angles, 0.5)], 1)
    data = (signal[order] + noise).astype(np.float32)
    return MegSubject(subject, data, order, sessions, times, positions)
