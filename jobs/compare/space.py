"""The tables in space of one model's comparisons, signal by signal."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from gradenc_core.compare.agreement import agreement, contrast, paired
from gradenc_core.compare.regions import Points
from gradenc_core.compare.space import (
    POINTS,
    Brain,
    distance_to_seed,
    kstar,
    ladder_position,
    region_position,
    region_profile,
    spatial_score,
)
from gradenc_core.compare.statistics import (
    max_statistic_p,
    permutation_maxima,
    pooled_null_p,
    significant,
)
from gradenc_core.ridge.scores import analytic_p
from jobs.compare.inputs import Inputs, Scores
from jobs.compare.tables import fill_score, labels
from jobs.spec import CompareOptions
from storage_schemas.kinds.comparisons import DISTANCE
from storage_schemas.sources import UNIQUE

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Person:
    """One subject's targets for one signal.

    Attributes
    ----------
    name : str
    brains : mapping of str to Brain
        By resolution.
    largest : array, (n_permutations + 1,)
        Largest score over layers and mean responses of regions, in each permutation.
    """

    name: str
    brains: Mapping[str, Brain]
    largest: Array

    def at(self, inputs: Inputs, position: str) -> "Person":
        """Return the same targets at their positions."""
        coords, options = inputs.responses[self.name, "fmri"], inputs.spec.options
        voxels, means = self.brains["voxel"], self.brains["mean_response"]
        if position == DISTANCE:
            xyz = np.stack([coords[axis].values for axis in "xyz"], axis=1)
            place = distance_to_seed(xyz, voxels.roi, voxels.hemisphere, options.seed_region)
        else:
            place = ladder_position(voxels.roi, options.ladders[position])
        return replace(self, brains=_by_resolution(replace(voxels, position=place), means))


def _by_resolution(voxels: Brain, means: Brain) -> dict[str, Brain]:
    """Return the brains of all resolutions; a region is where the mean of its voxels is."""
    place = [
        voxels.position[(voxels.roi == roi) & (voxels.hemisphere == side)].mean()
        for roi, side in zip(means.roi, means.hemisphere, strict=True)
    ]
    placed = replace(means, position=np.array(place, dtype=np.float64))
    return {"voxel": voxels, "region": voxels, "mean_response": placed}


def read_people(inputs: Inputs, signal: str, subjects: Sequence[str]) -> list[Person]:
    """Read one signal's scores of every subject; nothing has a position yet."""
    return [_person(inputs, signal, subject) for subject in subjects]


def _person(inputs: Inputs, signal: str, subject: str) -> Person:
    scores = inputs.scores(signal, subject, "fmri")
    coords = inputs.responses[subject, "fmri"]
    roi, hemisphere = (coords[name].values.astype(object) for name in ("roi", "hemisphere"))
    selected = significant_voxels(signal, scores, inputs.spec.options)
    voxels = Brain(scores.values, selected, np.full(len(roi), np.nan), roi, hemisphere)
    sites = np.array([name.rsplit(":", 1) for name in scores.names], dtype=object).reshape(-1, 2)
    everywhere = np.ones(len(sites), dtype=bool)
    nowhere = np.full(len(sites), np.nan)
    means = Brain(scores.permutation[0], everywhere, nowhere, sites[:, 0], sites[:, 1])
    return Person(subject, _by_resolution(voxels, means), permutation_maxima(scores.permutation))


def significant_voxels(signal: str, scores: Scores, options: CompareOptions) -> NDArray[np.bool_]:
    """Select voxels by their best layer, at a false discovery rate.

    r: the analytic p of the best layer, times the number of layers (Bonferroni). U: the best
    layer's U against the same maximum under permutation, pooled over the region means whose
    permutations are stored.

    Returns
    -------
    array of bool, (n_voxels,)
    """
    best = scores.values.max(axis=0)
    if signal.startswith(UNIQUE):
        null = scores.permutation[1:].max(axis=1)
        return significant(pooled_null_p(best, null.ravel()), options.significance)
    p = analytic_p(best, scores.n_independent, options.folds) * len(scores.values)
    return significant(np.minimum(p, 1.0), options.significance)


def fill_space(
    inputs: Inputs,
    tables: xr.Dataset,
    signal: str,
    people: Sequence[Person],
    forward: Sequence[Person],
) -> None:
    """Fill a signal's tables in space; `forward` are the same subjects' activations."""
    depth, seed = _depth(inputs, tables, signal), inputs.spec.options.seed
    _fill_regions(inputs, tables, signal, [person.at(inputs, DISTANCE) for person in people])
    if signal != "forward":
        _fill_agreement(inputs, tables, signal, people, forward)
    for position in labels(tables, "position"):
        placed = [person.at(inputs, position) for person in people]
        at = {"signal": signal, "position": position}
        _fill_scores(tables, at, placed, depth, seed)
        if signal != "forward":
            _fill_contrast(inputs, tables, at, placed, forward)


def _fill_regions(
    inputs: Inputs, tables: xr.Dataset, signal: str, people: Sequence[Person]
) -> None:
    """Fill the tables of regions and counts, by subject."""
    regions, depth = labels(tables, "region"), _depth(inputs, tables, signal)
    layers = tables["layer"][inputs.usable(signal)]
    for person in people:
        brain = person.brains["voxel"]
        at = {"signal": signal, "fmri_subject": person.name}
        profile = region_profile(brain, regions)
        tables["region_profile"].loc[{**at, "layer": layers}] = profile
        for how in labels(tables, "kstar"):
            tables["region_depth"].loc[{**at, "kstar": how}] = kstar(profile, depth, how)
        tables["significant_voxels"].loc[at] = brain.selected.sum()
        position = region_position(brain, regions)
        tables["region_position"].loc[{"fmri_subject": person.name}] = position
        if signal.startswith(UNIQUE):
            tables["gradient_p_fmri"].loc[at] = max_statistic_p(person.largest)


def _fill_scores(
    tables: xr.Dataset, at: Mapping[str, str], people: Sequence[Person], depth: Array, seed: int
) -> None:
    """Fill the scores of one signal and position, for every resolution, k* and correlation."""
    regions = labels(tables, "region")
    for resolution, how in product(labels(tables, "resolution"), labels(tables, "kstar")):
        points = [POINTS[resolution](p.brains[resolution], depth, how, regions) for p in people]
        for method in labels(tables, "correlation"):
            score = spatial_score(points, method, seed)
            cell = {**at, "resolution": resolution, "kstar": how, "correlation": method}
            fill_score(tables, "spatial", cell, score)


def _fill_agreement(
    inputs: Inputs,
    tables: xr.Dataset,
    signal: str,
    people: Sequence[Person],
    forward: Sequence[Person],
) -> None:
    """Fill the agreement of a signal's preferred depths with the forward ones."""
    for resolution, how in product(labels(tables, "resolution"), labels(tables, "kstar")):
        points = _pairs(inputs, tables, signal, people, forward, resolution, how)
        cell = {"signal": signal, "resolution": resolution, "kstar": how}
        for method in labels(tables, "correlation"):
            found = agreement(*points, method, inputs.spec.options.seed)
            fill_score(tables, "agreement", {**cell, "correlation": method}, found)


def _fill_contrast(
    inputs: Inputs,
    tables: xr.Dataset,
    at: Mapping[str, str],
    people: Sequence[Person],
    forward: Sequence[Person],
) -> None:
    """Fill how much faster a signal's preferred depth rises than a share of the forward one."""
    options = inputs.spec.options
    for resolution, how in product(labels(tables, "resolution"), labels(tables, "kstar")):
        points = _pairs(inputs, tables, at["signal"], people, forward, resolution, how)
        found = contrast(*points, options.smallest_effect, options.seed)
        cell = {**at, "resolution": resolution, "kstar": how}
        tables["contrast"].loc[cell] = found.values
        tables["contrast_mean"].loc[cell] = found.mean
        tables["contrast_p"].loc[cell] = found.p


def _pairs(
    inputs: Inputs,
    tables: xr.Dataset,
    signal: str,
    people: Sequence[Person],
    forward: Sequence[Person],
    resolution: str,
    how: str,
) -> tuple[list[Points], list[Points]]:
    """Return the points of both signals, of the targets and layers that both have."""
    regions, depth = labels(tables, "region"), _depth(inputs, tables, signal)
    usable, make = inputs.usable(signal), POINTS[resolution]
    brains = [
        paired(own.brains[resolution], other.brains[resolution], usable)
        for own, other in zip(people, forward, strict=True)
    ]
    gradient = [make(brain, depth, how, regions) for brain, _ in brains]
    return gradient, [make(brain, depth, how, regions) for _, brain in brains]


def _depth(inputs: Inputs, tables: xr.Dataset, signal: str) -> Array:
    """Return the depths of the layers that a signal's scores have."""
    return np.asarray(tables["layer_depth"].values[inputs.usable(signal)])
