"""Temporal hierarchy: whether deeper layers predict the response later, or earlier.

Every layer has a peak latency, when its score over sensors is highest; a temporal score is the
correlation of depth with peak latency over layers. Stimuli are the units of inference.
Definitions follow arXiv 2508.18226 and 2605.28693 (docs/methods.md). Pure functions on arrays;
`n_layers` runs in network order.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gradenc_core.compare.statistics import (
    CONSTANT,
    bootstrap_null_p,
    correlation,
    percentile_interval,
    pooled_null_p,
    rows_correlation,
    significant,
    stouffer_signed,
)

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

PEAK_SHARE = 0.95
"""Share of the maximum that samples of the peak reach."""
ONSET_SHARE = 0.5
"""Share of the maximum at which a response has begun."""
FEWEST_LAYERS = 5
"""Layers with a peak that a temporal score needs."""


def peak_latency(curves: Array, times: Array, window: tuple[float, float]) -> Array:
    """Return T_max: mean time of the contiguous run around the maximum at >= 95 % of it, in s.

    Parameters
    ----------
    curves : array, (…, n_times)
    times : array, (n_times,)
        s.
    window : (start, stop)
        Search window, s.

    Returns
    -------
    array, (…)
        s; NaN where the maximum is not positive.

    Raises
    ------
    ValueError
        If the search window holds no sample.
    """
    curves, times, best, top = _search(curves, times, window)
    low = curves < PEAK_SHARE * top
    # A sample belongs to the run around the maximum if no low sample lies between them.
    gaps_before = np.cumsum(low, axis=-1)
    run = ~low & (gaps_before == np.take_along_axis(gaps_before, best, axis=-1))
    latency = (run * times).sum(axis=-1) / np.maximum(run.sum(axis=-1), 1)
    return np.where(top[..., 0] > 0, latency, np.nan)


def onset_latency(curves: Array, times: Array, window: tuple[float, float]) -> Array:
    """Return the first time from which a curve stays at >= half its maximum until it peaks, in s.

    Parameters, NaN and errors are those of `peak_latency`. A curve that is as high from the
    window's start has its onset there.
    """
    curves, times, best, top = _search(curves, times, window)
    place = np.arange(curves.shape[-1])
    low = (curves < ONSET_SHARE * top) & (place < best)
    first = np.where(low.any(axis=-1), curves.shape[-1] - low[..., ::-1].argmax(axis=-1), 0)
    return np.where(top[..., 0] > 0, times[first], np.nan)


def _search(
    curves: Array, times: Array, window: tuple[float, float]
) -> tuple[Array, Array, NDArray[np.intp], Array]:
    """Return curves and times inside the window, and place and height of each maximum, (…, 1)."""
    inside = _inside(times, window)
    if not inside.any():
        raise ValueError(f"no sample between {window[0]} and {window[1]} s")
    curves = curves[..., inside]
    best = curves.argmax(axis=-1)[..., None]
    return curves, times[inside], best, np.take_along_axis(curves, best, axis=-1)


def _inside(times: Array, window: tuple[float, float]) -> Mask:
    return (times >= window[0]) & (times <= window[1])


@dataclass(frozen=True)
class Sensors:
    """One MEG subject's scores for one signal.

    Attributes
    ----------
    bootstrap : array, (n_replicates + 1, n_layers, n_sensors, n_windows)
        Index 0 is observed.
    permutation : array, (n_permutations + 1, n_layers, n_sensors, n_windows)
        Index 0 is observed.
    """

    bootstrap: Array
    permutation: Array


@dataclass(frozen=True)
class Timing:
    """One subject's curves and latencies.

    Attributes
    ----------
    sensors : array of bool, (n_sensors,)
        Significant for any layer.
    curve : array, (n_layers, n_windows)
        Mean over those sensors; over all sensors where none is significant.
    latency, onset : array, (n_layers,)
        s; NaN for layers without a significant peak.
    replicates : array, (n_replicates, n_layers)
        Peak latencies of the bootstrap.
    """

    sensors: Mask
    curve: Array
    latency: Array
    onset: Array
    replicates: Array


@dataclass(frozen=True)
class TemporalScore:
    """A temporal score: of each subject, and over subjects with its interval.

    Attributes
    ----------
    values, p : array, (n_subjects,)
        Correlation over layers of depth with peak latency, and its two-sided p; NaN where fewer
        than 5 layers have a peak.
    dropped : array of int, (n_subjects,)
        Bootstrap replicates without a score: too few layers have a peak, or all peak at once.
    mean, low, high : float
        Mean over subjects and its 95 % interval over stimuli.
    combined_p : float
        Signed Stouffer combination of the subjects' p.
    """

    values: Array
    p: Array
    dropped: NDArray[np.intp]
    mean: float
    low: float
    high: float
    combined_p: float


def timing(
    scores: Sensors, times: Array, window: tuple[float, float], significance: float
) -> Timing:
    """Return when each layer predicts one subject's sensors best.

    A sensor is significant by its maximum over layers and windows, against the permutations' maxima
    pooled over sensors, by false discovery rate. A layer has a peak if the maximum of its curve
    exceeds the (1 - significance) quantile of the same maximum under permutation.

    Parameters
    ----------
    scores : Sensors
    times : array, (n_windows,)
        Centres of the windows, s.
    window : (start, stop)
        Search window, s.
    significance : float
    """
    inside = _inside(times, window)
    sensors = _significant_sensors(scores.permutation[..., inside], significance)
    if not sensors.any():
        nothing = np.full(scores.bootstrap.shape[:2], np.nan)
        curve = scores.bootstrap[0].mean(axis=1)
        return Timing(sensors, curve, nothing[0], nothing[0], nothing[1:])
    curves = scores.bootstrap[:, :, sensors].mean(axis=2)
    null = scores.permutation[:, :, sensors].mean(axis=2)[..., inside].max(axis=-1)
    peaks = null[0] > np.quantile(null[1:], 1 - significance, axis=0)
    latency = np.where(peaks, peak_latency(curves, times, window), np.nan)
    onset = np.where(peaks, onset_latency(curves[0], times, window), np.nan)
    return Timing(sensors, curves[0], latency[0], onset, latency[1:])


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
    known = np.isfinite(latency)
    n = np.maximum(known.sum(axis=-1, keepdims=True), 1)
    centred = np.where(known, depth - np.where(known, depth, 0).sum(-1, keepdims=True) / n, 0)
    squares = (centred**2).sum(axis=-1)
    covariance = (centred * np.where(known, latency, 0)).sum(axis=-1)
    defined = (known.sum(axis=-1) >= FEWEST_LAYERS) & (squares > CONSTANT)
    return np.divide(covariance, squares, out=np.full(squares.shape, np.nan), where=defined)


def _significant_sensors(permutation: Array, significance: float) -> Mask:
    maxima = permutation.max(axis=(1, 3))
    return significant(pooled_null_p(maxima[0], maxima[1:].ravel()), significance)


def temporal_score(
    subjects: Sequence[Timing], depth: Array, method: str = "pearson"
) -> TemporalScore:
    """Correlate depth with peak latency over layers, for each subject and over subjects.

    Parameters
    ----------
    subjects : sequence of Timing
        Peak latencies of each subject (s), observed and in replicates of a bootstrap over stimuli
        whose resamples are the same for all subjects.
    depth : array, (n_layers,)
        Relative depths.
    method : {"pearson", "spearman"}

    Returns
    -------
    TemporalScore
        `p`: two-sided, against the null-centred bootstrap r* = corr(depth, T*_l - mean_b T*_l).
        `low, high`: percentiles of the bootstrap of the mean over subjects. Subjects with fewer
        than 5 layers that have a peak are NaN and enter neither.

    Raises
    ------
    ValueError
        For another `method`.

    Notes
    -----
    Latency and score are those of arXiv 2508.18226.

    Examples
    --------
    Five layers whose peaks come 20 ms later with each layer; replicates jitter by 2 ms.

    >>> import numpy as np
    >>> from gradenc_core.compare.time import Timing, temporal_score
    >>> depth = np.array([0.2, 0.4, 0.6, 0.8, 1.0])
    >>> latency = 0.1 + 0.1 * depth
    >>> jitter = np.random.default_rng(0).normal(0, 0.002, (100, 5))
    >>> nothing = np.full(5, np.nan)
    >>> subject = Timing(np.array([True]), np.zeros((5, 1)), latency, nothing, latency + jitter)
    >>> score = temporal_score([subject], depth)
    >>> print(f"{score.mean:.2f}, interval above 0.9: {score.low > 0.9}")
    1.00, interval above 0.9: True
    """
    values = np.array([_ordered(s.latency, depth, method) for s in subjects])
    replicates = [_replicate_scores(s.replicates, depth, method) for s in subjects]
    null = [_replicate_scores(_null_centred(s.replicates), depth, method) for s in subjects]
    p = np.array([bootstrap_null_p(v, n) for v, n in zip(values, null, strict=True)])
    dropped = np.array([np.isnan(scores).sum() for scores in replicates], dtype=np.intp)
    usable = np.isfinite(values)
    if not usable.any():
        nan = float("nan")
        return TemporalScore(values, p, dropped, nan, nan, nan, nan)
    means = np.mean([r for r, known in zip(replicates, usable, strict=True) if known], axis=0)
    low, high = percentile_interval(means)
    combined = stouffer_signed(p.tolist(), values.tolist())
    return TemporalScore(values, p, dropped, float(values[usable].mean()), low, high, combined)


def _ordered(latency: Array, depth: Array, method: str) -> float:
    """Return the correlation over layers with a peak; NaN below 5."""
    if np.isfinite(latency).sum() < FEWEST_LAYERS:
        return float("nan")
    return correlation(depth, latency, method)


def _null_centred(replicates: Array) -> Array:
    """Subtract each layer's mean latency over the replicates in which it has a peak."""
    known = np.isfinite(replicates)
    total = np.where(known, replicates, 0).sum(axis=0)
    return np.asarray(replicates - total / np.maximum(known.sum(axis=0), 1))


def _replicate_scores(latencies: Array, depth: Array, method: str) -> Array:
    """Return the score of every replicate, (n_replicates,)."""
    enough = latencies.shape[1] >= FEWEST_LAYERS
    if method == "pearson" and enough and np.isfinite(latencies).all():
        return rows_correlation(latencies, np.broadcast_to(depth, latencies.shape))
    return np.array([_ordered(row, depth, method) for row in latencies])
