"""Noise ceilings from repeats: how much of a target's variance a stimulus can explain.

After Allen et al. (2022, Natural Scenes Dataset): the noise variance is the mean variance over
repeats of a stimulus, the signal variance is the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class CeilingRecipe:
    """How the owners of a data set compute its noise ceiling.

    Attributes
    ----------
    images : int
        Trials of the images that it is computed from: those with exactly so many.
    pool : {"session", "repetition"}
        What a trial's variance is taken over. session: all trials (NSD). repetition: the first,
        second, ... trials of these images, each z-scored by itself (THINGS).
    """

    images: int
    pool: Literal["session", "repetition"]


def recipe_of(
    ceiling: Mapping[str, Any] | None, n_repeats: NDArray[np.floating]
) -> CeilingRecipe | None:
    """Return a recipe from its fields, for images that have been shown.

    Parameters
    ----------
    ceiling : mapping or None
        Fields of `CeilingRecipe`; None for no recipe.
    n_repeats : array, (n_stimuli,)
        Trials of each.

    Raises
    ------
    ValueError
        If no image has just the trials that it asks for.
    """
    if ceiling is None:
        return None
    recipe = CeilingRecipe(**ceiling)
    if not (n_repeats == recipe.images).any():
        shown = ", ".join(f"{n:g}" for n in np.unique(n_repeats))
        raise ValueError(
            f"ceiling.images is {recipe.images}, but no image has exactly {recipe.images} used "
            f"trials; images have {shown}"
        )
    return recipe


def ncsnr(
    sums: Floats, squares: Floats, counts: NDArray[np.integer], exactly: int | None = None
) -> Floats:
    """Signal-to-noise ratio `sqrt(max(0, total variance - v^2)) / v` of single trials.

    `v^2` is the mean, over stimuli with at least 2 trials, of the variance over trials (n - 1).
    The total variance is that of all trials (n), which is 1 for trials z-scored within session.

    Parameters
    ----------
    sums, squares : arrays, (n_stimuli, ...)
        Sums over trials of the values and of their squares.
    counts : array of int, (n_stimuli,)
        Trials per stimulus.
    exactly : int, optional
        Take `v^2` over stimuli with exactly so many trials.

    Returns
    -------
    array, (...)
        NaN where no stimulus was repeated or nothing varies; inf where repeats agree exactly.

    Raises
    ------
    ValueError
        If `counts` has another number of stimuli than `sums`.
    """
    if counts.shape != sums.shape[:1] or squares.shape != sums.shape:
        raise ValueError(
            f"counts {counts.shape}, sums {sums.shape} and squares {squares.shape} disagree; give "
            "one count per stimulus."
        )
    repeated = counts >= 2 if exactly is None else counts == exactly
    if not repeated.any():
        return np.full(sums.shape[1:], np.nan)
    n = _beside(counts[repeated], sums)
    within = squares[repeated] - sums[repeated] ** 2 / n
    noise = np.maximum(within / (n - 1), 0.0).mean(axis=0)
    n_trials = counts.sum()
    total = squares.sum(axis=0) / n_trials - (sums.sum(axis=0) / n_trials) ** 2
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio: Floats = np.sqrt(np.maximum(total - noise, 0.0) / noise)
    return ratio


def ncsnr_of_repetitions(trials: NDArray[np.floating]) -> Floats:
    """Signal-to-noise ratio of single trials that are z-scored over images in each repetition.

    With total variance 1, `v^2` is 1 - the mean correlation of two repetitions over images, which
    is how it is computed.

    Parameters
    ----------
    trials : array, (n_images, n_repeats, n_targets)
        The trials of each image in the order of time.

    Returns
    -------
    array, (n_targets,)
        NaN where a repetition does not vary or has no data; inf where repetitions agree exactly.
    """
    values = np.asarray(trials, dtype=np.float64)
    n = values.shape[1]
    with np.errstate(divide="ignore", invalid="ignore"):
        scored = (values - values.mean(axis=0)) / values.std(axis=0)
        power = (scored.sum(axis=1) ** 2).mean(axis=0)  # n + the sum of all correlations
        r = (power - n) / (n * (n - 1))
        ratio: Floats = np.sqrt(np.maximum(r, 0.0) / np.maximum(1 - r, 0.0))
    return ratio


def _beside(counts: NDArray[np.integer], values: Floats) -> Floats:
    """Shape counts (n_stimuli,) to stand beside values (n_stimuli, ...)."""
    return counts.astype(np.float64).reshape(-1, *[1] * (values.ndim - 1))
