"""Null and interval of a spatial score over regions of the cortex.

A voxel's preferred depth follows its region, and regions are what a hierarchy orders: so the test
permutes regions and the interval resamples them. Both work from sums within regions, so that their
cost does not grow with the number of voxels.
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
)

Array = NDArray[np.float64]
Indices = NDArray[np.intp]
Moments = tuple[Array, Array, Array]
"""Covariance and the two variances of every resample, (n_draws,) each."""

N_CLUSTER_DRAWS = 1000
"""Resamples of regions behind an interval."""
FEWEST_DRAWN_REGIONS = 3
"""Distinct regions that a resample must hold: two always lie on a line."""
TIE = 1e-9
"""Scores closer than this are equal: sums of equal assignments differ by rounding."""


@dataclass(frozen=True)
class Points:
    """What a spatial score correlates, point by point: voxels, or regions of a hemisphere.

    Attributes
    ----------
    depth : array, (n_points,)
        Preferred relative depth (k*).
    position : array, (n_points,)
        mm or ordinal.
    region : array of int, (n_points,)
        Number of the point's region.
    """

    depth: Array
    position: Array
    region: Indices

    def only_known(self) -> "Points":
        """Drop points without depth or position."""
        known = np.isfinite(self.depth) & np.isfinite(self.position)
        return Points(self.depth[known], self.position[known], self.region[known])


def position_p(points: Points, method: str, seed: int) -> float:
    """Return the one-sided p of a subject's score under permutation of the regions' positions.

    NaN below 6 regions. Spearman's statistic takes each region's rank for the position of all its
    voxels, observed and permuted alike: offsets inside a region do not survive a permutation of
    ranks.
    """
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
        depth, centre, offset = rankdata(depth), rankdata(centre), np.zeros_like(offset)
    scores = _permuted_scores(depth, centre, offset, member, orders)
    return float((scores >= scores[0] - TIE).mean())


def _permuted_scores(
    depth: Array, centre: Array, offset: Array, member: Indices, orders: Indices
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


def cluster_interval(subjects: Sequence[Points], method: str, seed: int) -> tuple[float, float]:
    """Return the 95 % interval of the subjects' mean score over resampled regions."""
    present = sorted({int(r) for points in subjects for r in points.region})
    if len(present) < FEWEST_DRAWN_REGIONS:
        return float("nan"), float("nan")
    counts = _region_counts(len(present), seed)
    scores = np.stack([drawn_scores(points, present, counts, method) for points in subjects])
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


def drawn_scores(points: Points, present: Sequence[int], counts: Array, method: str) -> Array:
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


def _drawn_values(x: Array, y: Array, member: Indices, counts: Array) -> Moments:
    """Return covariance and both variances of the values of every resample, (n_draws,) each."""
    x, y = x - x.mean(), y - y.mean()

    def drawn(values: Array) -> Array:
        return counts @ np.bincount(member, weights=values, minlength=counts.shape[1])

    n = drawn(np.ones_like(x))
    mean_x, mean_y = drawn(x) / n, drawn(y) / n
    covariance = drawn(x * y) / n - mean_x * mean_y
    return covariance, drawn(x**2) / n - mean_x**2, drawn(y**2) / n - mean_y**2


def _drawn_ranks(x: Array, y: Array, member: Indices, counts: Array) -> Moments:
    """Return the same moments of the ranks inside every resample, up to a factor.

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


def _below(values: Array, member: Indices, n_regions: int) -> Array:
    """Count each region's points below every point, ties by half, (n_points, n_regions)."""
    counts = np.empty((len(values), n_regions))
    for region in range(n_regions):
        ordered = np.sort(values[member == region])
        ends = [np.searchsorted(ordered, values, side=side) for side in ("left", "right")]
        counts[:, region] = (ends[0] + ends[1]) / 2
    return counts
