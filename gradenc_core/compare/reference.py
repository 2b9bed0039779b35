"""Orders that a study would see of a brain with backpropagation, and of one without an order.

A noisy or collinear gradient blurs any order, so a weak order alone says nothing against
backpropagation. Both references are simulated from the study itself: the layers' confusion by
targets that each layer's gradient drives, the noise by scores of permuted stimuli, which carry its
covariance over layers, regions and windows. An observed order is then compared with both.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gradenc_core.compare.peaks import peak_latency
from gradenc_core.compare.space import kstar
from gradenc_core.compare.statistics import rows_correlation
from gradenc_core.compare.time import slope

Array = NDArray[np.float64]
Indices = NDArray[np.intp]

N_DRAWS = 1000
"""Simulated studies of each reference."""
TIE = 1e-9
"""Orders closer than this are equal."""


@dataclass(frozen=True)
class Confusion:
    """How targets that one layer's gradient drives look to every layer.

    Attributes
    ----------
    scores : array, (n_layers, n_shares, n_drivers, n_tunings)
        Mean held-out r; drivers are the same layers.
    shares : sequence of float
        Share of the targets that the gradient explains, rising.
    """

    scores: Array
    shares: Sequence[float]

    def profiles(self, driver: Indices, amplitude: Array, tuning: Indices) -> Array:
        """Return noiseless profiles of targets with a given mean score over layers.

        Parameters
        ----------
        driver, tuning : array of int, (...)
            Layer that drives each target, and which of the random tunings it has.
        amplitude : array, (...)
            Mean over layers of the score; 0 or less is no gradient at all.

        Returns
        -------
        array, (n_layers, ...)
            Interpolated between shares; no higher than at the largest share.
        """
        found = np.moveaxis(self.scores[:, :, driver, tuning], 1, -1)
        # No share at all gives no score.
        found = np.concatenate([np.zeros((*found.shape[:-1], 1)), found], axis=-1)
        height = np.maximum.accumulate(found.mean(axis=0), axis=-1)
        wanted = np.clip(amplitude, 0.0, height[..., -1])
        upper = (height[..., 1:-1] < wanted[..., None]).sum(axis=-1) + 1
        low, high = _at(height, upper - 1), _at(height, upper)
        part = np.clip((wanted - low) / np.maximum(high - low, 1e-12), 0.0, 1.0)
        index = np.broadcast_to(upper, found.shape[:-1])
        return np.asarray((1 - part) * _at(found, index - 1) + part * _at(found, index))


def _at(values: Array, index: Indices) -> Array:
    """Take one entry of the last axis everywhere."""
    return np.take_along_axis(values, index[..., None], axis=-1)[..., 0]


@dataclass(frozen=True)
class Regions:
    """One subject's regions for one gradient, a point per region and hemisphere.

    Attributes
    ----------
    profile : array, (n_layers, n_points)
        Scores beyond the baseline.
    noise : array, (n_permutations, n_layers, n_points)
        The same under permutation.
    driver : array of int, (n_points,)
        Layer that backpropagation expects: the one whose activations the region prefers.
    position : array, (n_points,)
    region : array of int, (n_points,)
        Number of the point's region, the same in all subjects.
    confusion : Confusion
        Of the stimuli that the subject saw.
    """

    profile: Array
    noise: Array
    driver: Indices
    position: Array
    region: Indices
    confusion: Confusion


@dataclass(frozen=True)
class Curves:
    """One subject's scores over time for one gradient, the mean over selected sensors.

    Attributes
    ----------
    curves : array, (n_layers, n_windows)
    noise : array, (n_permutations, n_layers, n_windows)
        The same under permutation.
    confusion : Confusion
        Of the stimuli that the subject saw.
    """

    curves: Array
    noise: Array
    confusion: Confusion


@dataclass(frozen=True)
class Reference:
    """An observed order between the two references.

    Attributes
    ----------
    observed : float
        Mean over subjects: correlation of preferred depth with position, or slope of latency over
        depth (s).
    none_p : float
        Share of studies without an order that show this order, or a better one.
    backprop_p : float
        Share of studies of a brain with backpropagation that show this order, or a worse one.
    power : float
        Share of studies without an order in which `backprop_p` is at most the level.
    """

    observed: float
    none_p: float
    backprop_p: float
    power: float

    @classmethod
    def of(
        cls, observed: float, none: Array, backprop: Array, better: int, level: float
    ) -> "Reference":
        """Place an order between the references; `better` is the sign of backpropagation's order.

        Simulated studies without a score count for neither side's rejection.
        """
        if not np.isfinite(observed):
            nan = float("nan")
            return cls(nan, nan, nan, nan)
        none, backprop = better * none, better * backprop
        low, high = np.where(np.isnan(backprop), -np.inf, backprop), np.nan_to_num(none, nan=np.inf)
        place = better * observed
        critical = np.sort(low)[int(level * (1 + len(low))) - 1]
        return cls(
            observed,
            _share(high >= place - TIE),
            _share(low <= place + TIE),
            float((none < critical - TIE).mean()),
        )


def _share(hits: NDArray[np.bool_]) -> float:
    return float((1 + hits.sum()) / (1 + len(hits)))


def space_reference(
    subjects: Sequence[Regions], depth: Array, how: str, level: float, seed: int
) -> Reference:
    """Place the spatial order of a gradient between no order and backpropagation.

    Parameters
    ----------
    subjects : sequence of Regions
    depth : array, (n_layers,)
        Relative depths.
    how : {"argmax", "centre_of_mass"}
        How a region's preferred depth follows from its profile.
    level : float
        At which the power is stated.
    seed : int

    Returns
    -------
    Reference
        Of the mean over subjects of the correlation between preferred depth and position. Without
        an order, regions have each other's layers, exchanged alike in all subjects.
    """
    rng = np.random.default_rng([seed, 1])
    observed = _mean([_order(s.profile[None], depth, s.position, how) for s in subjects])
    names = np.unique(np.concatenate([s.region for s in subjects]))
    exchanged = np.stack([rng.permutation(len(names)) for _ in range(N_DRAWS)])

    def simulated(ordered: bool) -> Array:
        scores = []
        for s in subjects:
            drivers = np.broadcast_to(s.driver, (N_DRAWS, len(s.driver)))
            if not ordered:
                drivers = _exchanged(drivers, np.searchsorted(names, s.region), exchanged)
            profile = _simulate(s, drivers, rng)
            scores.append(_order(profile, depth, s.position, how))
        return _mean(scores)

    none, backprop = simulated(False), simulated(True)
    return Reference.of(float(observed[0]), none, backprop, 1, level)


def _simulate(subject: Regions, drivers: Indices, rng: np.random.Generator) -> Array:
    """Return profiles of simulated brains, (n_draws, n_layers, n_points)."""
    confusion, noise = subject.confusion, subject.noise
    tuning = rng.integers(0, confusion.scores.shape[-1], drivers.shape)
    amplitude = np.broadcast_to(subject.profile.mean(axis=0), drivers.shape)
    signal = np.moveaxis(confusion.profiles(drivers, amplitude, tuning), 0, 1)
    return np.asarray(signal + noise[rng.integers(0, len(noise), len(drivers))])


def _exchanged(drivers: Indices, member: Indices, orders: Indices) -> Indices:
    """Return the drivers of points whose regions have exchanged layers, (n_draws, n_points).

    A region that a subject lacks leaves the point its own layer. Hemispheres keep their side's
    place in the region where both have one.
    """
    found = np.empty_like(drivers)
    by_region = [np.flatnonzero(member == r) for r in range(orders.shape[1])]
    for point, own in enumerate(member):
        side = int(np.flatnonzero(by_region[own] == point)[0])
        source = np.array([p[min(side, len(p) - 1)] if len(p) else point for p in by_region])
        found[:, point] = np.take_along_axis(drivers, source[orders[:, own]][:, None], axis=1)[:, 0]
    return found


def _order(profiles: Array, depth: Array, position: Array, how: str) -> Array:
    """Return the correlation of preferred depth with position of every draw, (n_draws,)."""
    n_draws, n_layers, n_points = profiles.shape
    flat = np.moveaxis(profiles, 1, 0).reshape(n_layers, -1)
    preferred = kstar(flat, depth, how).reshape(n_draws, n_points)
    return rows_correlation(preferred, np.broadcast_to(position, preferred.shape))


def time_reference(
    subjects: Sequence[Curves],
    depth: Array,
    times: Array,
    window: tuple[float, float],
    slowest: float,
    level: float,
    seed: int,
) -> Reference:
    """Place the temporal order of a gradient between no order and backpropagation.

    Parameters
    ----------
    subjects : sequence of Curves
    depth : array, (n_layers,)
    times : array, (n_windows,)
        Centres of the windows, s.
    window : (start, stop)
        Search window, s.
    slowest : float
        Slope of latency over depth (s per unit depth, negative) that is the smallest order of
        interest: the reference of backpropagation has it.
    level : float
        At which the power is stated.
    seed : int

    Returns
    -------
    Reference
        Of the mean over subjects of the slope of peak latency over depth. Without an order all
        layers have one latency.
    """
    rng = np.random.default_rng([seed, 2])

    def slopes(curves: Array) -> Array:
        return slope(peak_latency(curves, times, window), depth)

    observed = _mean([slopes(s.curves[None]) for s in subjects])

    def simulated(speed: float) -> Array:
        scores = []
        for s in subjects:
            course = s.curves.mean(axis=0)
            shifts = speed * (depth - depth.mean())
            bumps = np.stack([np.interp(times - shift, times, course) for shift in shifts])
            drawn = s.noise[rng.integers(0, len(s.noise), N_DRAWS)]
            scores.append(slopes(_mixing(s.confusion) @ bumps + drawn))
        return _mean(scores)

    return Reference.of(float(observed[0]), simulated(0.0), simulated(slowest), -1, level)


def _mixing(confusion: Confusion) -> Array:
    """Return how much each driver enters each layer's curve, (n_layers, n_drivers), mean sum 1."""
    mixing = np.maximum(confusion.scores.mean(axis=(1, 3)), 0.0)
    return np.asarray(mixing / mixing.sum(axis=1).mean())


def _mean(scores: Sequence[Array]) -> Array:
    """Return the mean over subjects of every draw; NaN where a subject has none."""
    return np.asarray(np.mean(np.stack(scores), axis=0))
