"""Ridge regression in a whitened basis: standardised features, one alpha and ratio per target.

`W = argmin ||Y - X W||^2 + alpha ||W||^2` (arXiv 2508.18226), with X standardised and Y centred on
the training set. A ratio scales the second band of features by its square root, so the second
band's own penalty is alpha / ratio and ratio 0 leaves it out (banded ridge, Nunez-Elizalde et al.
2019).

With `X'X = V L V'`, the columns of `Z = X V L^-1/2` are orthonormal; the prediction at alpha is
`Z (s * c)` with `c = Z'Y` and `s = L / (L + alpha)`. Every choice and score needs c, s and moments
of Z alone (docs/ridge.md).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import lapack

from gradenc_core.arrays import Array, Floats, fetch, like, namespace, zeros
from gradenc_core.ridge.moments import FeatureMoments

# Features and responses are stored in float32: a standard deviation, relative to the mean, of less
# than about 10 of float32's steps is rounding.
RELATIVE_ZERO_SD = 1e-6
# Share of the second moment about the shift that float64 sums may lose by cancellation.
CANCELLATION = 1e-13


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
        One over the standard deviation (1 without standardisation); 0 for columns without
        variance, so that they get weight 0.
    """

    count: float
    weight: float
    mean: Array
    unit: Array

    @classmethod
    def of(cls, sums: FeatureMoments, standardise: bool) -> Scaler:
        """Fit the scaler on a training set's sums."""
        xx = namespace(sums.xx).linalg.diagonal(sums.xx)
        return cls.of_columns(
            float(sums.count), float(sums.weight), sums.x, xx, sums.shift, standardise
        )

    @classmethod
    def of_columns(
        cls, count: float, weight: float, x: Array, xx: Array, shift: Floats, standardise: bool
    ) -> Scaler:
        """Fit the scaler on every column's sum `x` and sum of squares `xx`, (n_features,)."""
        xp = namespace(x)
        mean, second = x / weight, xx / weight
        variance = second - mean**2
        noise = RELATIVE_ZERO_SD**2 * (mean + like(shift, mean)) ** 2 + CANCELLATION * second
        varies = variance > noise
        inverse = (
            1.0 / xp.sqrt(xp.where(varies, variance, 1.0)) if standardise else variance * 0 + 1
        )
        unit = xp.where(varies, inverse, 0.0)
        return cls(count, weight, mean, unit)

    def gram(self, sums: FeatureMoments) -> Array:
        """Second moments of standardised features about the rows' own mean, (p, p)."""
        own = sums.x / sums.weight
        centred = sums.xx - sums.x[:, None] * own
        centred *= self.unit[:, None]
        centred *= self.unit
        return centred

    def offset(self, sums: FeatureMoments) -> Array:
        """Mean of the rows' standardised features, (p,)."""
        return (sums.x / sums.weight - self.mean) * self.unit


@dataclass(frozen=True)
class Basis:
    """Whitened basis of one training set.

    Attributes
    ----------
    vectors : array, (1 + n_kept, rank)
        Map from rows (1, features less the shift) to rows Z. A band that is off has no rows here.
    values : array, (rank,)
        Eigenvalues L of the standardised Gram matrix, scaled columns included.
    """

    vectors: Array
    values: Array

    @classmethod
    def of(cls, scaler: Scaler, gram: Array, scale: Floats) -> Basis:
        """Diagonalise a standardised Gram matrix with its columns scaled, keeping its range."""
        n = len(scale)
        values, vectors = factor(gram[:n, :n], scale)
        # Centred rows span no more than this; what stands below is rounding of their moments.
        spurious = max(len(values) - int(scaler.count) + 1, 0)
        values, vectors = values[spurious:], vectors[:, spurious:]
        columns = (like(scale, gram) * scaler.unit[:n])[:, None] * vectors
        columns /= namespace(values).sqrt(values)
        first = -(scaler.mean[:n] @ columns)
        return cls(namespace(columns).concat([first[None], columns]), values)

    @classmethod
    def of_rows(cls, values: Array) -> Basis:
        """Return the basis of rows that are whitened already."""
        xp = namespace(values)
        rank = len(values)
        return cls(xp.concat([zeros((1, rank)), _identity(values)]), values)

    def project(self, products: Array) -> Array:
        """Project products of the rows (1, features) with targets, (1 + p, m) -> (rank, m)."""
        return self.vectors.T @ products[: len(self.vectors)]

    def shrink(self, alphas: Floats) -> Array:
        """Return s = L / (L + alpha) of a grid of alphas, (n_alphas, rank)."""
        return self.values / (self.values + like(alphas, self.values)[:, None])

    def leave(self, alphas: Floats) -> Array:
        """Return 1 - s = alpha / (L + alpha) without cancellation, (n_alphas, rank)."""
        penalty = like(alphas, self.values)[:, None]
        return penalty / (self.values + penalty)

    def fills(self, count: float) -> bool:
        """Whether nothing of `count` rows lies outside the basis and the intercept."""
        return count - 1 <= len(self.values)

    def residuals(self, c: Array, yy: Array, alphas: Floats, count: float) -> Array:
        """Residual sums of squares of the `count` training rows, (n_alphas, n_targets)."""
        xp = namespace(c)
        power = c * c
        inside = self.leave(alphas) ** 2 @ power
        if self.fills(count):
            # Without free dimensions nothing lies outside the basis, whatever rounding says.
            return inside
        outside = yy - power.sum(axis=0)
        return inside + xp.where(outside > 0, outside, 0.0)

    def freedom(self, count: float, alphas: Floats) -> Floats:
        """1 - df / n of the `count` training rows, where df counts the intercept, (n_alphas, 1)."""
        left = count - 1 - len(self.values) + fetch(self.leave(alphas)).sum(axis=1)
        return np.asarray(left / count)[:, None]

    def predict(self, c: Array, alphas: Floats) -> Array:
        """Return s * c at each target's own alpha, (rank, n_targets)."""
        shrunk = self.values[:, None] + like(alphas, self.values)
        # In place: a second temporary of this size costs more than the arithmetic.
        shrunk **= -1
        shrunk *= self.values[:, None]
        shrunk *= c
        return shrunk


def band_scale(n_features: int, bands: tuple[int, ...] | None, ratio: float) -> Floats:
    """Scale of each column that takes part under a ratio; a band that is off is left out."""
    if bands is None:
        return np.ones(n_features)
    scales = np.repeat([1.0, np.sqrt(ratio)], bands)
    return scales if ratio > 0 else scales[: bands[0]]


def factor(gram: Array, scale: Floats) -> tuple[Array, Array]:
    """Return the eigenvalues and eigenvectors of a Gram matrix with its columns scaled.

    Only its range is kept: (rank,) and (n, rank).
    """
    xp = namespace(gram)
    scales = like(scale, gram)
    scaled = gram * scales[:, None]
    scaled *= scales
    values, vectors = xp.linalg.eigh(scaled)
    kept = values > len(scale) * np.finfo(np.float64).eps * max(float(values[-1]), 0.0)
    return values[kept], vectors[:, kept]


def root(gram: Array) -> Array:
    """Factor a Gram matrix as L L', whatever the scales of its columns; L is (n, rank).

    Columns without variance take no part, also where rounding made their square negative.
    """
    xp = namespace(gram)
    squares = xp.linalg.diagonal(gram)
    size = xp.sqrt(xp.where(squares > 0, squares, 0.0))
    inverse = xp.where(size > 0, 1.0 / xp.where(size > 0, size, 1.0), 0.0)
    values, vectors = factor(gram * inverse[:, None] * inverse, np.ones(len(gram)))
    return size[:, None] * vectors * xp.sqrt(values)


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
    # With so small an alpha, Cholesky would still find a singular matrix singular.
    if alpha <= len(gram) * np.finfo(np.float64).eps * np.trace(gram):
        values, vectors = factor(gram, np.ones(len(gram)))
        weights: Floats = vectors @ ((vectors.T @ right) / (values + alpha)[:, None])
        return weights
    penalised = gram.copy()
    penalised.flat[:: len(gram) + 1] += alpha
    solution: Floats = lapack.dposv(penalised.T, right, lower=1, overwrite_a=1, overwrite_b=1)[1]
    return solution


def _identity(values: Array) -> Array:
    xp = namespace(values)
    rank = len(values)
    eye = zeros((rank, rank))
    index = xp.arange(rank)
    eye[index, index] = 1.0
    return eye
