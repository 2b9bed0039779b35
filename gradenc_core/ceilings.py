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

# Below this noise ceiling a normalised score is mostly noise divided by little.
LEAST_CEILING = 0.05


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
        counts = self._counts(self.counts > -1)
        with np.errstate(invalid="ignore"):
            return self.sums / counts

    def ncsnr(self) -> Floats:
        """Noise-ceiling signal-to-noise ratio per target, see `ncsnr`."""
        return ncsnr(self.sums, self.squares, self.counts)
