"""Refusals of features, folds, weights and bands that no ridge can be fitted on."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradenc_core.arrays import Floats, Rows, namespace


def check_rows(x: Rows, folds: NDArray[Any], weights: Floats) -> None:
    """Refuse features that are no filled matrix, and folds or weights of other rows."""
    if len(x.shape) != 2:
        raise ValueError(f"features have shape {tuple(x.shape)}; give (n_stimuli, n_features).")
    if 0 in x.shape:
        raise ValueError(f"features have shape {tuple(x.shape)}; give stimuli and columns.")
    for name, rows in (("folds", folds), ("weights", weights)):
        if rows.shape != (x.shape[0],):
            raise ValueError(
                f"{name} has shape {rows.shape} but the features have {x.shape[0]} rows; give one "
                "value per stimulus."
            )
    if not np.isfinite(weights).all() or (weights <= 0).any():
        raise ValueError("weights hold values that are not positive; give numbers of repeats.")


def check_finite(columns: Any, start: int = 0) -> None:
    """Refuse columns (..., n) with a value that is not finite; `start` is the first's index."""
    xp = namespace(columns)
    broken = ~xp.all(xp.isfinite(columns), axis=0)
    if bool(xp.any(broken)):
        first = int(xp.argmax(xp.astype(broken, xp.int8)))
        raise ValueError(
            f"{int(xp.sum(broken))} of {len(broken)} features hold values that are not finite, the "
            f"first in column {start + first}; extract them again."
        )


def check_folds(folds: NDArray[np.integer]) -> None:
    """Refuse folds that are not numbered from 0, or of which one is empty."""
    lowest, highest = int(folds.min(initial=0)), int(folds.max(initial=-1))
    if lowest < 0:
        raise ValueError(f"folds run from {lowest} to {highest}; number them from 0.")
    if len(folds) <= highest:
        raise ValueError(f"{len(folds)} stimuli cannot fill {highest + 1} folds; lower n_folds.")
    empty = sorted(set(range(highest + 1)) - set(folds.tolist()))
    if empty:
        raise ValueError(f"fold {empty[0]} of {highest + 1} holds no stimulus; use assign_folds.")


def check_n_folds(n_folds: int, selection: str) -> None:
    """Refuse fewer folds than nested cross-validation needs."""
    needed = 3 if selection == "kfold" else 2
    if n_folds < needed:
        raise ValueError(
            f"folds run from 0 to {n_folds - 1}; give at least {needed} for selection "
            f"{selection!r}."
        )


def check_bands(n_features: int, bands: tuple[int, ...] | None) -> None:
    """Refuse bands that are not two widths of all features together."""
    if bands is not None and (len(bands) != 2 or min(bands) < 1 or sum(bands) != n_features):
        raise ValueError(
            f"bands is {bands}; give two positive widths that add up to {n_features} features."
        )
