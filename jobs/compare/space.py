"""The tables in space of one model's comparisons, signal by signal."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from gradenc_core.compare.agreement import agreement, contrast, paired
from gradenc_core.compare.regions import Points
from gradenc_core.compare.space import (
    POINTS,
    kstar,
    region_counts,
    region_position,
    region_profile,
    spatial_score,
)
from jobs.compare.beside import fill_beside, fill_over_ceilings, fill_reliability
from jobs.compare.inputs import Inputs
from jobs.compare.person import Person
from jobs.compare.tables import fill_score, labels
from storage_schemas.kinds.comparisons import DISTANCE

Array = NDArray[np.float64]


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
    fill_reliability(tables, signal, tables["layer"][inputs.usable(signal)], people, depth)
    if signal != "forward":
        _fill_agreement(inputs, tables, signal, people, forward)
    for position in labels(tables, "position"):
        placed = [person.at(inputs, position) for person in people]
        at = {"signal": signal, "position": position}
        _fill_scores(tables, at, placed, depth, seed)
        fill_beside(tables, at, placed, depth, seed)
        if signal != "forward":
            _fill_contrast(inputs, tables, at, placed, forward)
    fill_over_ceilings(tables, signal)


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
        everywhere = replace(brain, selected=np.ones_like(brain.selected))
        of_all = region_profile(everywhere, regions)
        tables["region_profile_all"].loc[{**at, "layer": layers}] = of_all
        n_voxels, n_selected = region_counts(brain, regions)
        tables["region_voxels"].loc[{"fmri_subject": person.name}] = n_voxels
        tables["region_selected"].loc[at] = n_selected
        position = region_position(brain, regions)
        tables["region_position"].loc[{"fmri_subject": person.name}] = position


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
