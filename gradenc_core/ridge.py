"""Ridge regression from moments: standardised features, one alpha and band ratio per target.

`W = argmin ||Y - X W||^2 + alpha ||W||^2` (arXiv 2508.18226), with X standardised and Y centred on
the training set. A ratio scales the second band of features by its square root, so the second
band's own penalty is alpha / ratio and ratio 0 leaves it out (banded ridge, Nunez-Elizalde et al.
2019).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack

from gradenc_core.moments import FeatureMoments, Floats, TargetMoments

Ints = NDArray[np.intp]

# Features and responses are stored in float32: variation below 10 of its steps is rounding.
RELATIVE_ZERO_SD = 1e-6
# Share of the second moment about the shift that float64 sums may lose by cancellation.
CANCELLATION = 1e-13


@dataclass(frozen=True)
class RidgeOptions:
    """How a ridge is regularised.

    Attributes
    ----------
    alphas : tuple of float
        Positive penalties; the default is the paper's, 10 log-spaced from 1e0 to 1e8.
    selection : {"kfold", "gcv", "loo"}
        How alpha and ratio are chosen inside each outer training set: k-fold over the remaining
        folds, generalised cross-validation, or leave-one-stimulus-out with fixed standardisation.
    ratios : tuple of float
        Squared scales of the second band, used only with two bands; must include 0 (band off).

    Raises
    ------
    ValueError
        If an alpha is not positive, a ratio is negative, or 0 is not among the ratios.
    """

    alphas: tuple[float, ...] = tuple(float(alpha) for alpha in np.logspace(0, 8, 10))
    selection: Literal["kfold", "gcv", "loo"] = "kfold"
    ratios: tuple[float, ...] = (0.0, 0.01, 0.1, 1.0, 10.0)

    def __post_init__(self) -> None:
        if not self.alphas or not all(0 < alpha < np.inf for alpha in self.alphas):
            raise ValueError(f"alphas is {self.alphas}; give one or more positive numbers.")
        if 0 not in self.ratios or not all(0 <= ratio < np.inf for ratio in self.ratios):
            raise ValueError(f"ratios is {self.ratios}; give numbers >= 0 that include 0 (off).")
        if self.selection not in ("kfold", "gcv", "loo"):
            raise ValueError(f"selection is {self.selection!r}; choose kfold, gcv or loo.")

    @property
    def alpha_grid(self) -> Floats:
        """Distinct alphas, falling: the first of equals is the larger."""
        return np.unique(np.asarray(self.alphas, dtype=np.float64))[::-1]

    @property
    def ratio_grid(self) -> Floats:
        """Distinct ratios, rising: 0 comes first."""
        return np.unique(np.asarray(self.ratios, dtype=np.float64))


@dataclass(frozen=True)
class Scaler:
    """Standardisation by one training set.

    Attributes
    ----------
    count, weight : float
        Rows and sum of their weights.
    mean : array, (n_features,)
        Weighted mean about the moments' shift.
    unit : array, (n_features,)
        One over the standard deviation; 0 for columns without variance, which get weight 0.
    """

    count: float
    weight: float
    mean: Floats
    unit: Floats

    @classmethod
    def of(cls, sums: FeatureMoments) -> Scaler:
        """Fit the scaler on a training set's sums."""
        weight = float(sums.weight)
        mean, second = sums.x / weight, np.diagonal(sums.xx) / weight
        variance = second - mean**2
        noise = RELATIVE_ZERO_SD**2 * (mean + sums.shift) ** 2 + CANCELLATION * second
        varies = variance > noise
        unit = np.zeros_like(mean)
        unit[varies] = 1.0 / np.sqrt(variance[varies])
        return cls(float(sums.count), weight, mean, unit)

    def gram(self, sums: FeatureMoments) -> Floats:
        """Second moments of standardised features about the rows' own mean, (p, p)."""
        centred = sums.xx - np.outer(sums.x, sums.x) / float(sums.weight)
        return centred * self.unit[:, None] * self.unit

    def offset(self, sums: FeatureMoments) -> Floats:
        """Mean of the rows' standardised features, (p,)."""
        return (sums.x / float(sums.weight) - self.mean) * self.unit

    def centre(self, weight: float, mean: Floats, targets: TargetMoments) -> CentredTargets:
        """Centre targets, and the standardised features, on the rows' own means.

        `weight` and `mean` (n_features,) are those of the same rows' features.
        """
        y_mean = targets.y / weight
        yy = targets.yy - targets.y * y_mean
        # A target that is constant among these rows leaves only rounding: make it exactly 0.
        yy[yy <= CANCELLATION * targets.yy] = 0.0
        xy = np.multiply.outer(-mean, targets.y)
        xy += targets.xy
        xy *= self.unit[:, None]
        return CentredTargets(y_mean, yy, xy)


@dataclass(frozen=True)
class CentredTargets:
    """Targets about their own mean: mean, yy (n_targets,); xy (n_features, n_targets)."""

    mean: Floats
    yy: Floats
    xy: Floats

    def take(self, n_features: int, columns: Ints) -> CentredTargets:
        """Select the first features and some targets."""
        xy = self.xy[:n_features].take(columns, axis=1)
        return CentredTargets(self.mean[columns], self.yy[columns], xy)


@dataclass(frozen=True)
class Basis:
    """Eigenvectors (p, rank), scaled by the root of the ratio, and eigenvalues of a Gram matrix."""

    vectors: Floats
    values: Floats

    def project(self, xy: Floats) -> Floats:
        """Project X'Y, (p, n_targets) -> (rank, n_targets)."""
        return self.vectors.T @ xy[: len(self.vectors)]

    def weigh(self, c: Floats, alphas: Floats) -> Floats:
        """Weights (p, n_targets) from projected targets, at each target's own alpha."""
        # In place: a second temporary of this size costs more than the arithmetic.
        shrunk = self.values[:, None] + alphas
        np.divide(c, shrunk, out=shrunk)
        return self.vectors @ shrunk


def band_scale(n_features: int, bands: tuple[int, ...] | None, ratio: float) -> Floats:
    """Scale of each column that takes part under a ratio; a band that is off is left out."""
    if bands is None:
        return np.ones(n_features)
    scales = np.repeat([1.0, np.sqrt(ratio)], bands)
    return scales if ratio > 0 else scales[: bands[0]]


def factor(gram: Floats, scale: Floats) -> Basis:
    """Diagonalise a standardised Gram matrix with its columns scaled, keeping its range."""
    n = len(scale)
    values, vectors = np.linalg.eigh(gram[:n, :n] * scale[:, None] * scale)
    kept = values > n * np.finfo(np.float64).eps * max(values[-1], 0.0)
    return Basis(scale[:, None] * vectors[:, kept], values[kept])


def root(gram: Floats) -> Floats:
    """Factor a Gram matrix as L L'; L is (n_features, rank)."""
    basis = factor(gram, np.ones(len(gram)))
    return basis.vectors * np.sqrt(basis.values)


def gcv_errors(basis: Basis, c: Floats, yy: Floats, count: float, alphas: Floats) -> Floats:
    """Generalised cross-validation (Golub, Heath & Wahba 1979) from the projected targets.

    Returns
    -------
    array, (n_alphas, n_targets)
        Residual sum of squares over (1 - df / n)^2, where df counts the intercept.
    """
    free = count - 1 - len(basis.values)
    shrunk = alphas[:, None] / (basis.values + alphas[:, None])
    in_range = np.vstack([np.ones_like(basis.values), shrunk**2]) / basis.values
    explained, *residual = in_range @ (c * c)
    # Without free dimensions nothing lies outside the range, whatever rounding says.
    outside = np.maximum(yy - explained, 0.0) if free > 0 else np.zeros_like(yy)
    freedom = (free + shrunk.sum(axis=1)) / count
    errors: Floats = (np.array(residual) + outside) / freedom[:, None] ** 2
    return errors


def loo_errors(
    basis: Basis, c: Floats, z: Floats, y: Floats, weights: Floats, alphas: Floats
) -> Floats:
    """Exact leave-one-row-out squared error with the standardisation held fixed.

    Parameters
    ----------
    basis : Basis
    c : array, (rank, n_targets)
        Projected targets.
    z : array, (n_rows, rank)
        Training rows in the basis.
    y : array, (n_rows, n_targets)
        Centred targets.
    weights : array, (n_rows,)
    alphas : array, (n_alphas,)

    Returns
    -------
    array, (n_alphas, n_targets)
    """
    errors = np.empty((len(alphas), y.shape[1]))
    for i, alpha in enumerate(alphas):
        gain = 1.0 / (basis.values + alpha)
        leverage = weights * (1.0 / weights.sum() + (z * z) @ gain)
        left_out = z @ (gain[:, None] * c)
        left_out -= y
        left_out *= left_out  # in place: a second temporary of this size costs much more
        with np.errstate(divide="ignore", invalid="ignore"):
            left_out *= (weights / (1.0 - leverage) ** 2)[:, None]
        errors[i] = left_out.sum(axis=0)
    # A row that only itself determines, to the last bit, says nothing for that alpha.
    errors[np.isnan(errors)] = np.inf
    return errors


def held_out_errors(
    basis: Basis, c: Floats, held_root: Floats, held: CentredTargets, alphas: Floats
) -> Floats:
    """Squared error on held-out rows, all taken about the training means.

    Parameters
    ----------
    basis : Basis
    c : array, (rank, n_targets)
        Projected training targets.
    held_root : array, (n_features, held_rank)
        Root of the held-out rows' Gram matrix.
    held : CentredTargets
    alphas : array, (n_alphas,)

    Returns
    -------
    array, (n_alphas, n_targets)
    """
    gains = 1.0 / (basis.values + alphas[:, None])
    predict = held_root[: len(basis.vectors)].T @ basis.vectors
    errors: Floats = held.yy - 2 * (gains @ (c * basis.project(held.xy)))
    for gain, error in zip(gains, errors, strict=True):
        guess = predict @ (gain[:, None] * c)
        guess *= guess  # in place: a second temporary of this size costs much more
        error += guess.sum(axis=0)
    return np.maximum(errors, 0.0)


def choose(errors: Floats) -> tuple[Ints, Ints]:
    """Index of the alpha and of the ratio with least error per target.

    Parameters
    ----------
    errors : array, (n_ratios, n_alphas, n_targets)
        For falling alphas and rising ratios: ties go to the larger alpha, then the smaller ratio.
    """
    n_ratios, n_alphas, n_targets = errors.shape
    flat = errors.transpose(1, 0, 2).reshape(n_alphas * n_ratios, n_targets)
    alpha, ratio = np.divmod(flat.argmin(axis=0), n_ratios)
    return alpha, ratio


def solve(gram: Floats, xy: Floats, scale: Floats, alphas: Floats) -> Floats:
    """Ridge weights of the columns that `scale` keeps, at each target's own alpha.

    Parameters
    ----------
    gram : array, (n_features, n_features)
        Standardised.
    xy : array, (n_features, n_targets)
        Standardised.
    scale : array, (n_kept,)
    alphas : array, (n_targets,)

    Returns
    -------
    array, (n_kept, n_targets)
    """
    n = len(scale)
    scaled = gram[:n, :n] * scale[:, None] * scale
    order = np.argsort(alphas, kind="stable")
    # Targets of one alpha stand together as rows, in the memory order that LAPACK solves in place.
    right = np.ascontiguousarray((scale[:, None] * xy[:n]).T[order])
    penalties, starts = np.unique(alphas[order], return_index=True)
    for alpha, start, stop in zip(penalties, starts, [*starts[1:], len(order)], strict=True):
        right[start:stop] = _solve_one(scaled, right[start:stop].T, float(alpha)).T
    right *= scale
    return np.ascontiguousarray(right[np.argsort(order)].T)


def _solve_one(gram: Floats, right: Floats, alpha: float) -> Floats:
    # So small an alpha leaves a singular matrix singular to Cholesky.
    if alpha <= len(gram) * np.finfo(np.float64).eps * np.trace(gram):
        basis = factor(gram, np.ones(len(gram)))
        return basis.weigh(basis.project(right), np.full(right.shape[1], alpha))
    penalised = gram.copy()
    penalised.flat[:: len(gram) + 1] += alpha
    solution: Floats = lapack.dposv(penalised.T, right, lower=1, overwrite_a=1, overwrite_b=1)[1]
    return solution
