"""Scores of ridge weights on held-out rows, from moments alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from gradenc_core.moments import FeatureMoments, Floats
from gradenc_core.ridge import CentredTargets, Ints, Scaler

# Variance of predictions, as a share of the target's, below which they are called flat.
FLAT_PREDICTION = 1e-12
# Columns of a product are padded to a multiple of this, so that a column's bits do not depend on
# how many columns stand beside it.
COLUMN_STEP = 64


@dataclass(frozen=True)
class HeldOut:
    """Features of held-out rows.

    Attributes
    ----------
    weight : float
        Sum of the rows' weights.
    mean : array, (n_features,)
        Mean about the moments' shift.
    offset : array, (n_features,)
        Mean in units of the training set's standardisation.
    gram : array, (n_features, n_features)
        Second moments of the standardised features about their own mean.
    """

    weight: float
    mean: Floats
    offset: Floats
    gram: Floats

    @classmethod
    def of(cls, scaler: Scaler, sums: FeatureMoments) -> HeldOut:
        """Describe held-out rows from their sums."""
        weight = float(sums.weight)
        mean = sums.x / weight
        return cls(weight, mean, (mean - scaler.mean) * scaler.unit, scaler.gram(sums))


@dataclass(frozen=True)
class FoldScores:
    """Scores on one held-out fold, each (n_targets,); `flat` marks predictions without variance."""

    r: Floats
    sse: Floats
    sst: Floats
    flat: NDArray[np.bool_]

    @classmethod
    def map(cls, function: Callable[..., NDArray[Any]], scores: Sequence[FoldScores]) -> FoldScores:
        """Apply a function, such as `np.stack`, to the arrays of several scores."""
        names = [field.name for field in fields(cls)]
        return cls(*(function([getattr(one, name) for one in scores]) for name in names))


def score(beta: Floats, rows: HeldOut, held: CentredTargets, bias: Floats) -> FoldScores:
    """Score ridge weights on held-out rows, from their moments.

    Pearson r and the total sum of squares use the held-out rows' own means; the squared error uses
    the prediction as it is, with the training intercept. A target constant among the held-out rows
    has r NaN.

    Parameters
    ----------
    beta : array, (n_kept, n_targets)
        Weights of the first standardised features; the others have none.
    rows : HeldOut
    held : CentredTargets
        With the features that `beta` weighs.
    bias : array, (n_targets,)
        Mean of the held-out rows' targets less that of the training set.
    """
    n = len(beta)
    covariance = (beta * held.xy).sum(axis=0)
    power = rows.gram[:n, :n] @ beta
    power *= beta
    variance = np.maximum(power.sum(axis=0), 0.0)
    missed = bias - (beta * rows.offset[:n, None]).sum(axis=0)
    sse = np.maximum(held.yy - 2 * covariance + variance, 0.0) + rows.weight * missed**2
    flat = (variance <= FLAT_PREDICTION * held.yy) & (held.yy > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        r = np.clip(covariance / np.sqrt(variance * held.yy), -1.0, 1.0)
    r[flat] = 0.0
    r[held.yy == 0] = np.nan
    return FoldScores(r, sse, held.yy, flat)


def score_by_ratio(
    weigh: Callable[[int, Ints], Floats],
    ratio: Ints,
    sizes: Sequence[int],
    rows: HeldOut,
    held: CentredTargets,
    bias: Floats,
    off: FoldScores | None = None,
) -> FoldScores:
    """Score targets grouped by their ratio, whose weights need different bases.

    Parameters
    ----------
    weigh : function
        Of a ratio's index and the indices of targets; their weights, (n_kept, n).
    ratio : array of int, (n_targets,)
        Ratio's index of each target.
    sizes : sequence of int
        Per ratio, how many of the first features take part.
    rows, held, bias
        See `score`.
    off : FoldScores, optional
        Scores at ratio index 0, where they are known already.
    """
    blank = np.zeros(len(ratio))
    known = off or FoldScores(blank, blank, blank, blank.astype(bool))
    out = FoldScores.map(lambda arrays: arrays[0].copy(), [known])
    for i in range(0 if off is None else 1, len(sizes)):
        chosen = np.flatnonzero(ratio == i)
        if not chosen.size:
            continue
        columns = _pad_columns(chosen)
        part = score(weigh(i, columns), rows, held.take(sizes[i], columns), bias[columns])
        for field in fields(FoldScores):
            getattr(out, field.name)[chosen] = getattr(part, field.name)[: chosen.size]
    return out


def statistic(fits: Sequence[FoldScores]) -> Floats:
    """Mean r of one band, or unique variance U of the second of two, (n_targets,)."""
    full, *rest = fits
    if not rest:
        mean: Floats = full.r.mean(axis=0)
        return mean
    with np.errstate(invalid="ignore"):
        unique: Floats = (rest[0].sse.sum(axis=0) - full.sse.sum(axis=0)) / full.sst.sum(axis=0)
    return unique


def analytic_p(r: NDArray[Any], n_stimuli: int, n_folds: int) -> Floats:
    """Approximate one-sided p of a mean cross-validated correlation; permutation is the test.

    `z = r sqrt(n) / sqrt(K (1/K + 1/(K-1)))`: scores of folds are correlated because their
    training sets overlap, which widens the null by the root in the denominator.

    Parameters
    ----------
    r : array, (n_targets,)
        Mean over folds of r.
    n_stimuli, n_folds : int

    Returns
    -------
    array, (n_targets,)
    """
    spread = np.sqrt(n_folds * (1 / n_folds + 1 / (n_folds - 1)))
    p: Floats = norm.sf(np.asarray(r, dtype=np.float64) * np.sqrt(n_stimuli) / spread)
    return p


def _pad_columns(columns: Ints) -> Ints:
    """Repeat the first index until the number of columns is a multiple of the step."""
    return np.pad(columns, (0, -len(columns) % COLUMN_STEP), constant_values=columns[0])
