"""How reliable preferred depths are, from the folds of stimuli that scores are made of.

Noise alone pulls any order towards 0: an order is to be read beside the greatest that the preferred
depths' own reliability allows. Held-out stimuli of two halves of the folds are distinct, while
their training stimuli overlap; so these reliabilities are, if anything, too high.
"""

import numpy as np
from numpy.typing import NDArray

from gradenc_core.compare.statistics import correlation

Array = NDArray[np.float64]

LEAST_RELIABILITY = 0.25
"""Below it an order is not divided by the root of a reliability: it would more than double."""


def halves(folds: Array) -> tuple[Array, Array]:
    """Return the mean over every other fold, and over the rest.

    Parameters
    ----------
    folds : array, (n_folds, …)
        Scores by fold; NaN where there is a single fold.
    """
    if len(folds) < 2:
        return np.full_like(folds[0], np.nan), np.full_like(folds[0], np.nan)
    return folds[0::2].mean(axis=0), folds[1::2].mean(axis=0)


def reliability(first: Array, second: Array) -> float:
    """Return the reliability over targets of the mean of two halves.

    Parameters
    ----------
    first, second : array, (n_targets,)
        Preferred depths in each half; a target without either is left out.

    Returns
    -------
    float
        `2 r / (1 + r)` (Spearman 1910; Brown 1910) of their Pearson correlation r; r itself where
        it is negative. NaN below 3 targets or without variance.
    """
    r = correlation(first, second, "pearson")
    return 2 * r / (1 + r) if r > 0 else r


def over_ceiling(score: Array, *reliabilities: Array) -> Array:
    """Divide orders by the greatest that reliabilities allow, the root of their product.

    Returns
    -------
    array
        As `score` (Spearman 1904); NaN where a reliability is below 0.25 or not known.
    """
    known = np.logical_and.reduce([r >= LEAST_RELIABILITY for r in reliabilities])
    product = np.prod(np.where(known, np.stack(reliabilities), np.nan), axis=0)
    return np.asarray(score / np.sqrt(product))


def best_layers(folds: Array) -> NDArray[np.bool_]:
    """Return the layers that may be a target's best: within one standard error of the best.

    Parameters
    ----------
    folds : array, (n_folds, n_layers, n_targets)

    Returns
    -------
    array of bool, (n_layers, n_targets)
        Layers whose mean over folds is at least that of the best layer less its standard error over
        folds; none where a score is NaN or the best is not above 0.
    """
    mean = folds.mean(axis=0)
    best = mean.argmax(axis=0)[None]
    error = folds.std(axis=0, ddof=1) / np.sqrt(len(folds)) if len(folds) > 1 else 0 * mean
    greatest, margin = (np.take_along_axis(a, best, axis=0) for a in (mean, error))
    return np.asarray((mean >= greatest - margin) & (greatest > 0) & np.isfinite(mean).all(axis=0))
