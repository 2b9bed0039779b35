"""Null and interval of an order over regions of the cortex, for one subject or several.

A voxel's preferred depth follows its region, and regions are what a hierarchy orders: so the test
permutes regions and the interval leaves them out one by one. Subjects whose regions are assigned to
layers alike are not independent: all of them are permuted by the same orders.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from gradenc_core.compare.statistics import (
    CONSTANT,
    FEWEST_REGIONS,
    LEVEL,
    correlation,
    region_permutations,
)

Array = NDArray[np.float64]
Indices = NDArray[np.intp]

FEWEST_FOR_INTERVAL = 4
"""Regions of a subject below which leaving one out leaves no order."""
LARGEST = 0.999
"""Correlation at which Fisher's z ends: a perfect order of few regions would have an infinite z."""
TIE = 1e-9
"""Scores closer than this, relative to the largest, are equal: equal assignments differ by
rounding."""


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
        Number of the point's region; a region has the same number in all subjects.
    """

    depth: Array
    position: Array
    region: Indices

    def only_known(self) -> "Points":
        """Drop points without depth or position."""
        return self._where(np.isfinite(self.depth) & np.isfinite(self.position))

    def without(self, region: int) -> "Points":
        """Drop a region's points."""
        return self._where(self.region != region)

    def _where(self, kept: NDArray[np.bool_]) -> "Points":
        return Points(self.depth[kept], self.position[kept], self.region[kept])


def order_statistic(points: Points, statistic: str) -> float:
    """Return the correlation of depth with position, or the slope of depth on position.

    NaN below 3 points, and where depths or positions are constant.

    Raises
    ------
    ValueError
        For another `statistic`.
    """
    if statistic != "slope":
        return correlation(points.depth, points.position, statistic)
    r = correlation(points.depth, points.position, "pearson")
    return float(r * points.depth.std() / points.position.std()) if np.isfinite(r) else r


def order_p(subjects: Sequence[Points], statistic: str, seed: int) -> float:
    """Return the one-sided p of the mean over subjects, under one common permutation of regions.

    The positions of the regions that all subjects have change places, in the same way in all
    subjects; other regions keep their place, both hemispheres move together, and voxels keep their
    offset inside the region. Exact up to 8 regions.

    Parameters
    ----------
    subjects : sequence of Points
        Points of each subject; those without a statistic of their own are left out.
    statistic : {"pearson", "spearman", "slope"}
        Spearman's takes each region's rank for the position of all its voxels, observed and
        permuted alike: offsets inside a region do not survive a permutation of ranks.
    seed : int
        Of the drawn permutations, above 8 regions.

    Returns
    -------
    float
        Share of orders whose mean reaches the observed one; NaN below 6 common regions.
    """
    known = [points for points in subjects if np.isfinite(order_statistic(points, statistic))]
    present = [np.unique(points.region) for points in known]
    common = _in_all(present)
    if len(common) < FEWEST_REGIONS:
        return float("nan")
    orders = region_permutations(len(common), seed)
    total = np.zeros(len(orders))
    for points, own in zip(known, present, strict=True):
        total += _permuted(points, own, _with_others(own, common, orders), statistic)
    return float((total >= total[0] - TIE * np.abs(total).max()).mean())


def _in_all(present: Sequence[Indices]) -> Indices:
    """Return the numbers of the regions that every subject has."""
    if not present:
        return np.array([], dtype=np.intp)
    return np.array(sorted(set.intersection(*(set(own.tolist()) for own in present))), np.intp)


def _with_others(own: Indices, common: Indices, orders: Indices) -> Indices:
    """Return orders of a subject's own regions in which only the common ones change places."""
    places = np.searchsorted(own, common)
    moved = np.tile(np.arange(len(own)), (len(orders), 1))
    moved[:, places] = places[orders]
    return moved


def _permuted(points: Points, own: Indices, orders: Indices, statistic: str) -> Array:
    """Return the statistic under every order of a subject's regions, (n_orders,)."""
    position = points.position - points.position.mean()
    centre = np.array([position[points.region == r].mean() for r in own])
    member = np.searchsorted(own, points.region)
    depth, offset = points.depth, position - centre[member]
    if statistic == "spearman":
        depth, centre = stats.rankdata(depth), stats.rankdata(centre)
        offset = np.zeros_like(offset)
    covariance, variance = _moments(depth, centre, offset, member, orders)
    size = variance
    if statistic != "slope":
        size = np.sqrt(variance * ((depth - depth.mean()) ** 2).sum())
    return np.divide(covariance, size, out=np.zeros_like(size), where=size > 0)


def _moments(
    depth: Array, centre: Array, offset: Array, member: Indices, orders: Indices
) -> tuple[Array, Array]:
    """Return depth's covariance with the moved positions and their variance, as sums of squares.

    Both come from sums within regions, so that their cost does not grow with the number of voxels.
    """
    n = np.bincount(member)
    centred = depth - depth.mean()
    depth_sums = np.bincount(member, weights=centred)
    offset_sums = np.bincount(member, weights=offset)
    moved = centre[orders]
    covariance = moved @ depth_sums + (centred * offset).sum()
    total = moved @ n + offset.sum()
    squares = moved**2 @ n + 2 * moved @ offset_sums + (offset**2).sum()
    variance = squares - total**2 / len(depth)
    return covariance, np.where(variance > CONSTANT * squares, variance, 0)


def jackknife_interval(subjects: Sequence[Points], method: str) -> tuple[float, float]:
    """Return the 95 % interval of the subjects' mean correlation, over regions left out in turn.

    A region is left out of all subjects at once. With R regions, z the Fisher z of the mean and
    z_r that without region r, se^2 = (R - 1) / R sum (z_r - mean z_r)^2 and the interval is
    tanh(z +- t_(R-1) se). Where the regions that are left all prefer one depth, they have no order
    and the correlation counts as 0.

    Parameters
    ----------
    subjects : sequence of Points
        Subjects without a correlation are left out.
    method : {"pearson", "spearman"}

    Returns
    -------
    (low, high)
        NaN where a subject has fewer than 4 regions.
    """
    known = [points for points in subjects if np.isfinite(order_statistic(points, method))]
    present = [set(points.region.tolist()) for points in known]
    if not known or min(map(len, present)) < FEWEST_FOR_INTERVAL:
        return float("nan"), float("nan")
    regions = sorted(set.union(*present))
    mean = _mean(known, method)
    z = _fisher([_mean([p.without(region) for p in known], method) for region in regions])
    se = np.sqrt((len(regions) - 1) * z.var())
    reach = stats.t.ppf((1 + LEVEL) / 2, len(regions) - 1) * se
    centre = _fisher([mean])[0]
    # The end of Fisher's z must not shut out the score itself.
    return min(float(np.tanh(centre - reach)), mean), max(float(np.tanh(centre + reach)), mean)


def _mean(subjects: Sequence[Points], method: str) -> float:
    return float(np.mean(np.nan_to_num([order_statistic(points, method) for points in subjects])))


def _fisher(correlations: Sequence[float]) -> Array:
    return np.arctanh(np.clip(correlations, -LARGEST, LARGEST))
