"""Scores of predictions on held-out rows, from moments alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from gradenc_core.arrays import Array, Floats, Ints, fetch
from gradenc_core.ridge.basis import CANCELLATION, Basis, Scaler, root
from gradenc_core.ridge.moments import FeatureMoments, TargetMoments
from gradenc_core.ridge.quadratic import Quadratic, few_rows

# Predictions whose variance is a smaller share of the target's than this are flat.
FLAT_PREDICTION = 1e-12
# Columns of a product are padded to a multiple of this, so that a column's bits do not depend on
# how many columns stand beside it.
COLUMN_STEP = 64


@dataclass(frozen=True)
class HeldRows:
    """One fold's rows about their own mean, described once for all training sets that lack it.

    Attributes
    ----------
    sums : FeatureMoments
    spread : array, (n_features, n_features) or (n_features, rank)
        Sums of products about the mean; of few rows, a root of them.
    is_root : bool
    """

    sums: FeatureMoments
    spread: Array
    is_root: bool

    @classmethod
    def of(cls, sums: FeatureMoments) -> HeldRows:
        """Describe a fold."""
        spread = sums.xx - sums.x[:, None] * (sums.x / sums.weight)
        is_root = few_rows(float(sums.count), len(spread))
        return cls(sums, root(spread) if is_root else spread, is_root)


@dataclass(frozen=True)
class HeldOut:
    """Held-out rows in coordinates centred on a training set: a basis, or standardised features.

    Attributes
    ----------
    weight : float
        Sum of the rows' weights.
    offset : array, (rank,)
        The rows' mean.
    power : Quadratic
        Their second moments about that mean.
    """

    weight: float
    offset: Array
    power: Quadratic

    @classmethod
    def in_basis(cls, basis: Basis, rows: HeldRows) -> HeldOut:
        """Describe held-out rows in a basis."""
        n, columns = len(basis.vectors), basis.vectors[1:]
        weight = float(rows.sums.weight)
        offset = basis.vectors.T @ rows.sums.products[:n, 0] / weight
        if rows.is_root:
            return cls(weight, offset, Quadratic.of_root(rows.spread[: n - 1].T @ columns))
        spread = columns.T @ rows.spread[: n - 1, : n - 1] @ columns
        return cls(weight, offset, Quadratic.of(spread))

    @classmethod
    def standardised(cls, scaler: Scaler, sums: FeatureMoments, n: int) -> HeldOut:
        """Describe the first n standardised features of held-out rows."""
        power = Quadratic.of(scaler.gram(sums)[:n, :n])
        return cls(float(sums.weight), scaler.offset(sums)[:n], power)


@dataclass(frozen=True)
class Centred:
    """Targets of some rows about their own mean: mean, yy, (n_targets,)."""

    mean: Floats
    yy: Floats

    @classmethod
    def of(cls, weight: float, sums: TargetMoments) -> Centred:
        """Centre the sums of targets."""
        y, raw = fetch(sums.y), fetch(sums.yy)
        mean = y / weight
        yy = raw - y * mean
        # A target that is constant among these rows leaves only rounding: make it exactly 0.
        yy[yy <= CANCELLATION * raw] = 0.0
        return cls(mean, yy)

    def take(self, columns: Ints) -> Centred:
        """Select targets."""
        return Centred(self.mean[columns], self.yy[columns])


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


def score(x: Array, rows: HeldOut, d: Array, held: Centred, bias: Floats) -> FoldScores:
    """Score predictions on held-out rows, from their moments.

    Pearson r and the total sum of squares use the held-out rows' own means; the squared error uses
    the prediction as it is, with the training intercept. A target constant among the held-out rows
    has r NaN.

    Parameters
    ----------
    x : array, (rank, n_targets)
        Weights of the rows' coordinates.
    rows : HeldOut
    d : array, (rank, n_targets)
        Products of the coordinates with the targets, both about the held-out means.
    held : Centred
    bias : array, (n_targets,)
        Mean of the held-out rows' targets less that of the training set.
    """
    covariance = fetch((x * d).sum(axis=0))
    variance = np.maximum(fetch(rows.power(x)), 0.0)
    missed = bias - fetch(rows.offset @ x)
    sse = np.maximum(held.yy - 2 * covariance + variance, 0.0) + rows.weight * missed**2
    flat = (variance <= FLAT_PREDICTION * held.yy) & (held.yy > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        r = np.clip(covariance / np.sqrt(variance * held.yy), -1.0, 1.0)
    r[flat] = 0.0
    r[held.yy == 0] = np.nan
    return FoldScores(r, sse, held.yy, flat)


def score_by_ratio(
    score_columns: Callable[[int, Ints], FoldScores],
    ratio: Ints,
    n_ratios: int,
    off: FoldScores | None = None,
) -> FoldScores:
    """Score targets grouped by their ratio, whose predictions need different bases.

    Parameters
    ----------
    score_columns : function
        Takes a ratio's index and indices of targets; returns their scores.
    ratio : array of int, (n_targets,)
        Ratio's index of each target.
    n_ratios : int
    off : FoldScores, optional
        Scores at ratio index 0, if they are computed already.
    """
    blank = np.zeros(len(ratio))
    known = off or FoldScores(blank, blank, blank, blank.astype(bool))
    out = FoldScores.map(lambda arrays: arrays[0].copy(), [known])
    for i in range(0 if off is None else 1, n_ratios):
        chosen = np.flatnonzero(ratio == i)
        if not chosen.size:
            continue
        part = score_columns(i, pad_columns(chosen))
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
    # scipy.stats has this as norm.sf, but is slow to import.
    p: Floats = ndtr(-np.asarray(r, dtype=np.float64) * np.sqrt(n_stimuli) / spread)
    return p


def pad_columns(columns: Ints) -> Ints:
    """Repeat the first index until the number of columns is a multiple of the step."""
    return np.pad(columns, (0, -len(columns) % COLUMN_STEP), constant_values=columns[0])
