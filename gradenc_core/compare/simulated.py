"""Simulated subjects: patterns of scores that a study would see of brains with known drivers.

A subject's patterns are the profiles of regions over layers, or the curves of layers over time. How
gradients of one layer look to others is measured (`Confusion`), the noise is that of permuted
stimuli. What is not known is the share of the drive that is specific to layers: gradients of a
residual stream have much in common, and a brain driven by what all layers share shows no order. It
is judged by the contrast between patterns, whatever their order (`least_specific`).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
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
"""Simulated studies of each kind."""
SPECIFIC = np.linspace(0.1, 1.0, 10)
"""Layer-specific shares that are tried: with less than the first, orders could not be seen."""
UNLIKELY = 0.05
"""Share of simulated studies with so much contrast up to which a specific share is excluded."""
FEWEST_POINTS = 3
"""Regions of a subject below which an order means nothing."""
TINY = 1e-12
"""In place of a size of 0, which no score has."""


@dataclass(frozen=True)
class Confusion:
    """How targets that one layer's gradient drives look to every layer.

    Attributes
    ----------
    scores : array, (n_layers, n_shares, n_drivers, n_tunings)
        Mean held-out r; drivers are the same layers. NaN, of a driver of which nothing lies beyond
        the baseline, counts as 0.
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
        found = np.moveaxis(np.nan_to_num(self.scores)[:, :, driver, tuning], 1, -1)
        # No share at all gives no score.
        found = np.concatenate([np.zeros((*found.shape[:-1], 1)), found], axis=-1)
        height = np.maximum.accumulate(found.mean(axis=0), axis=-1)
        wanted = np.clip(amplitude, 0.0, height[..., -1])
        upper = (height[..., 1:-1] < wanted[..., None]).sum(axis=-1) + 1
        low, high = _at(height, upper - 1), _at(height, upper)
        part = np.clip((wanted - low) / np.maximum(high - low, TINY), 0.0, 1.0)
        index = np.broadcast_to(upper, found.shape[:-1])
        return np.asarray((1 - part) * _at(found, index - 1) + part * _at(found, index))

    def every_profile(self, amplitude: Array) -> Array:
        """Return targets (n,) as every driver and tuning gives, (n_layers, drivers, tunings, n)."""
        driver, tuning, target = np.indices((*self.scores.shape[2:], len(amplitude)))
        return self.profiles(driver, amplitude[target], tuning)

    def mixing(self, specific: float) -> Array:
        """Return how much each driver enters each layer's squared curve, (n_layers, n_drivers).

        Scores of sums add in squares. What is not specific enters alike from all drivers; the
        weights of each layer sum to 1.
        """
        squares = (np.maximum(np.nan_to_num(self.scores), 0.0) ** 2).mean(axis=(1, 3))
        mixed = specific * squares + (1 - specific) * squares.mean(axis=1, keepdims=True)
        return np.asarray(mixed / np.maximum(mixed.sum(axis=1, keepdims=True), TINY))


def _at(values: Array, index: Indices) -> Array:
    """Take one entry of the last axis everywhere."""
    return np.take_along_axis(values, index[..., None], axis=-1)[..., 0]


@dataclass(frozen=True)
class Subject(ABC):
    """One subject, to be simulated.

    Attributes
    ----------
    observed : array, (n_layers, n)
        Profiles of `n` regions, or curves over `n` windows.
    noise : array, (n_permutations, n_layers, n)
        The same under permutation, one order of stimuli for all subjects who saw the same.
    depth : array, (n_layers,)
        Relative depths.
    confusion : Confusion
    """

    observed: Array
    noise: Array
    depth: Array
    confusion: Confusion

    @abstractmethod
    def noiseless(self, specific: float, ordered: bool, rng: np.random.Generator) -> Array:
        """Return patterns of brains with or without an order, (n_draws or 1, n_layers, n)."""

    @abstractmethod
    def order(self, patterns: Array) -> Array:
        """Return the order of every draw, (n_draws,); NaN where there is none."""

    @abstractmethod
    def contrast(self, patterns: Array) -> Array:
        """Return how much patterns differ, whatever their order, in every draw, (n_draws,)."""


@dataclass(frozen=True)
class InSpace(Subject):
    """Regions whose preferred depths correlate with their positions.

    Attributes
    ----------
    driver : array of int, (n_draws, n)
        Layer that drives each region of a brain with an order.
    exchanged : array of int, (n_draws, n)
        The same of brains without an order.
    position : array, (n,)
    how : {"argmax", "centre_of_mass"}
    """

    driver: Indices
    exchanged: Indices
    position: Array
    how: str

    def noiseless(self, specific: float, ordered: bool, rng: np.random.Generator) -> Array:
        """Return profiles of the observed mean height, each with a tuning of its own."""
        drivers = self.driver if ordered else self.exchanged
        table = self.confusion.every_profile(_heights(self.observed, self.noise))
        tuning = rng.integers(0, table.shape[2], drivers.shape)
        region = np.arange(drivers.shape[1])
        own = table[:, drivers, tuning, region]
        shared = table.mean(axis=1)[:, tuning, region]
        return np.moveaxis(specific * own + (1 - specific) * shared, 0, 1)

    def order(self, patterns: Array) -> Array:
        """Return the correlation of preferred depth with position."""
        n_draws, n_layers, n_regions = patterns.shape
        flat = np.moveaxis(patterns, 1, 0).reshape(n_layers, -1)
        preferred = kstar(flat, self.depth, self.how).reshape(n_draws, n_regions)
        return _correlation(preferred, self.position)

    def contrast(self, patterns: Array) -> Array:
        """Return how much regions differ in their profiles."""
        return _contrast(np.swapaxes(patterns, 1, 2))


@dataclass(frozen=True)
class InTime(Subject):
    """Layers whose peak latencies change with depth.

    Attributes
    ----------
    times : array, (n,)
        s.
    window : (start, stop)
        Search window, s.
    sweep : float
        Slope of latency over depth of a brain with an order, s per unit depth.
    """

    times: Array
    window: tuple[float, float]
    sweep: float

    def noiseless(self, specific: float, ordered: bool, rng: np.random.Generator) -> Array:
        """Return the mean course at each driver's latency, as high as each layer's peak."""
        latency = (self.sweep if ordered else 0.0) * (self.depth - self.depth.mean())
        course = self._course()
        bumps = np.stack([np.interp(self.times - shift, self.times, course) for shift in latency])
        curves = np.sqrt(self.confusion.mixing(specific) @ bumps**2)
        peak = np.maximum(np.nan_to_num(self.observed).max(axis=1), 0.0)
        height = np.sqrt(np.maximum(peak**2 - self.noise.var(axis=0).mean(axis=1), 0.0))
        highest = np.maximum(curves.max(axis=1), TINY)
        return np.asarray((height / highest)[:, None] * curves)[None]

    def _course(self) -> Array:
        """Return the mean over layers of their positive scores, each moved to one latency, (n,)."""
        latency = self.latencies(self.observed[None])[0]
        shift = np.nan_to_num(latency - np.nanmean(latency))
        moved = [
            np.interp(self.times + own, self.times, curve)
            for own, curve in zip(shift, self.observed, strict=True)
        ]
        return np.maximum(np.nanmean(moved, axis=0), 0.0)

    def order(self, patterns: Array) -> Array:
        """Return the slope of latency over depth, s per unit depth."""
        return slope(self.latencies(patterns), self.depth)

    def latencies(self, patterns: Array) -> Array:
        """Return peak latencies, (n_draws, n_layers), s."""
        return peak_latency(patterns, self.times, self.window)

    def contrast(self, patterns: Array) -> Array:
        """Return how much layers differ in their curves."""
        return _contrast(patterns)


def least_specific(subjects: Sequence[Subject], seed: int, n_draws: int = N_DRAWS) -> float:
    """Return the least specific share whose brains may well show the observed contrast.

    It is a confidence limit: a share is excluded where at most 5 % of brains with an order and
    this share show as much contrast, in the sum over subjects.
    """
    observed = sum(float(s.contrast(s.observed[None])[0]) for s in subjects)
    for specific in SPECIFIC[:-1]:
        drawn = simulated(subjects, float(specific), True, seed, n_draws)
        contrast = np.sum([s.contrast(patterns) for s, patterns in drawn], axis=0)
        if (contrast >= observed).mean() > UNLIKELY:
            return float(specific)
    return float(SPECIFIC[-1])


def simulated(
    subjects: Sequence[Subject], specific: float, ordered: bool, seed: int, n_draws: int = N_DRAWS
) -> Iterator[tuple[Subject, Array]]:
    """Yield each subject's patterns in simulated studies, (n_draws, n_layers, n)."""
    rng = np.random.default_rng([seed, 2, ordered])
    # Scores of subjects who saw the same stimuli err together.
    permutation = rng.random(n_draws)
    for subject in subjects:
        drawn = subject.noise[(permutation * len(subject.noise)).astype(np.intp)]
        yield subject, subject.noiseless(specific, ordered, rng) + drawn


def _heights(observed: Array, noise: Array) -> Array:
    """Return mean scores over layers, (n,), none below 0 and in sum as high as they were.

    Else the weak ones, of which those that are positive by chance are kept, would seem stronger.
    """
    height = observed.mean(axis=0) - noise.mean(axis=(0, 1))
    positive = np.maximum(height, 0.0)
    return np.asarray(positive * max(height.sum(), 0.0) / np.maximum(positive.sum(), TINY))


def _contrast(patterns: Array) -> Array:
    """Return the sum of squares of patterns (..., n_patterns, n) beside their mean pattern."""
    mean = np.nanmean(patterns, axis=-2, keepdims=True)
    along = (patterns * mean).sum(axis=-1) ** 2 / np.maximum((mean**2).sum(axis=-1), TINY)
    return np.asarray(np.nansum((patterns**2).sum(axis=-1) - along, axis=-1))


def _correlation(values: Array, position: Array) -> Array:
    """Correlate known values with position, row by row; NaN where fewer than 3 are known."""
    known = np.isfinite(values)
    n = known.sum(axis=-1, keepdims=True)

    def about(x: Array) -> Array:
        # What is not known stands at the mean, where it does not count.
        mean = np.where(known, x, 0.0).sum(axis=-1, keepdims=True) / np.maximum(n, 1)
        return np.asarray(np.where(known, x, mean))

    r = rows_correlation(about(values), about(np.broadcast_to(position, values.shape)))
    return np.where(n[..., 0] >= FEWEST_POINTS, r, np.nan)
