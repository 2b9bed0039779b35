"""Beside the orders in space: reliability, ties, smooth surrogates, and a test over people."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from gradenc_core.compare.halves import best_layers, halves, over_ceiling, reliability
from gradenc_core.compare.people import rise
from gradenc_core.compare.space import POINTS, kstar
from gradenc_core.compare.statistics import FEWEST_REGIONS
from gradenc_core.compare.surrogates import moran_p
from jobs.compare.person import Person
from jobs.compare.tables import labels

Array = NDArray[np.float64]

WITH_FOLDS = ("voxel", "region")
"""Resolutions whose scores are stored by fold."""


def fill_reliability(
    tables: xr.Dataset,
    signal: str,
    layers: xr.DataArray,
    people: Sequence[Person],
    depth: Array,
) -> None:
    """Fill the reliability of preferred depths over halves of the folds, and ties of layers."""
    regions = labels(tables, "region")
    for person in people:
        brain, at = person.brains["voxel"], {"signal": signal, "fmri_subject": person.name}
        split = [replace(brain, profile=half) for half in halves(person.folds)]
        for resolution, how in product(WITH_FOLDS, labels(tables, "kstar")):
            first, second = (POINTS[resolution](half, depth, how, regions).depth for half in split)
            cell = {**at, "resolution": resolution, "kstar": how}
            tables["kstar_reliability"].loc[cell] = reliability(first, second)
        chosen = person.folds[:, :, brain.selected]
        tied = best_layers(chosen).sum(axis=0) > 1
        tables["tied_voxels"].loc[at] = tied.sum()
        for region in regions:
            inside = brain.selected & (brain.roi == region)
            if inside.any():
                mean = person.folds[:, :, inside].mean(axis=2, keepdims=True)
                row = tables["kstar_set"].loc[{**at, "region": region}]
                row.loc[{"layer": layers}] = best_layers(mean)[:, 0]


def fill_over_ceilings(tables: xr.Dataset, signal: str) -> None:
    """Fill orders divided by the root of the reliability of the preferred depths."""
    at = {"signal": signal, "correlation": "pearson"}
    dims = ("resolution", "kstar", "fmri_subject")
    own, forward = (
        tables["kstar_reliability"].sel(signal=name).transpose(*dims).values
        for name in (signal, "forward")
    )
    score = tables["spatial_score"].sel(at).transpose("position", *dims).values
    agreement = tables["agreement_score"].sel(at).transpose(*dims).values
    divided = over_ceiling(score, np.broadcast_to(own, score.shape))
    tables["spatial_over_ceiling"].loc[{"signal": signal}] = divided
    divided = over_ceiling(agreement, own, forward)
    tables["agreement_over_ceiling"].loc[{"signal": signal}] = divided


def fill_beside(
    tables: xr.Dataset, at: Mapping[str, str], people: Sequence[Person], depth: Array, seed: int
) -> None:
    """Fill the tests beside that over regions: of smooth surrogates, and over people."""
    regions = labels(tables, "region")
    for how in labels(tables, "kstar"):
        p = _smooth_p(people, depth, how, seed)
        tables["spatial_moran_p"].loc[{**at, "kstar": how}] = p
    for resolution, how in product(labels(tables, "resolution"), labels(tables, "kstar")):
        points = [POINTS[resolution](p.brains[resolution], depth, how, regions) for p in people]
        found = rise(points, seed)
        cell = {**at, "resolution": resolution, "kstar": how}
        tables["people_slope"].loc[cell] = found.values
        tables["people_mean"].loc[cell] = found.mean
        tables["people_p"].loc[cell] = found.p


def _smooth_p(people: Sequence[Person], depth: Array, how: str, seed: int) -> float:
    """Return p of the mean responses' order against maps as smooth, of places that all have.

    Distances between places are means over people.
    """
    known = [found for person in people if len(found := _places(person, depth, how)) > 0]
    common = sorted(set.intersection(*map(set, known))) if known else []
    if len(common) < FEWEST_REGIONS:
        return float("nan")
    values = np.array([[found[place] for place in common] for found in known])
    centres = values[..., 2:]
    apart = np.linalg.norm(centres[:, :, None] - centres[:, None], axis=-1).mean(axis=0)
    return moran_p(list(values[..., 0]), list(values[..., 1]), apart, seed)


def _places(person: Person, depth: Array, how: str) -> dict[str, Array]:
    """Return depth, position and centroid of every known mean response, by region:hemisphere."""
    brain = person.brains["mean_response"]
    found = np.column_stack([kstar(brain.profile, depth, how), brain.position, person.centres])
    names = [f"{roi}:{side}" for roi, side in zip(brain.roi, brain.hemisphere, strict=True)]
    whole = zip(names, found, strict=True)
    return {name: row for name, row in whole if np.isfinite(row).all()}
