"""Peak latencies: when each layer predicts a subject's sensors best, in every replicate.

A latency is that of a maximum inside the search window: a curve that is highest at its edge may
peak outside it and has none. Definitions follow arXiv 2508.18226 (docs/methods.md).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gradenc_core.compare.statistics import pooled_null_p, significant
from gradenc_core.compare.time import Latencies

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

PEAK_SHARE = 0.95
"""Share of the maximum that samples of the peak reach."""
ONSET_SHARE = 0.5
"""Share of the maximum at which a response has begun."""


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
        s; NaN where the maximum is not positive, or lies at an edge of the search window: the
        curve may then peak outside it.

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
    return np.where(_interior(curves, best, top), latency, np.nan)


def onset_latency(curves: Array, times: Array, window: tuple[float, float]) -> Array:
    """Return the first time from which a curve stays at >= half its maximum until it peaks, in s.

    Parameters, NaN and errors are those of `peak_latency`. A curve that is as high from the
    window's start has its onset there.
    """
    curves, times, best, top = _search(curves, times, window)
    place = np.arange(curves.shape[-1])
    low = (curves < ONSET_SHARE * top) & (place < best)
    first = np.where(low.any(axis=-1), curves.shape[-1] - low[..., ::-1].argmax(axis=-1), 0)
    return np.where(_interior(curves, best, top), times[first], np.nan)


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


def _interior(curves: Array, best: NDArray[np.intp], top: Array) -> Mask:
    """Say whether each curve has a positive maximum inside the search window, (…)."""
    inside = (best > 0) & (best < curves.shape[-1] - 1)
    return np.asarray((inside & (top > 0))[..., 0])


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
    latencies : Latencies
    onset : array, (n_layers,)
        s; NaN for layers without a significant peak inside the search window.
    at_edge : array of bool, (n_layers,)
        Layers whose curve is significant but highest at an edge of the search window.
    """

    sensors: Mask
    curve: Array
    latencies: Latencies
    onset: Array
    at_edge: Mask


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
        latencies = Latencies(nothing[0], nothing[1:])
        return Timing(sensors, curve, latencies, nothing[0], np.zeros(len(curve), dtype=bool))
    curves = scores.bootstrap[:, :, sensors].mean(axis=2)
    null = scores.permutation[:, :, sensors].mean(axis=2)[..., inside].max(axis=-1)
    peaks = null[0] > np.quantile(null[1:], 1 - significance, axis=0)
    found = peak_latency(curves, times, window)
    latency = np.where(peaks, found, np.nan)
    onset = np.where(peaks, onset_latency(curves[0], times, window), np.nan)
    at_edge = peaks & np.isnan(found[0]) & (curves[0][:, inside].max(axis=-1) > 0)
    return Timing(sensors, curves[0], Latencies(latency[0], latency[1:]), onset, at_edge)


def _significant_sensors(permutation: Array, significance: float) -> Mask:
    maxima = permutation.max(axis=(1, 3))
    return significant(pooled_null_p(maxima[0], maxima[1:].ravel()), significance)
