"""The folds and blocks of a stimulus set.

They are assigned over all stimuli of the study and then selected, so that subjects who saw
different stimuli share the folds of those they have in common.
"""

import numpy as np
from numpy.typing import NDArray

from gradenc_core.stimuli.folds import assign_blocks, assign_category_folds, assign_folds
from hpc.plan.targets import Targets
from hpc.study.resolved import Resolved
from hpc.study.study import Study, StudyError
from storage_schemas.kinds.coordinates import Coords, stimulus_coords


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
    return stimulus_coords(targets.stimuli, chosen) | {
        "stimulus_fold": ("stimulus", folds.astype("int64")),
        "stimulus_block": ("stimulus", blocks.astype("int64")),
    }


def _assign_folds(study: Study, resolved: Resolved) -> NDArray[np.int64]:
    """Return the fold of each of the study's stimuli by its fold rule."""
    encoding, categories = study.encoding, resolved.categories
    try:
        if encoding.fold_rule == "keep_categories" and categories is not None:
            return assign_category_folds(categories, encoding.folds, study.seed)
        return assign_folds(resolved.stimulus_digests, encoding.folds, study.seed, categories)
    except ValueError as error:
        raise StudyError(f"encoding.folds: given {encoding.folds}; {error}") from error
