"""Products X'Y in float32, at half the time, where their rounding changes no answer.

How much the rounding of products is depends on the data and on the order of the sums, so it is not
assumed but measured, of every target: random combinations of the basis are multiplied with the
targets in float64 as well (as in Freivalds' check of a matrix product).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gradenc_core import ridge
from gradenc_core.design import Training
from gradenc_core.device import Array, Floats, fetch, put, single, zeros
from gradenc_core.moments import TargetMoments
from gradenc_core.selection import Block, can_be_least

# Combinations that are measured at each of a few alphas. Their root mean square is less than the
# error over `FACTOR` for one target in a million.
COMBINATIONS, MEASURED, FACTOR = 8, 4, 8.0
# Largest error of predictions over the standard deviation of the target.
TOLERANCE = 1e-5
# Rows that are in float64 at once: few enough to stay in a processor's cache.
ROWS = 512


class Float32:
    """Features factorised on all stimuli, to be multiplied with targets in float32.

    Parameters
    ----------
    training : Training
        At one ratio.
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
        is_decided : array of bool, (n_targets,)
            Where float64 would choose that alpha, and make the same fit.
        """
        sums, wrong = self.moments(y)
        block = Block.of_sums(self.factor.coordinates, sums)
        errors, margin = self.errors(block, wrong)
        _, is_open = can_be_least(errors[None] - margin, errors[None] + margin)
        index, _ = ridge.choose(errors[None])
        (problem,) = block.problems(self.training)
        at_index = np.take_along_axis(wrong, index[None], axis=0)[0]
        is_exact = at_index < TOLERANCE * np.sqrt(problem.centred.yy)
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
        """Moments of targets, and how far predictions from them may be off, (n_alphas, n_targets).

        In length over all stimuli.
        """
        n_targets = y.shape[1]
        products = zeros((self._combinations.shape[1], n_targets))
        exact = zeros((len(self._combinations), n_targets))
        squares = np.zeros(n_targets)
        for chunk, rows in zip(self.factor.coordinates.chunks(), self._rows, strict=True):
            targets = chunk.scale(y[chunk.rows], np.zeros(n_targets))
            products += single(chunk.scaled).T @ single(put(targets))
            for start in range(0, len(targets), ROWS):
                part = targets[start : start + ROWS].astype(np.float64)
                exact += rows[:, start : start + ROWS] @ put(part)
                squares += np.einsum("ij,ij->j", part, part)
        products[0] = exact[0]
        wrong = fetch(exact[1:] - self._combinations[1:] @ products)
        size = np.sqrt((wrong.reshape(-1, COMBINATIONS, n_targets) ** 2).mean(axis=1))
        sums = TargetMoments(np.zeros(n_targets), products[None], put(squares[None]))
        return sums, FACTOR * size[self._measured_for]

    def errors(self, block: Block, wrong: Floats) -> tuple[Floats, Floats]:
        """Errors by generalised cross-validation, and how far they may be off.

        Both (n_alphas, n_targets).
        """
        (problem,) = block.problems(self.training)
        basis = problem.factor.basis
        shrunk = basis.shrink(self.alphas)
        power = problem.c * problem.c
        # In one sum: what was lost within the basis would count as outside it.
        residual = problem.centred.yy - fetch((shrunk * (2.0 - shrunk)) @ power)
        margin = 2.0 * wrong * (2.0 * np.sqrt(fetch(power.sum(axis=0))) + wrong)
        freedom = ridge.freedom(basis, self.training.count, self.alphas) ** 2
        return residual / freedom, margin / freedom
