"""Products X'Y in float32, at half the time, where their rounding changes no answer.

How much the rounding of products is depends on the data and on the order of the sums, so it is not
assumed but measured, of every target: random combinations of the basis are multiplied with the
targets in float64 as well (as in Freivalds' check of a matrix product).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gradenc_core.arrays import Array, Floats, fetch, put, single, zeros
from gradenc_core.ridge import basis as ridge
from gradenc_core.ridge.choose import Block, can_be_least
from gradenc_core.ridge.factorise import Training
from gradenc_core.ridge.moments import TargetMoments

# Combinations that are measured at each of a few alphas. The root mean square of that many is below
# 1 / FACTOR of the error with a probability of 1e-7 at an alpha (chi-square).
COMBINATIONS, MEASURED, FACTOR = 16, 4, 4.0
# Root mean square error of predictions over stimuli, over the standard deviation of the target.
TOLERANCE = 1e-5
# Rows that are in float64 at once: few enough to stay in a processor's cache.
FEW_ROWS = 512


class Float32:
    """Features factorised on all stimuli, to be multiplied with targets in float32.

    Parameters
    ----------
    training : Training
        At one ratio, of moments of features (not of kernels).
    alphas : array, (n_alphas,)
        Falling.
    """

    def __init__(self, training: Training, alphas: Floats) -> None:
        (self.factor,) = training.factors
        self.training, self.alphas = training, alphas
        last = len(alphas) - 1
        measured = np.unique(np.linspace(last, 0, MEASURED).round().astype(int))
        # What is measured at an alpha is the most that it can be at a larger one.
        self._measured_for = np.searchsorted(measured, np.arange(len(alphas)))
        self._combinations = self._combine(alphas[measured])
        self._rows = [self._combinations @ c.scaled.T for c in self.factor.coordinates.chunks()]

    def choose(self, y: NDArray[np.float32]) -> tuple[Block, Floats, NDArray[np.bool_]]:
        """Choose alphas by generalised cross-validation.

        Parameters
        ----------
        y : array, (n_stimuli, n_targets)

        Returns
        -------
        block : Block
            The targets, known by their moments.
        alpha : array, (n_targets,)
            The chosen one, in float32 products.
        is_decided : array of bool, (n_targets,)
            Where float64 would choose that alpha, and predict the same within `TOLERANCE`.
        """
        sums, off = self.moments(y)
        block = Block.of_sums(self.factor.coordinates, sums)
        errors, margin = self.errors(block, off)
        _, is_open = can_be_least(errors[None] - margin, errors[None] + margin)
        index, _ = ridge.choose(errors[None])
        (problem,) = block.problems(self.training)
        off_at_alpha = np.take_along_axis(off, index[None], axis=0)[0]
        is_exact = off_at_alpha < TOLERANCE * np.sqrt(problem.centred.yy)
        return block, self.alphas[index], ~is_open & is_exact

    def _combine(self, alphas: Floats) -> Array:
        """Return (1, 0, ...) and combinations of the shrunken basis, (1 + n, 1 + n_features)."""
        basis = self.factor.basis
        shape = (COMBINATIONS, len(basis.values))
        factors = put(np.random.default_rng(0).standard_normal(shape))
        rows = zeros((1 + len(alphas) * COMBINATIONS, 1 + len(self.factor.coordinates.shift)))
        rows[0, 0] = 1.0
        for i, shrunk in enumerate(basis.shrink(alphas)):
            own = slice(1 + i * COMBINATIONS, 1 + (i + 1) * COMBINATIONS)
            rows[own, : len(basis.vectors)] = (factors * shrunk) @ basis.vectors.T
        return rows

    def moments(self, y: NDArray[np.float32]) -> tuple[TargetMoments, Floats]:
        """Multiply targets with the features.

        Parameters
        ----------
        y : array, (n_stimuli, n_targets)

        Returns
        -------
        sums : TargetMoments
            With leading axis (1,): of all stimuli.
        off : array, (n_alphas, n_targets)
            Bound on the error of s * c, which is that of predictions: a root of the weighted sum
            of squares over stimuli.
        """
        n_targets = y.shape[1]
        products = zeros((self._combinations.shape[1], n_targets))
        exact = zeros((len(self._combinations), n_targets))
        squares = np.zeros(n_targets)
        for chunk, rows in zip(self.factor.coordinates.chunks(), self._rows, strict=True):
            targets = chunk.scale(y[chunk.rows], np.zeros(n_targets))
            products += single(chunk.scaled).T @ single(put(targets))
            for start in range(0, len(targets), FEW_ROWS):
                part = targets[start : start + FEW_ROWS].astype(np.float64)
                exact += rows[:, start : start + FEW_ROWS] @ put(part)
                squares += np.einsum("ij,ij->j", part, part)
        products[0] = exact[0]
        differences = fetch(exact[1:] - self._combinations[1:] @ products)
        sizes = (differences.reshape(-1, COMBINATIONS, n_targets) ** 2).mean(axis=1) ** 0.5
        sums = TargetMoments(np.zeros(n_targets), products[None], put(squares[None]))
        return sums, FACTOR * sizes[self._measured_for]

    def errors(self, block: Block, off: Floats) -> tuple[Floats, Floats]:
        """Errors by generalised cross-validation of targets known by their moments.

        Parameters
        ----------
        block : Block
        off : array, (n_alphas, n_targets)
            See `moments`.

        Returns
        -------
        errors, margin : array, (n_alphas, n_targets)
            And how far they may be off.
        """
        (problem,) = block.problems(self.training)
        basis, yy = problem.factor.basis, problem.centred.yy
        shrunk = basis.shrink(self.alphas)
        power = problem.c * problem.c
        # One difference: what lies outside the basis, as summed in `ridge.residuals`, would hold
        # the error of c without its shrinkage.
        residual = yy - fetch((shrunk * (2.0 - shrunk)) @ power)
        # Of sum s (2 - s) c^2, by Cauchy and Schwarz; the true c is no longer than y.
        margin = 2.0 * off * (np.sqrt(fetch(power.sum(axis=0))) + np.sqrt(yy))
        freedom = ridge.freedom(basis, self.training.count, self.alphas) ** 2
        return residual / freedom, margin / freedom
