"""One subject in the scanner: the targets of one signal, as voxels and as regions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gradenc_core.compare.reference import Confusion
from gradenc_core.compare.space import Brain, distance_to_seed, ladder_position
from gradenc_core.compare.statistics import pooled_null_p, significant
from gradenc_core.ridge.scores import analytic_p
from jobs.compare.inputs import Inputs, Scores
from jobs.spec import CompareOptions
from storage_schemas.kinds.comparisons import DISTANCE

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Person:
    """One subject's targets for one signal.

    Attributes
    ----------
    name : str
    brains : mapping of str to Brain
        By resolution.
    centres : array, (n_regions, 3)
        Centroid of each region of a hemisphere, mm, in the order of its mean responses.
    folds : array, (n_folds, n_layers, n_voxels)
        Scores of the voxels by fold.
    noise : array, (n_permutations, n_layers, n_regions)
        Scores of the mean responses under permutation.
    confusion : Confusion or None
        How targets that one layer's gradient drives look to every layer.
    """

    name: str
    brains: Mapping[str, Brain]
    centres: Array
    folds: Array
    noise: Array
    confusion: Confusion | None

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
    selected = significant_voxels(scores, inputs.spec.options)
    voxels = Brain(scores.values, selected, np.full(len(roi), np.nan), roi, hemisphere)
    sites = np.array([name.rsplit(":", 1) for name in scores.names], dtype=object).reshape(-1, 2)
    everywhere = np.ones(len(sites), dtype=bool)
    nowhere = np.full(len(sites), np.nan)
    means = Brain(scores.permutation[0], everywhere, nowhere, sites[:, 0], sites[:, 1])
    xyz = np.stack([coords[axis].values for axis in "xyz"], axis=1)
    centres = [xyz[(roi == name) & (hemisphere == side)].mean(axis=0) for name, side in sites]
    return Person(
        name=subject,
        brains=_by_resolution(voxels, means),
        centres=np.array(centres),
        folds=scores.folds,
        noise=scores.permutation[1:],
        confusion=scores.confusion,
    )


def significant_voxels(scores: Scores, options: CompareOptions) -> NDArray[np.bool_]:
    """Select voxels by their best layer, at a false discovery rate.

    Beyond the baseline: against the best layer of Gaussian targets, which are scored alike. Else by
    the analytic p of r, times the number of layers (Bonferroni).

    Returns
    -------
    array of bool, (n_voxels,)
    """
    best = scores.values.max(axis=0)
    if scores.null is not None:
        return significant(pooled_null_p(best, scores.null.max(axis=1)), options.significance)
    p = analytic_p(best, scores.n_independent, options.folds) * len(scores.values)
    return significant(np.minimum(p, 1.0), options.significance)
