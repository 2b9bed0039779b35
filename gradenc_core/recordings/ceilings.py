"""Noise ceilings from repeats: how much of a target's variance a stimulus can explain.

After Allen et al. (2022, Natural Scenes Dataset): the noise variance is the mean variance over
repeats of a stimulus, the signal variance is the rest.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def ncsnr(sums: Floats, squares: Floats, counts: NDArray[np.integer]) -> Floats:
    """Signal-to-noise ratio `sqrt(max(0, total variance - v^2)) / v` of single trials.

    `v^2` is the mean, over stimuli with at least 2 trials, of the variance over trials (n - 1).
    The total variance is that of all trials (n), which is 1 for trials z-scored within session.

    Parameters
    ----------
    sums, squares : arrays, (n_stimuli, ...)
        Sums over trials of the values and of their squares.
    counts : array of int, (n_stimuli,)
        Trials per stimulus.

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
    repeated = counts >= 2
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


def _beside(counts: NDArray[np.integer], values: Floats) -> Floats:
    """Shape counts (n_stimuli,) to stand beside values (n_stimuli, ...)."""
    return counts.astype(np.float64).reshape(-1, *[1] * (values.ndim - 1))
