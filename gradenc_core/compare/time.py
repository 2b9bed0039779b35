"""Temporal hierarchy: whether deeper layers predict the response later, or earlier.

Every layer has a peak latency, when its score over sensors is highest. An order in time is shown as
the correlation of depth with peak latency over layers, and decided by the slope, which noise of the
latencies does not pull towards 0. Stimuli are the units of inference, and replicates of a bootstrap
over them are paired: over layers, signals and subjects. Definitions follow arXiv 2508.18226 and
2605.28693 (docs/methods.md). Pure functions on arrays; `n_layers` runs in network order.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from gradenc_core.compare.statistics import (
    CONSTANT,
    bootstrap_null_p,
    percentile_interval,
)

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

FEWEST_LAYERS = 5
"""Layers with a peak that a temporal score needs."""


@dataclass(frozen=True)
class Latencies:
    """Peak latencies of one subject and signal.

    Attributes
    ----------
    observed : array, (n_layers,)
        s; NaN for layers without a significant peak inside the search window.
    replicates : array, (n_replicates, n_layers)
        The same in replicates of the bootstrap over stimuli.
    """

    observed: Array
    replicates: Array

    def plus(self, other: "Latencies", weight: float) -> "Latencies":
        """Return the sum with another signal's latencies times a weight, replicate by replicate.

        Layers without either are NaN. With weight -1 it is the lag of this signal.
        """
        return Latencies(
            self.observed + weight * other.observed, self.replicates + weight * other.replicates
        )

    def of_layers(self, layers: Mask) -> "Latencies":
        """Return the latencies of some layers only."""
        return Latencies(self.observed[layers], self.replicates[:, layers])


@dataclass(frozen=True)
class TemporalScore:
    """A temporal score: of each subject, and over subjects with its interval.

    Attributes
    ----------
    values, p : array, (n_subjects,)
        The statistic over layers of depth and peak latency, and its two-sided p; NaN where fewer
        than 5 layers have a peak.
    dropped : array of int, (n_subjects,)
        Bootstrap replicates without a score: too few layers have a peak, or all peak at once.
    mean, low, high : float
        Mean over subjects and its 95 % interval over stimuli.
    combined_p : float
        Two-sided p of the mean.
    """

    values: Array
    p: Array
    dropped: NDArray[np.intp]
    mean: float
    low: float
    high: float
    combined_p: float


def slope(latency: Array, depth: Array) -> Array:
    """Return the least-squares slope of latency on depth over the layers that have a latency.

    Noise of the latencies does not pull a slope towards 0, as it does a correlation; so orders in
    time are decided by slopes.

    Parameters
    ----------
    latency : array, (…, n_layers)
        s; NaN for layers without a peak.
    depth : array, (n_layers,)
        Relative depths.

    Returns
    -------
    array, (…)
        s per unit of relative depth; NaN where fewer than 5 layers have a latency.
    """
    x, y, defined = _centred(latency, depth)
    return _ratio((x * y).sum(axis=-1), (x**2).sum(axis=-1), defined)


def _mean(latency: Array, depth: Array) -> Array:
    """Return the mean over the layers that have a latency; NaN below 5."""
    known = np.isfinite(latency)
    total = np.where(known, latency, 0).sum(axis=-1)
    return _ratio(total, known.sum(axis=-1).astype(float), _enough(latency))


def _pearson(latency: Array, depth: Array) -> Array:
    """Return the correlation over the layers that have a latency; NaN below 5 or if constant."""
    x, y, defined = _centred(latency, depth)
    size = np.sqrt((x**2).sum(axis=-1) * (y**2).sum(axis=-1))
    varies = np.linalg.norm(y, axis=-1) > CONSTANT * np.sqrt(np.nansum(latency**2, axis=-1))
    return _ratio((x * y).sum(axis=-1), size, defined & varies)


def _spearman(latency: Array, depth: Array) -> Array:
    own = np.where(np.isfinite(latency), depth, np.nan)
    ranked = (stats.rankdata(values, axis=-1, nan_policy="omit") for values in (latency, own))
    return _pearson(*ranked)


def _centred(latency: Array, depth: Array) -> tuple[Array, Array, Mask]:
    """Return depth and latency about their means over known layers, and where depth varies."""
    known = np.isfinite(latency)
    n = np.maximum(known.sum(axis=-1, keepdims=True), 1)
    x, y = (np.where(known, values, 0) for values in (depth, latency))
    x, y = (np.where(known, v - v.sum(axis=-1, keepdims=True) / n, 0) for v in (x, y))
    return x, y, _enough(latency) & ((x**2).sum(axis=-1) > CONSTANT)


def _enough(latency: Array) -> Mask:
    return np.asarray(np.isfinite(latency).sum(axis=-1) >= FEWEST_LAYERS)


def _ratio(above: Array, below: Array, defined: Mask) -> Array:
    return np.divide(above, below, out=np.full(below.shape, np.nan), where=defined & (below > 0))


ORDERS: dict[str, Callable[[Array, Array], Array]] = {
    "pearson": _pearson,
    "spearman": _spearman,
    "slope": slope,
    "mean": _mean,
}
"""Statistic of latencies, (…, n_layers), and depths: correlations, s per unit depth, or s."""


def temporal_score(
    subjects: Sequence[Latencies], depth: Array, order: str = "pearson"
) -> TemporalScore:
    """Relate peak latency to depth over layers, for each subject and over subjects.

    Parameters
    ----------
    subjects : sequence of Latencies
        Peak latencies of each subject (s), observed and in replicates of a bootstrap over stimuli.
        Replicates of the same number are averaged over subjects, so that those who saw the same
        stimuli share what their resamples share.
    depth : array, (n_layers,)
        Relative depths.
    order : {"pearson", "spearman", "slope", "mean"}
        A correlation of depth with latency; its slope (s per unit of depth); or, for lags, the
        mean over layers (s).

    Returns
    -------
    TemporalScore
        `p`: two-sided, against the null-centred bootstrap: the statistic of T*_l - mean_b T*_l.
        `combined_p`: the same of the mean over subjects within each replicate. `low, high`:
        percentiles of the bootstrap of the mean over subjects. Subjects with fewer than 5 layers
        that have a peak are NaN and enter none of these.

    Raises
    ------
    ValueError
        For another `order`.

    Notes
    -----
    Latency and correlation are those of arXiv 2508.18226. The percentile interval of a correlation
    covers the attenuated one: decide by the slope.

    Examples
    --------
    Five layers whose peaks come 20 ms later with each layer; replicates jitter by 2 ms.

    >>> import numpy as np
    >>> from gradenc_core.compare.time import Latencies, temporal_score
    >>> depth = np.array([0.2, 0.4, 0.6, 0.8, 1.0])
    >>> latency = 0.1 + 0.1 * depth
    >>> jitter = np.random.default_rng(0).normal(0, 0.002, (100, 5))
    >>> score = temporal_score([Latencies(latency, latency + jitter)], depth, "slope")
    >>> print(f"{score.mean:.2f} s per unit depth, p = {score.p[0]:.2f}")
    0.10 s per unit depth, p = 0.01
    """
    if order not in ORDERS:
        raise ValueError(f"an order in time is one of {', '.join(ORDERS)}; given {order!r}")
    of = ORDERS[order]
    values = np.array([of(s.observed, depth) for s in subjects], dtype=np.float64)
    replicates = np.array([of(s.replicates, depth) for s in subjects])
    null = np.array([of(_null_centred(s.replicates), depth) for s in subjects])
    p = np.array([bootstrap_null_p(v, n) for v, n in zip(values, null, strict=True)])
    dropped = np.isnan(replicates).sum(axis=-1)
    usable = np.isfinite(values)
    if not usable.any():
        nan = float("nan")
        return TemporalScore(values, p, dropped, nan, nan, nan, nan)
    mean = float(values[usable].mean())
    low, high = percentile_interval(replicates[usable].mean(axis=0))
    combined = bootstrap_null_p(mean, null[usable].mean(axis=0))
    return TemporalScore(values, p, dropped, mean, low, high, combined)


def _null_centred(replicates: Array) -> Array:
    """Subtract each layer's mean latency over the replicates in which it has a peak."""
    known = np.isfinite(replicates)
    total = np.where(known, replicates, 0).sum(axis=0)
    return np.asarray(replicates - total / np.maximum(known.sum(axis=0), 1))
