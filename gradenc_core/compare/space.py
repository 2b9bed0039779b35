"""Spatial hierarchy: whether the layer that predicts a region best deepens along the cortex.

Every target prefers one relative depth (k*); a spatial score is the correlation of k* with the
target's position. Regions, not voxels, are the units of inference (`gradenc_core.compare.regions`).
Definitions follow arXiv 2508.18226 and 2605.28693 (docs/methods.md). Pure functions on arrays;
`n_layers` runs in network order.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gradenc_core.compare.regions import Points, jackknife_interval, order_p, order_statistic

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Names = NDArray[np.object_]

ALIKE_ENDS = 0.95
"""Linear CKA of first and last layer above which layers count as one."""
ALIKE_NEIGHBOURS = 0.99
"""Linear CKA of two neighbouring layers above which they count as one."""


def kstar(profile: Array, depth: Array, how: str) -> Array:
    """Return the relative depth that each target prefers.

    Parameters
    ----------
    profile : array, (n_layers, n_targets)
        Scores.
    depth : array, (n_layers,)
        Relative depths.
    how : {"argmax", "centre_of_mass"}
        `argmax`: depth of the best layer. `centre_of_mass`: sum w_l depth_l / sum w_l with
        w_l = max(r_l, 0) - min_l max(r_l, 0).

    Returns
    -------
    array, (n_targets,)
        NaN where the profile holds NaN or no positive score, or is flat.

    Raises
    ------
    ValueError
        For another `how`.
    """
    if how not in ("argmax", "centre_of_mass"):
        raise ValueError(f"k* is 'argmax' or 'centre_of_mass'; given {how!r}")
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


def distance_to_seed(xyz: Array, roi: Names, hemisphere: Names, seed_region: str) -> Array:
    """Return each voxel's distance to the centroid of its hemisphere's seed region.

    Parameters
    ----------
    xyz : array, (n_voxels, 3)
        Positions in mm.
    roi, hemisphere : array of str, (n_voxels,)

    Returns
    -------
    array, (n_voxels,)
        mm; NaN in a hemisphere without the seed region.
    """
    distance = np.full(len(xyz), np.nan)
    for side in set(hemisphere.tolist()):
        here = hemisphere == side
        seed = here & (roi == seed_region)
        if seed.any():
            distance[here] = np.linalg.norm(xyz[here] - xyz[seed].mean(axis=0), axis=1)
    return distance


def ladder_position(roi: Names, ladder: Sequence[str]) -> Array:
    """Return each voxel's ordinal position on a ladder of regions, from 0; NaN outside it."""
    position = {name: float(i) for i, name in enumerate(ladder)}
    return np.array([position.get(str(name), np.nan) for name in roi])


def identifiable(cka: Array) -> bool:
    """Say whether layers can be told apart: first from last, and all neighbours.

    Parameters
    ----------
    cka : array, (n_layers, n_layers)
        Linear CKA of one signal.
    """
    neighbours = np.diagonal(cka, offset=1)
    return bool(cka[0, -1] <= ALIKE_ENDS and (neighbours <= ALIKE_NEIGHBOURS).all())


@dataclass(frozen=True)
class Brain:
    """One fMRI subject's targets for one signal: voxels, or mean responses of regions.

    Attributes
    ----------
    profile : array, (n_layers, n_targets)
        Scores.
    selected : array of bool, (n_targets,)
        Targets that enter, for example significant voxels.
    position : array, (n_targets,)
        mm or ordinal; NaN outside the map.
    roi, hemisphere : array of str, (n_targets,)
    """

    profile: Array
    selected: Mask
    position: Array
    roi: Names
    hemisphere: Names


@dataclass(frozen=True)
class SpatialScore:
    """A spatial score: of each subject, and over subjects with its interval.

    Attributes
    ----------
    values, p : array, (n_subjects,)
        Correlation of preferred depth with position, and its one-sided p; NaN where undefined.
    mean, low, high : float
        Mean over subjects and its 95 % interval over regions.
    combined_p : float
        One-sided p of the mean, under one common permutation of regions.
    """

    values: Array
    p: Array
    mean: float
    low: float
    high: float
    combined_p: float


def target_points(brain: Brain, depth: Array, how: str, regions: Sequence[str]) -> Points:
    """Return one point per selected target."""
    number = {name: i for i, name in enumerate(regions)}
    chosen = np.flatnonzero(brain.selected)
    preferred = kstar(brain.profile[:, chosen], depth, how)
    region = np.array([number[str(brain.roi[i])] for i in chosen], dtype=np.intp)
    return Points(preferred, brain.position[chosen], region)


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
    return Points(np.array(depths), np.array(positions), np.array(numbers, np.intp))


POINTS: dict[str, Callable[[Brain, Array, str, Sequence[str]], Points]] = {
    "voxel": target_points,
    "region": region_points,
    "mean_response": target_points,
}
"""Resolution of a spatial score -> the points that it correlates: of significant voxels, of regions
by the mean score of their significant voxels, or of the mean responses of regions, selected or not.
"""


def region_profile(brain: Brain, regions: Sequence[str]) -> Array:
    """Return the mean profile of each region's selected voxels, (n_layers, n_regions)."""
    profile = np.full((len(brain.profile), len(regions)), np.nan)
    for i, name in enumerate(regions):
        chosen = brain.selected & (brain.roi == name)
        if chosen.any():
            profile[:, i] = brain.profile[:, chosen].mean(axis=1)
    return profile


def region_counts(brain: Brain, regions: Sequence[str]) -> tuple[Array, Array]:
    """Return how many targets each region has, and how many are selected, (n_regions,) each."""
    inside = [brain.roi == name for name in regions]
    selected = [(here & brain.selected).sum() for here in inside]
    return np.array([here.sum() for here in inside], float), np.array(selected, float)


def region_position(brain: Brain, regions: Sequence[str]) -> Array:
    """Return the mean position of all voxels of each region, (n_regions,)."""
    position = np.full(len(regions), np.nan)
    for i, name in enumerate(regions):
        inside = brain.roi == name
        if inside.any():
            position[i] = brain.position[inside].mean()
    return position


def spatial_score(
    subjects: Sequence[Points], method: str = "pearson", seed: int = 0
) -> SpatialScore:
    """Correlate preferred depth with position, for each subject and over subjects.

    Regions are what is assigned to layers, so regions are what is permuted and left out; a
    bootstrap over stimuli would take any fixed assignment for an order.

    Parameters
    ----------
    subjects : sequence of Points
        Points of each subject (voxels, or regions and hemispheres). A region has the same number in
        all subjects. Points without depth or position are left out.
    method : {"pearson", "spearman"}
    seed : int
        Of the permutations, above 8 regions.

    Returns
    -------
    SpatialScore
        `p`: permutation of the positions of regions, one-sided for a rise (both hemispheres move
        together, voxels keep their offset inside the region); exact up to 8 regions, NaN below 6.
        `combined_p`: the same of the mean over subjects, whose regions change places by the same
        permutations: subjects with one assignment of regions to layers are not independent.
        `low, high`: delete-one jackknife over regions in Fisher's z with t(R - 1); NaN where a
        subject has fewer than 4 regions.

    Raises
    ------
    ValueError
        For another `method`.

    Notes
    -----
    The score is that of arXiv 2508.18226 (preferred layer against distance from V1), with regions
    instead of voxels as the units of its test. It is decided by its p: the interval only describes.

    Examples
    --------
    Six regions at 0, 10, ..., 50 mm; the last two prefer each other's layer.

    >>> import numpy as np
    >>> from gradenc_core.compare.regions import Points
    >>> from gradenc_core.compare.space import spatial_score
    >>> regions = np.arange(6)
    >>> depth = np.array([0.1, 0.2, 0.3, 0.4, 0.6, 0.5])
    >>> score = spatial_score([Points(depth, 10.0 * regions, regions)])
    >>> print(f"{score.mean:.3f}, p = {score.p[0]:.4f}")
    0.943, p = 0.0083
    """
    known = [points.only_known() for points in subjects]
    values = np.array([order_statistic(points, method) for points in known])
    p = np.array([order_p([points], method, seed) for points in known])
    low, high = jackknife_interval(known, method)
    usable = values[np.isfinite(values)]
    mean = float(usable.mean()) if len(usable) else float("nan")
    return SpatialScore(values, p, mean, low, high, order_p(known, method, seed))
