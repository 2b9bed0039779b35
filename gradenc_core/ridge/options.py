"""What a user chooses of a ridge: penalties, band ratios, how both are chosen, standardisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from gradenc_core.arrays import Floats

Selection = Literal["kfold", "gcv", "loo"]


@dataclass(frozen=True)
class RidgeOptions:
    """Penalties and ratios to choose from, and how they are chosen.

    Attributes
    ----------
    alphas : tuple of float
        Positive penalties. The default is 25 log-spaced from 1e0 to 1e8.
    selection : {"kfold", "gcv", "loo"}
        How alpha and ratio are chosen inside each outer training set: k-fold over the remaining
        folds, generalised cross-validation, or leave-one-stimulus-out with fixed standardisation.
    ratios : tuple of float
        Squared scales of the second band, used only with two bands; must include 0 (band off).
    standardise : bool
        Whether features are divided by their standard deviation in every training set. If false,
        they are only centred, as in scikit-learn's and himalaya's ridges.

    Raises
    ------
    ValueError
        If an alpha is not positive, a ratio is negative, or 0 is not among the ratios.
    """

    alphas: tuple[float, ...] = tuple(float(alpha) for alpha in np.logspace(0, 8, 25))
    selection: Selection = "kfold"
    ratios: tuple[float, ...] = (0.0, 0.01, 0.1, 1.0, 10.0)
    standardise: bool = True

    def __post_init__(self) -> None:
        if not self.alphas or not all(0 < alpha < np.inf for alpha in self.alphas):
            raise ValueError(f"alphas is {self.alphas}; give one or more positive numbers.")
        if 0 not in self.ratios or not all(0 <= ratio < np.inf for ratio in self.ratios):
            raise ValueError(f"ratios is {self.ratios}; give numbers >= 0 that include 0 (off).")
        if self.selection not in ("kfold", "gcv", "loo"):
            raise ValueError(f"selection is {self.selection!r}; choose kfold, gcv or loo.")

    @property
    def alpha_grid(self) -> Floats:
        """Distinct alphas, falling, so that the first of equally good ones is the largest."""
        return np.unique(np.asarray(self.alphas, dtype=np.float64))[::-1]

    @property
    def ratio_grid(self) -> Floats:
        """Distinct ratios, rising, so that 0 comes first."""
        return np.unique(np.asarray(self.ratios, dtype=np.float64))
