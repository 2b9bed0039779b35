"""Responses of the planted study: brains whose relation to a network's layers is known.

docs/methods.md. A voxel is `sqrt(1 - b) phi_k w + sqrt(b) gamma_m w' + noise`: phi
are forward features, gamma gradient features without the part that is linear in any layer's
forward features. A sensor is the sum over layers of the same, each at its layer's latency.
"""

from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Scenario = Literal[
    "null_noise",
    "null_order",
    "forward_only",
    "deep_only",
    "plausible_backprop",
    "misaligned",
]
SCENARIOS: tuple[Scenario, ...] = get_args(Scenario)

REGIONS = ("V1", "V2", "V3", "V4", "LO", "VO", "PHC", "FFA")
REGION_STEP_MM = 10.0
VOXEL_MM = 2.0
BLOCK = (5, 3, 2)
"""Voxels of one region in one hemisphere along x, y and z: 30."""
N_COMPONENTS = 10
"""Dimensions of a layer that drive the brain: the first principal components of its features."""
N_RESIDUALISED = 50
"""Principal components of every layer's forward features that are removed from gamma."""
SHARED = 0.5
"""Share of a voxel's tuning that it has in common with its region."""
GRADIENT_SHARE = 0.4
BUMP_SD_S = 0.040


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
    """Return the first principal components, (n_layers, n_stimuli, n), overall variance 1."""
    parts = []
    for layer in features:
        left, size, _ = np.linalg.svd(layer - layer.mean(axis=0), full_matrices=False)
        kept = left[:, :n] * size[:n]
        parts.append(kept / np.sqrt((kept**2).sum(axis=1).mean()))
    return np.stack(parts)


def residual_gradients(forward: Array, gradient: Array) -> Array:
    """Remove from gradients the part linear in the leading components of any layer's forward.

    Parameters
    ----------
    forward, gradient : array, (n_layers, n_stimuli, n_features)

    Returns
    -------
    array, (n_layers, n_stimuli, n_features)
    """
    leading = []
    for layer in forward:
        left, _, _ = np.linalg.svd(layer - layer.mean(axis=0), full_matrices=False)
        leading.append(left[:, :N_RESIDUALISED])
    basis = np.linalg.qr(np.hstack(leading))[0]
    centred = gradient - gradient.mean(axis=1, keepdims=True)
    return centred - basis @ (basis.T @ centred)


def plant(
    scenario: Scenario,
    forward: Array,
    gradient: Array,
    depth: Array,
    seed: int,
    sizes: Sizes | None = None,
) -> Planted:
    """Plant a study.

    Parameters
    ----------
    scenario : str
        One of `SCENARIOS`.
    forward, gradient : array, (n_layers, n_stimuli, n_features)
        Features of the planted model, projected with seeds that no pipeline uses.
    depth : array, (n_layers,)
        Relative depths.
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
    brain = _Brain(
        scenario,
        components(forward),
        components(residual_gradients(forward, gradient)),
        np.asarray(depth, dtype=np.float64),
        rng,
    )
    forward_of, gradient_of = brain.region_layers()
    fmri = [
        _record_fmri(brain, f"sub-{i + 1:02d}", forward_of, gradient_of, sizes)
        for i in range(sizes.fmri_subjects)
    ]
    latencies = brain.latencies()
    meg = [
        _record_meg(brain, f"sub-{sizes.fmri_subjects + i + 1:02d}", *latencies, sizes)
        for i in range(sizes.meg_subjects)
    ]
    truth: dict[str, object] = {
        "scenario": scenario,
        "seed": seed,
        "region_forward_layer": dict(zip(REGIONS, forward_of.tolist(), strict=True)),
        "forward_latency_s": latencies[0].tolist(),
        "gradient_latency_s": None if latencies[1] is None else latencies[1].tolist(),
    }
    return Planted(fmri, meg, truth)


@dataclass(frozen=True)
class _Brain:
    """The features, depths and random numbers that all subjects of a study share."""

    scenario: Scenario
    phi: Array
    gamma: Array
    depth: Array
    rng: np.random.Generator

    @property
    def n_layers(self) -> int:
        return len(self.phi)

    def region_layers(self) -> tuple[NDArray[np.intp], NDArray[np.intp] | None]:
        """Return the layer that drives each region, forward and gradient."""
        rising = np.round(np.linspace(0, self.n_layers - 1, len(REGIONS))).astype(np.intp)
        if self.scenario == "deep_only":
            return np.full(len(REGIONS), self.n_layers - 1), None
        if self.scenario == "null_order":
            # Without regard to position: a fresh draw for forward and for gradient.
            draws = self.rng.integers(0, self.n_layers, (2, len(REGIONS)))
            return draws[0], draws[1]
        return rising, rising if self.scenario == "plausible_backprop" else None

    def latencies(self) -> tuple[Array, Array | None]:
        """Return each layer's latency in s, forward and gradient."""
        forward = 0.100 + 0.250 * self.depth
        backward = 0.400 + 0.200 * (1 - self.depth)
        if self.scenario == "null_order":
            return self.rng.permutation(forward), self.rng.permutation(backward)
        if self.scenario == "plausible_backprop":
            return forward, backward
        if self.scenario == "misaligned":
            return forward, np.full(self.n_layers, 0.450)
        return forward, None

    def tuned(self, features: Array, n: int) -> Array:
        """Return `n` responses of unit variance tuned to one layer, (n_stimuli, n)."""
        shared = self.rng.standard_normal((features.shape[1], 1))
        own = self.rng.standard_normal((features.shape[1], n))
        responses = features @ (np.sqrt(SHARED) * shared + np.sqrt(1 - SHARED) * own)
        responses -= responses.mean(axis=0)
        return responses / responses.std(axis=0)


def _voxel_signals(
    brain: _Brain,
    region: int,
    n: int,
    forward_of: NDArray[np.intp],
    gradient_of: NDArray[np.intp] | None,
) -> Array:
    """Return the noiseless responses of a region's voxels, (n_stimuli, n)."""
    if brain.scenario == "null_noise":
        return np.zeros((brain.phi.shape[1], n))
    upper = region >= len(REGIONS) // 2
    layers = _jittered(brain, int(forward_of[region]), n)
    forward = _by_layer(brain, brain.phi, layers)
    if brain.scenario == "deep_only":
        return forward * (1.0 if upper else 0.5)
    if brain.scenario == "misaligned" and upper:
        few = brain.rng.integers(0, brain.n_layers, 4)
        gradient = _by_layer(brain, brain.gamma, brain.rng.choice(few, n))
    elif gradient_of is not None:
        own = layers if brain.scenario == "plausible_backprop" else np.full(n, gradient_of[region])
        gradient = _by_layer(brain, brain.gamma, own)
    else:
        return forward
    return np.sqrt(1 - GRADIENT_SHARE) * forward + np.sqrt(GRADIENT_SHARE) * gradient


def _jittered(brain: _Brain, layer: int, n: int) -> NDArray[np.intp]:
    """Return the voxels' layers: the region's, or now and then a neighbour, so no score is 1."""
    if brain.scenario in ("deep_only", "null_order"):
        return np.full(n, layer)
    steps = brain.rng.choice([-1, 0, 1], n, p=[0.2, 0.6, 0.2])
    return np.clip(layer + steps, 0, brain.n_layers - 1)


def _by_layer(brain: _Brain, features: Array, layers: NDArray[np.intp]) -> Array:
    responses = np.empty((features.shape[1], len(layers)))
    for layer in np.unique(layers):
        columns = np.flatnonzero(layers == layer)
        responses[:, columns] = brain.tuned(features[layer], len(columns))
    return responses


def _record_fmri(
    brain: _Brain,
    subject: str,
    forward_of: NDArray[np.intp],
    gradient_of: NDArray[np.intp] | None,
    sizes: Sizes,
) -> FmriSubject:
    ijk, rois, hemispheres, affine, shape = _anatomy()
    n = BLOCK[0] * BLOCK[1] * BLOCK[2]
    signals = np.hstack(
        [
            _voxel_signals(brain, region, n, forward_of, gradient_of)
            for _ in ("L", "R")
            for region in range(len(REGIONS))
        ]
    )
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


def _record_meg(
    brain: _Brain,
    subject: str,
    forward_at: Array,
    gradient_at: Array | None,
    sizes: Sizes,
) -> MegSubject:
    n_times = round((sizes.stop_s - sizes.start_s) * sizes.sampling_hz) + 1
    times = sizes.start_s + np.arange(n_times) / sizes.sampling_hz
    signal = _sensor_signals(brain, forward_at, gradient_at, times, sizes.sensors)
    order = np.concatenate([brain.rng.permutation(len(signal)) for _ in range(sizes.sessions)])
    sessions = np.repeat(np.arange(1, sizes.sessions + 1), len(signal))
    noise = sizes.sensor_noise * brain.rng.standard_normal((len(order), *signal.shape[1:]))
    angles = np.linspace(0, np.pi, sizes.sensors)
    positions = 0.1 * np.stack([np.cos(angles), np.sin(angles) - 0.5, np.full_like(angles, 0.5)], 1)
    data = (signal[order] + noise).astype(np.float32)
    return MegSubject(subject, data, order, sessions, times, positions)


def _sensor_signals(
    brain: _Brain, forward_at: Array, gradient_at: Array | None, times: Array, n_sensors: int
) -> Array:
    """Return noiseless sensor responses, (n_stimuli, n_sensors, n_times)."""
    n_stimuli = brain.phi.shape[1]
    signal = np.zeros((n_stimuli, n_sensors, len(times)))
    if brain.scenario == "null_noise":
        return signal

    def add(features: Array, latencies: Array, layers: range, share: float) -> None:
        for layer in layers:
            bump = np.exp(-0.5 * ((times - latencies[layer]) / BUMP_SD_S) ** 2)
            tuned = brain.tuned(features[layer], n_sensors)
            signal[:] += np.sqrt(share) * tuned[:, :, None] * bump

    if brain.scenario == "deep_only":
        add(brain.phi, forward_at, range(brain.n_layers - 1, brain.n_layers), 1.0)
        return signal
    add(brain.phi, forward_at, range(brain.n_layers), 1.0)
    if gradient_at is not None:
        add(brain.gamma, gradient_at, range(brain.n_layers), GRADIENT_SHARE)
    return signal
