"""Planted brains: responses whose relation to the layers of a network is known.

A voxel is `sqrt(1 - b) phi_k w + sqrt(b) gamma_m w'`: phi are forward features, gamma gradient
features without the part that is linear in any layer's forward features, b the gradient share. A
sensor is the sum over layers of the same, each at its layer's latency. Noise is added by those who
record the brain: as files (`gradenc_core.planted.truth`) or as columns (`...columns`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Indices = NDArray[np.intp]
Latencies = tuple[Array, Array | None]
"""Each layer's latency in s, (n_layers,): forward and, where gradients drive the brain, theirs."""

Scenario = Literal[
    "null_noise",
    "null_order",
    "forward_only",
    "forward_nonlinear",
    "cls_only",
    "deep_only",
    "meg_only",
    "plausible_backprop",
    "collinear_backprop",
    "misaligned",
]
SCENARIOS: tuple[Scenario, ...] = get_args(Scenario)
FORWARD: tuple[Scenario, ...] = ("forward_only", "forward_nonlinear", "cls_only", "deep_only")
"""Scenarios in which no gradient drives the brain, although the network does."""
BACKPROP: tuple[Scenario, ...] = ("plausible_backprop", "collinear_backprop")
"""Scenarios in which every voxel's gradient comes from the layer that its activations come from."""

JITTER = (0.2, 0.6, 0.2)
"""Chances that a voxel follows the layer before its region's, that layer, or the one after."""
SHARED = 0.5
"""Share of a voxel's tuning that it has in common with its region."""
SPECIFIC = 0.15
"""Share of the gradient's variance that differs between layers in `collinear_backprop`."""
BUMP_SD_S = 0.040
N_CANDIDATES = 4
"""Layers that the gradients of a misaligned region come from, drawn without regard to position."""


@dataclass(frozen=True)
class Features:
    """What brains are tuned to: every layer's features at the recorded stimuli.

    Attributes
    ----------
    forward, gradient : sequence of array, each (n_stimuli, n_dims)
        Of variance 1 in sum over dimensions; gradients without what is linear in activations.
    aside : sequence of array, each (n_stimuli, n_dims)
        Activations that the mean over patches lacks: the class token, or one corner of a map.
    common : array, (n_stimuli, n_dims)
        The part that the gradients of all layers share.
    depth : array, (n_layers,)
        Relative depths.
    """

    forward: Sequence[Array]
    gradient: Sequence[Array]
    aside: Sequence[Array]
    common: Array
    depth: Array

    @property
    def n_layers(self) -> int:
        """Number of layers."""
        return len(self.depth)

    def only(self, layer: int) -> "Features":
        """Return the features of one layer."""
        return Features(
            self.forward[layer : layer + 1],
            self.gradient[layer : layer + 1],
            self.aside[layer : layer + 1],
            self.common,
            self.depth[layer : layer + 1],
        )


@dataclass(frozen=True)
class Assignment:
    """The layers that drive one subject's regions.

    Attributes
    ----------
    forward : array of int, (n_regions,)
    gradient : tuple of array of int, (n_regions,), or None
        The layers from which each region's voxels draw their gradient; None: no gradients.
    follows : bool
        A voxel's gradient comes from the layer of its activations instead.
    """

    forward: Indices
    gradient: tuple[Indices, ...] | None = None
    follows: bool = False


@dataclass(frozen=True)
class Brain:
    """The features, the scenario and the random numbers that all subjects of a study share.

    Attributes
    ----------
    share : float
        Gradient share b of the variance of the signal.
    rectified : bool
        In `forward_nonlinear`, whether activations are rectified instead of squared.
    """

    scenario: Scenario
    features: Features
    share: float
    rng: np.random.Generator
    rectified: bool = False

    @property
    def n_layers(self) -> int:
        """Number of layers."""
        return self.features.n_layers

    def phi(self) -> Sequence[Array]:
        """Return what drives the forward part of the responses, per layer."""
        if self.scenario == "cls_only":
            return self.features.aside
        if self.scenario == "forward_nonlinear":
            return [_bent(layer, self.rectified, self.rng) for layer in self.features.forward]
        return self.features.forward

    def assignment(self, n_regions: int) -> Assignment:
        """Return the layers of one subject's regions, in order along the cortex."""
        rising = np.round(np.linspace(0, self.n_layers - 1, n_regions)).astype(np.intp)
        if self.scenario == "deep_only":
            return Assignment(np.full(n_regions, self.n_layers - 1))
        if self.scenario == "null_order":
            # Without regard to position: a fresh draw for forward and for gradient.
            forward, gradient = self.rng.integers(0, self.n_layers, (2, n_regions))
            return Assignment(forward, tuple(gradient[:, None]))
        if self.scenario == "misaligned":
            none = [np.empty(0, np.intp)] * (n_regions // 2)
            upper = self.rng.integers(0, self.n_layers, (n_regions - len(none), N_CANDIDATES))
            return Assignment(rising, (*none, *upper))
        return Assignment(rising, follows=self.scenario in BACKPROP)

    def latencies(self) -> Latencies:
        """Return each layer's latency in s, forward and gradient."""
        forward = 0.100 + 0.250 * self.features.depth
        backward = 0.400 + 0.200 * (1 - self.features.depth)
        if self.scenario == "null_order":
            return self.rng.permutation(forward), self.rng.permutation(backward)
        if self.scenario in (*BACKPROP, "meg_only"):
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

    def gradient_tuned(self, layer: int, n: int) -> Array:
        """Return `n` responses of unit variance tuned to the gradient at one layer."""
        own = self.tuned(self.features.gradient[layer], n)
        if self.scenario != "collinear_backprop":
            return own
        common = self.tuned(self.features.common, n)
        return np.sqrt(1 - SPECIFIC) * common + np.sqrt(SPECIFIC) * own


def region_signals(brain: Brain, assignment: Assignment, n_voxels: int) -> list[Array]:
    """Return the noiseless responses of each region's voxels, each (n_stimuli, n_voxels)."""
    phi = brain.phi()
    return [
        _voxels(brain, phi, assignment, region, n_voxels)
        for region in range(len(assignment.forward))
    ]


def _voxels(
    brain: Brain, phi: Sequence[Array], assignment: Assignment, region: int, n: int
) -> Array:
    if brain.scenario == "null_noise":
        return np.zeros((len(phi[0]), n))
    layers = _jittered(brain, int(assignment.forward[region]), n)
    forward = _by_layer(lambda layer, k: brain.tuned(phi[layer], k), layers)
    if brain.scenario == "deep_only":
        return forward * (1.0 if region >= len(assignment.forward) // 2 else 0.5)
    if assignment.follows:
        gradient_layers = layers
    elif assignment.gradient is not None and len(assignment.gradient[region]):
        gradient_layers = brain.rng.choice(assignment.gradient[region], n)
    else:
        return forward
    gradient = _by_layer(brain.gradient_tuned, gradient_layers)
    return np.sqrt(1 - brain.share) * forward + np.sqrt(brain.share) * gradient


def sensor_signals(brain: Brain, latencies: Latencies, times: Array, n_sensors: int) -> Array:
    """Return the noiseless responses of one subject's sensors, (n_stimuli, n_sensors, n_times).

    Parameters
    ----------
    times : array, (n_times,)
        s after the onset of a stimulus.
    """
    phi, (forward_at, gradient_at) = brain.phi(), latencies
    signal = np.zeros((len(phi[0]), n_sensors, len(times)))
    if brain.scenario == "null_noise":
        return signal
    first = brain.n_layers - 1 if brain.scenario == "deep_only" else 0
    for layer in range(first, brain.n_layers):
        tuned = brain.tuned(phi[layer], n_sensors)
        signal += tuned[:, :, None] * _bump(times, forward_at[layer])
        if gradient_at is not None:
            gradient = np.sqrt(brain.share) * brain.gradient_tuned(layer, n_sensors)
            signal += gradient[:, :, None] * _bump(times, gradient_at[layer])
    return signal


def _bump(times: Array, latency: float) -> Array:
    bump: Array = np.exp(-0.5 * ((times - latency) / BUMP_SD_S) ** 2)
    return bump


def _jittered(brain: Brain, layer: int, n: int) -> Indices:
    """Return the voxels' layers: the region's, or now and then a neighbour, so no score is 1."""
    if brain.scenario in ("deep_only", "null_order"):
        return np.full(n, layer)
    steps = brain.rng.choice([-1, 0, 1], n, p=JITTER)
    return np.clip(layer + steps, 0, brain.n_layers - 1)


def _by_layer(tuned: Callable[[int, int], Array], layers: Indices) -> Array:
    """Return one response per entry of `layers`, tuned to that layer."""
    columns: list[Array] = [np.empty(0)] * len(layers)
    for layer in np.unique(layers):
        chosen = np.flatnonzero(layers == layer)
        for column, response in zip(chosen, tuned(int(layer), len(chosen)).T, strict=True):
            columns[column] = response
    return np.stack(columns, axis=1)


def _bent(features: Array, rectified: bool, rng: np.random.Generator) -> Array:
    """Return squares, or the positive part, of rotated features, of variance 1 in sum."""
    rotation = np.linalg.qr(rng.standard_normal((features.shape[1],) * 2))[0]
    turned = features @ rotation
    turned /= turned.std(axis=0)
    return scaled(np.maximum(turned, 0) if rectified else turned**2)


def scaled(features: Array) -> Array:
    """Return features about their mean, of variance 1 in sum over dimensions."""
    centred = features - features.mean(axis=0)
    return np.asarray(centred / np.sqrt((centred**2).sum(axis=1).mean()))
