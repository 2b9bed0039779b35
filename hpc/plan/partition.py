"""The folds and blocks of a stimulus set.

They are assigned over all stimuli of the study and then selected, so that subjects who saw
different stimuli share the folds of those they have in common.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gradenc_core.ridge.resample import exchangeable
from gradenc_core.stimuli.folds import assign_blocks, assign_category_folds, assign_folds
from hpc.plan.subjects import Targets
from hpc.study.resolved import Resolved
from hpc.study.study import Study, StudyError
from storage_schemas.kinds.coordinates import Coords, stimulus_coords

PARTITION = ("stimulus", "stimulus_fold", "stimulus_block", "stimulus_category")
"""Coordinates of a stimulus set's partition; the last only where folds keep categories together."""


def partition_coords(study: Study, resolved: Resolved, targets: Targets) -> Coords:
    """Return folds and blocks of a stimulus set: assigned over the whole study, then selected."""
    encoding, together = study.encoding, study.encoding.fold_rule == "keep_categories"
    row = {name: i for i, name in enumerate(resolved.stimulus_ids)}
    rows = [row[name] for name in targets.stimuli]
    folds = _assign_folds(study, resolved)[rows]
    chosen = [resolved.stimulus_digests[i] for i in rows]
    # Where folds keep categories together, the bootstrap resamples whole categories too.
    keys = [resolved.categories[i] for i in rows] if together and resolved.categories else chosen
    for fold in range(encoding.folds):
        held = {key for key, own in zip(keys, folds.tolist(), strict=True) if own == fold}
        if len(held) < (2 if together else 1):
            found = "with fewer than two categories" if together else "empty"
            raise StudyError(
                f"encoding.folds: given {encoding.folds}; the {len(rows)} stimuli that "
                f"{targets.subject} saw leave a fold {found}; give fewer folds"
            )
    blocks = assign_blocks(keys, folds, encoding.blocks, seed=study.seed)
    coords = stimulus_coords(targets.stimuli, chosen) | {
        "stimulus_fold": ("stimulus", folds.astype("int64")),
        "stimulus_block": ("stimulus", blocks.astype("int64")),
    }
    if together:
        # Permutations move whole categories, so encode needs to know them.
        coords["stimulus_category"] = ("stimulus", np.unique(keys, return_inverse=True)[1])
    return coords


def _assign_folds(study: Study, resolved: Resolved) -> NDArray[np.int64]:
    """Return the fold of each of the study's stimuli by its fold rule."""
    encoding, categories = study.encoding, resolved.categories
    try:
        if encoding.fold_rule == "keep_categories" and categories is not None:
            return assign_category_folds(categories, encoding.folds, study.seed)
        return assign_folds(resolved.stimulus_digests, encoding.folds, study.seed, categories)
    except ValueError as error:
        raise StudyError(f"encoding.folds: given {encoding.folds}; {error}") from error


def check_exchange(study: Study, coords: Coords, group: Sequence[Targets]) -> None:
    """Refuse categories so unequal that a permutation of whole ones would leave most in place."""
    if "stimulus_category" not in coords:
        return
    categories = coords["stimulus_category"][1]
    within = study.encoding.permute_within == "session"
    for item in group:
        groups = np.array(item.sessions) if within else np.zeros(len(categories))
        alike = exchangeable(groups, categories)
        n_moving = sum(rows.size for rows in alike if len(rows) > 1)
        if n_moving < len(categories) / 2:
            where = " in the same sessions" if within else ""
            raise StudyError(
                f"encoding.fold_rule: given 'keep_categories', whose permutations exchange whole "
                f"categories of as many stimuli{where}; only {n_moving} of {len(categories)} "
                f"stimuli of {item.label} are in such categories; give categories of equal size"
                + (", or encoding.permute_within: all" if within else "")
            )
