"""Hierarchy comparisons: where and when each layer of a network is found in the brain.

Definitions: science.md, "Hierarchy comparisons" (after arXiv 2508.18226 and 2605.28693). Pure
functions on arrays; `n_layers` runs in network order.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from gradenc_core.statistics import (
    FEWEST_REGIONS,
    bootstrap_null_p,
    correlation,
    percentile_interval,
    pooled_null_p,
    region_permutations,
    rows_correlation,
    significant,
    stouffer,
    stouffer_signed,
)

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Moments = tuple[Array, Array, Array]

KSTARS = ("argmax", "centre_of_mass")
CORRELATIONS = ("pearson", "spearman")
RESOLUTIONS = ("voxel", "region")
PEAK_SHARE = 0.95
FEWEST_LAYERS = 5
N_CLUSTER_DRAWS = 1000
FEWEST_DRAWN_REGIONS = 3
ALIKE_ENDS = 0.95
ALIKE_NEIGHBOURS = 0.99


def kstar(profile: Array, depth: Array, how: str) -> Array:
    """Return the relative depth that each target prefers.

    `argmax`: depth of the best layer. `centre_of_mass`: sum w_l depth_l / sum w_l with
    w_l = max(r_l, 0) - min_l max(r_l, 0).

    Parameters
    ----------
    profile : array, (n_layers, n_targets)
    depth : array, (n_layers,)
    how : {"argmax", "centre_of_mass"}

    Returns
    -------
    array, (n_targets,)
        NaN where the profile holds NaN or no positive score, or is flat.
    """
    positive = np.maximum(profile, 0)
    weights = positive - positive.min(axis=0)
    total = weights.sum(axis=0)
    known = np.isfinite(total) & (total > 0)
    preferred = np.full(profile.shape[1], np.nan)
    if how == "argmax":
        preferred[known] = depth[np.argmax(profile[:, known], axis=0)]
    else:
        preferred[known] = depth @ weights[:, known] / total[known]
    return preferred


def distance_to_seed(
    xyz: Array, roi: NDArray[np.object_], hemisphere: NDArray[np.object_], seed_region: str
) -> Array:
    """Return each voxel's distance in mm to the centroid of its hemisphere's seed region.

    Parameters
    ----------
    xyz : array, (n_voxels, 3)
        mm.
    roi, hemisphere : array of str, (n_voxels,)

    Returns
    -------
    array, (n_voxels,)
        NaN in a hemisphere without the seed region.
    """
    distance = np.full(len(xyz), np.nan)
    for side in set(hemisphere.tolist()):
        here = hemisphere == side
        seed = here & (roi == seed_region)
        if seed.any():
            distance[here] = np.linalg.norm(xyz[here] - xyz[seed].mean(axis=0), axis=1)
    return distance


def ladder_position(roi: NDArray[np.object_], ladder: Sequence[str]) -> Array:
    """Return each voxel's ordinal place on a ladder of regions, from 0; NaN outside it."""
    place = {name: float(i) for i, name in enumerate(ladder)}
    return np.array([place.get(str(name), np.nan) for name in roi])


def identifiable(cka: Array) -> bool:
    """Return whether layers can be told apart: first against last, and every pair of neighbours.

    Parameters
    ----------
    cka : array, (n_layers, n_layers)
        Linear CKA of one signal.
    """
    neighbours = np.diagonal(cka, offset=1)
    return bool(cka[0, -1] <= ALIKE_ENDS and (neighbours <= ALIKE_NEIGHBOURS).all())


@dataclass(frozen=True)
class Brain:
    """One fMRI subject's targets for one signal.

    Attributes
    ----------
    profile : array, (n_layers, n_voxels)
    selected : array of bool, (n_voxels,)
        Significant voxels.
    position : array, (n_voxels,)
        mm or ordinal; NaN outside the map.
    roi, hemisphere : array of str, (n_voxels,)
    """

    profile: Array
    selected: Mask
    position: Array
    roi: NDArray[np.object_]
    hemisphere: NDArray[np.object_]


@dataclass(frozen=True)
class Points:
    """What a spatial score correlates: preferred depth and position, with the region of each."""

    depth: Array
    position: Array
    region: NDArray[np.intp]

    def only_known(self) -> "Points":
        """Drop points without depth or position."""
        known = np.isfinite(self.depth) & np.isfinite(self.position)
        return Points(self.depth[known], self.position[known], self.region[known])


@dataclass(frozen=True)
class SpatialScore:
    """A spatial score: per subject, and over subjects with its interval.

    Attributes
    ----------
    values, p : array, (n_subjects,)
        Correlation of preferred depth with position, and its one-sided p; NaN where undefined.
    mean, low, high : float
        Mean over subjects and its 95 % interval over regions.
    combined_p : float
        Of all subjects (Stouffer).
    """

    values: Array
    p: Array
    mean: float
    low: float
    high: float
    combined_p: float


def voxel_points(brain: Brain, depth: Array, how: str, regions: Sequence[str]) -> Points:
    """Return one point per selected voxel."""
    number = {name: i for i, name in enumerate(regions)}
    chosen = np.flatnonzero(brain.selected)
    preferred = kstar(brain.profile[:, chosen], depth, how)
    region = np.array([number[str(brain.roi[i])] for i in chosen], dtype=np.intp)
    return Points(preferred, brain.position[chosen], region).only_known()


def region_points(brain: Brain, depth: Array, how: str, regions: Sequence[str]) -> Points:
    """Return one point per region and hemisphere: the k* of its selected voxels' mean profile."""
    depths, positions, numbers = [], [], []
    for number, name in enumerate(regions):
        for side in sorted(set(brain.hemisphere.tolist())):
            inside = (brain.roi == name) & (brain.hemisphere == side)
            chosen = inside & brain.selected
            if chosen.any():
                mean = brain.profile[:, chosen].mean(axis=1, keepdims=True)
                depths.append(kstar(mean, depth, how)[0])
                positions.append(brain.position[inside].mean())
                numbers.append(number)
    return Points(np.array(depths), np.array(positions), np.array(numbers, np.intp)).only_known()


POINTS = {"voxel": voxel_points, "region": region_points}


def region_profile(brain: Brain, regions: Sequence[str]) -> Array:
    """Return the mean profile of each region's selected voxels, (n_layers, n_regions)."""
    profile = np.full((len(brain.profile), len(regions)), np.nan)
    for i, name in enumerate(regions):
        chosen = brain.selected & (brain.roi == name)
        if chosen.any():
            profile[:, i] = brain.profile[:, chosen].mean(axis=1)
    return profile


def spatial_score(subjects: Sequence[Points], method: str, seed: int) -> SpatialScore:
    """Correlate preferred depth with position, per subject and over subjects.

    p, per subject: permutation of the positions of regions (both hemispheres move together, voxels
    keep their offset inside the region), one-sided for a rise; NaN below 6 regions. Interval of the
    mean over subjects: percentile bootstrap over regions, the same draw for all subjects, since it
    is regions that are assigned to layers; a bootstrap over stimuli would take any fixed assignment
    for an order.
    """
    values = np.array([correlation(s.depth, s.position, method) for s in subjects])
    p = np.array([_position_p(s, method, seed) for s in subjects])
    p[np.isnan(values)] = np.nan
    low, high = _cluster_interval(subjects, method, seed)
    known = values[np.isfinite(values)]
    mean = float(known.mean()) if len(known) else float("nan")
    return SpatialScore(values, p, mean, low, high, stouffer(p.tolist()))


def _position_p(points: Points, method: str, seed: int) -> float:
    present = np.unique(points.region)
    if len(present) < FEWEST_REGIONS:
        return float("nan")
    centre = np.array([points.position[points.region == r].mean() for r in present])
    centre, position = centre - points.position.mean(), points.position - points.position.mean()
    member = np.searchsorted(present, points.region)
    offset = position - centre[member]
    orders = region_permutations(len(present), seed)
    depth = points.depth
    if method == "spearman":
        # Ranks are of regions: offsets inside a region do not survive a permutation of ranks, so
        # the statistic is Spearman's with the region's place, observed and permuted alike.
        depth, centre, offset = rankdata(depth), rankdata(centre), np.zeros_like(offset)
    scores = _permuted_scores(depth, centre, offset, member, orders)
    # Equal assignments give equal scores but for rounding.
    return float((scores >= scores[0] - 1e-9).mean())


def _permuted_scores(
    depth: Array, centre: Array, offset: Array, member: NDArray[np.intp], orders: NDArray[np.intp]
) -> Array:
    """Return the correlation under every order of regions, from sums within regions."""
    n = np.bincount(member)
    centred = depth - depth.mean()
    depth_sums = np.bincount(member, weights=centred)
    offset_sums = np.bincount(member, weights=offset)
    moved = centre[orders]
    covariance = moved @ depth_sums + (centred * offset).sum()
    total = moved @ n + offset.sum()
    squares = moved**2 @ n + 2 * moved @ offset_sums + (offset**2).sum()
    variance = squares - total**2 / len(depth)
    size = np.sqrt(np.maximum(variance, 0) * (centred**2).sum())
    return np.divide(covariance, size, out=np.zeros_like(size), where=size > 0)


def _cluster_interval(subjects: Sequence[Points], method: str, seed: int) -> tuple[float, float]:
    """Return the interval of the subjects' mean score over resampled regions."""
    present = sorted({int(r) for points in subjects for r in points.region})
    if len(present) < FEWEST_DRAWN_REGIONS:
        return float("nan"), float("nan")
    counts = _region_counts(len(present), seed)
    scores = np.stack([_drawn_scores(points, present, counts, method) for points in subjects])
    known = np.isfinite(scores)
    means = np.full(len(counts), np.nan)
    np.divide(np.where(known, scores, 0).sum(0), known.sum(0), out=means, where=known.any(0))
    return percentile_interval(means)


def _region_counts(n_regions: int, seed: int) -> Array:
    """Draw how often each region enters each resample, at least 3 distinct ones, (n_draws, n)."""
    generator = np.random.default_rng(seed)
    kept: list[Array] = []
    while len(kept) < N_CLUSTER_DRAWS:
        drawn = generator.multinomial(n_regions, np.full(n_regions, 1 / n_regions), N_CLUSTER_DRAWS)
        kept += list(drawn[(drawn > 0).sum(axis=1) >= FEWEST_DRAWN_REGIONS].astype(np.float64))
    return np.stack(kept[:N_CLUSTER_DRAWS])


def _drawn_scores(points: Points, present: Sequence[int], counts: Array, method: str) -> Array:
    """Return the score of every resample of regions, (n_draws,), from sums within regions.

    NaN where fewer than 3 of the subject's own regions were drawn.
    """
    if np.isnan(correlation(points.depth, points.position, method)):
        return np.full(len(counts), np.nan)
    member = np.searchsorted(present, points.region)
    drawn = counts[:, np.unique(member)] > 0
    enough = drawn.sum(axis=1) >= FEWEST_DRAWN_REGIONS
    moments = _drawn_ranks if method == "spearman" else _drawn_values
    scores = np.full(len(counts), np.nan)
    if enough.any():
        covariance, *variances = moments(points.depth, points.position, member, counts[enough])
        # Rounding leaves a constant resample a tiny share of the largest variance.
        defined = np.logical_and(*(v > 1e-12 * v.max() for v in variances))
        size = np.sqrt(np.where(defined, variances[0] * variances[1], np.nan))
        scores[enough] = covariance / size
    return scores


def _drawn_values(x: Array, y: Array, member: NDArray[np.intp], counts: Array) -> Moments:
    """Return covariance and both variances of the values of every resample, (n_draws,) each."""
    x, y = x - x.mean(), y - y.mean()

    def drawn(values: Array) -> Array:
        return counts @ np.bincount(member, weights=values, minlength=counts.shape[1])

    n = drawn(np.ones_like(x))
    mean_x, mean_y = drawn(x) / n, drawn(y) / n
    covariance = drawn(x * y) / n - mean_x * mean_y
    return covariance, drawn(x**2) / n - mean_x**2, drawn(y**2) / n - mean_y**2


def _drawn_ranks(x: Array, y: Array, member: NDArray[np.intp], counts: Array) -> Moments:
    """Return the same of the ranks inside every resample, up to a factor.

    A point's rank in a resample is the sum over regions of how often the region was drawn times
    its points below; products of ranks therefore need sums over triples of regions only.
    """
    below = [_below(values, member, counts.shape[1]) for values in (x, y)]
    total = counts @ np.bincount(member, minlength=counts.shape[1])

    def drawn(a: Array, b: Array) -> Array:
        here = [member == region for region in range(counts.shape[1])]
        sums = np.stack([a[points].T @ b[points] for points in here])
        products = np.einsum("dr,dq,dp,rqp->d", counts, counts, counts, sums, optimize=True)
        return np.asarray(products - total**3 / 4)

    return drawn(below[0], below[1]), drawn(below[0], below[0]), drawn(below[1], below[1])


def _below(values: Array, member: NDArray[np.intp], n_regions: int) -> Array:
    """Count each region's points below every point, ties by half, (n_points, n_regions)."""
    counts = np.empty((len(values), n_regions))
    for region in range(n_regions):
        ordered = np.sort(values[member == region])
        ends = [np.searchsorted(ordered, values, side=side) for side in ("left", "right")]
        counts[:, region] = (ends[0] + ends[1]) / 2
    return counts


def peak_latency(curves: Array, times: Array, window: tuple[float, float]) -> Array:
    """Return T_max: mean time of the contiguous run around the maximum at >= 95 % of it, in s.

    Parameters
    ----------
    curves : array, (…, n_times)
    times : array, (n_times,)
    window : (start, stop)
        Search window, s.

    Returns
    -------
    array, (…)
        NaN where the maximum is not positive.
    """
    curves, times, best, top = _search(curves, times, window)
    low = curves < PEAK_SHARE * top
    # The run around the maximum: no gap between a sample and it.
    gaps_before = np.cumsum(low, axis=-1)
    run = ~low & (gaps_before == np.take_along_axis(gaps_before, best, axis=-1))
    latency = (run * times).sum(axis=-1) / np.maximum(run.sum(axis=-1), 1)
    return np.where(top[..., 0] > 0, latency, np.nan)


def onset_latency(curves: Array, times: Array, window: tuple[float, float]) -> Array:
    """Return the first time from which a curve stays at >= half its maximum until it peaks, in s.

    Parameters and NaN as for `peak_latency`. A curve that is that high from the window's start has
    its onset there.
    """
    curves, times, best, top = _search(curves, times, window)
    place = np.arange(curves.shape[-1])
    low = (curves < 0.5 * top) & (place < best)
    first = np.where(low.any(axis=-1), curves.shape[-1] - low[..., ::-1].argmax(axis=-1), 0)
    return np.where(top[..., 0] > 0, times[first], np.nan)


def _search(
    curves: Array, times: Array, window: tuple[float, float]
) -> tuple[Array, Array, NDArray[np.intp], Array]:
    """Return curves and times inside the window, and place and height of each maximum, (…, 1)."""
    inside = (times >= window[0]) & (times <= window[1])
    if not inside.any():
        raise ValueError(f"no sample between {window[0]} and {window[1]} s")
    curves = curves[..., inside]
    best = curves.argmax(axis=-1)[..., None]
    return curves, times[inside], best, np.take_along_axis(curves, best, axis=-1)


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
    """A temporal score: per subject, and over subjects with its interval.

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
        Of all subjects (Stouffer, signed).
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

    Sensors: significant for the maximum over layers and windows, against the permutations' maxima
    pooled over sensors, by false discovery rate. Layers: those whose curve's maximum exceeds the
    (1 - significance) quantile of the same maximum under permutation.
    """
    inside = (times >= window[0]) & (times <= window[1])
    maxima = scores.permutation[..., inside].max(axis=(1, 3))
    sensors = significant(pooled_null_p(maxima[0], maxima[1:].ravel()), significance)
    n_layers = scores.bootstrap.shape[1]
    if not sensors.any():
        nothing = np.full(n_layers, np.nan)
        curve = scores.bootstrap[0].mean(axis=1)
        return Timing(
            sensors, curve, nothing, nothing, np.full((len(scores.bootstrap) - 1, n_layers), np.nan)
        )
    curves = scores.bootstrap[:, :, sensors].mean(axis=2)
    null = scores.permutation[:, :, sensors].mean(axis=2)[..., inside].max(axis=-1)
    peaks = null[0] > np.quantile(null[1:], 1 - significance, axis=0)
    latency = np.where(peaks, peak_latency(curves, times, window), np.nan)
    onset = np.where(peaks, onset_latency(curves[0], times, window), np.nan)
    return Timing(sensors, curves[0], latency[0], onset, latency[1:])


def temporal_score(subjects: Sequence[Timing], depth: Array, method: str) -> TemporalScore:
    """Correlate depth with peak latency over layers, per subject and over subjects.

    Fewer than 5 layers with a peak: NaN. p: null-centred bootstrap over stimuli,
    r* = corr(depth, T*_l - mean_b T*_l), two-sided. Interval of the mean over subjects: percentiles
    of the bootstrap, whose resample is the same for all layers and subjects.
    """
    values = np.array([_ordered(s.latency, depth, method) for s in subjects])
    replicates = [_replicate_scores(s.replicates, depth, method) for s in subjects]
    null = [_replicate_scores(_null_centred(s), depth, method) for s in subjects]
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
    if np.isfinite(latency).sum() < FEWEST_LAYERS:
        return float("nan")
    return correlation(depth, latency, method)


def _null_centred(subject: Timing) -> Array:
    known = np.isfinite(subject.replicates)
    total = np.where(known, subject.replicates, 0).sum(axis=0)
    mean = total / np.maximum(known.sum(axis=0), 1)
    return subject.replicates - mean


def _replicate_scores(latencies: Array, depth: Array, method: str) -> Array:
    """Return the score of every replicate, (n_replicates,)."""
    complete = np.isfinite(latencies).all(axis=0)
    if method == "pearson" and complete.sum() >= FEWEST_LAYERS and complete.all():
        return rows_correlation(latencies, np.broadcast_to(depth, latencies.shape))
    return np.array([_ordered(row, depth, method) for row in latencies])
