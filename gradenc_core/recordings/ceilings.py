"""Noise ceilings from repeats: how much of a target's variance a stimulus can explain.

After Allen et al. (2022, Natural Scenes Dataset): the noise variance is the mean variance over
repeats of a stimulus, the signal variance is the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class RepeatMoments:
    """Sums over repeats, to which trials are added as they are read.

    Attributes
    ----------
    sums, squares : arrays, (n_stimuli, ...)
        Sums of the trials' values and of their squares, float64.
    counts : array of int, (n_stimuli,)
        Number of trials.
    """

    sums: Floats
    squares: Floats
    counts: NDArray[np.int64]

    @classmethod
    def empty(cls, n_stimuli: int, shape: tuple[int, ...]) -> RepeatMoments:
        """Start without trials; `shape` is that of one trial."""
        full = (n_stimuli, *shape)
        return cls(np.zeros(full), np.zeros(full), np.zeros(n_stimuli, dtype=np.int64))

    def add(self, stimulus: NDArray[np.integer], trials: NDArray[Any]) -> None:
        """Add trials, in place.

        Parameters
        ----------
        stimulus : array of int, (n_trials,)
            Row of each trial's stimulus.
        trials : array, (n_trials, ...)
            Values z-scored within their session.
        """
        values = np.asarray(trials, dtype=np.float64)
        np.add.at(self.sums, stimulus, values)
        np.add.at(self.squares, stimulus, values**2)
        np.add.at(self.counts, stimulus, 1)

    def mean(self) -> Floats:
        """Mean over trials, (n_stimuli, ...); NaN for a stimulus without trials."""
        counts = _beside(self.counts, self.sums)
        return np.divide(self.sums, counts, where=counts > 0, out=np.full_like(self.sums, np.nan))

    def ncsnr(self) -> Floats:
        """Noise-ceiling signal-to-noise ratio per target, see `ncsnr`."""
        return ncsnr(self.sums, self.squares, self.counts)


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
