"""Hierarchy comparisons in space: where in the cortex each layer of a network is found.

Definitions: docs/methods.md (after arXiv 2508.18226 and 2605.28693). Pure
functions on arrays; `n_layers` runs in network order.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from gradenc_core.compare.statistics import (
    FEWEST_REGIONS,
    correlation,
    percentile_interval,
    region_permutations,
    stouffer,
)

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Moments = tuple[Array, Array, Array]

KSTARS = ("argmax", "centre_of_mass")
CORRELATIONS = ("pearson", "spearman")
RESOLUTIONS = ("voxel", "region")
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
