"""Exact leave-one-row-out errors, with the standardisation of the whole training set held fixed.

Every row's error is its residual over one less its leverage. The errors of most alphas are never
computed: cheap bounds show that they cannot be the least.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradenc_core.arrays import Array, Floats, Ints, fetch, put, single, take
from gradenc_core.ridge.factorise import Training
from gradenc_core.ridge.moments import ROWS
from gradenc_core.ridge.quadratic import rounding
from gradenc_core.ridge.scores import pad_columns
from gradenc_core.ridge.targets import Problem, TargetBlock

# Share of a target's variance that residuals in float64 may be wrong by.
RESIDUAL_ERROR = 1e-11


def loo_errors(training: Training, block: TargetBlock, alphas: Floats) -> Floats:
    """Exact leave-one-row-out errors; infinity for alphas that cannot have the least error.

    An error is at least the residual sum of squares over (1 - h)^2 at the least leverage h. The
    alpha that generalised cross-validation prefers is computed first, then the alphas that neither
    this bound nor one from residuals in float32 excludes.

    Returns
    -------
    array, (n_ratios, n_alphas, n_targets)
    """
    return np.stack(
        [_loo_errors(training, problem, block, alphas) for problem in block.problems(training)]
    )


def _loo_errors(training: Training, problem: Problem, block: TargetBlock, alphas: Floats) -> Floats:
    basis = problem.factor.basis
    rows = _LeftOut(training, problem, block, alphas)
    yy = problem.centred.yy
    rss = fetch(basis.residuals(problem.c, put(yy), alphas, training.count))
    gcv = rss / rows.freedom.mean(axis=1)[:, None] ** 2
    first = np.zeros(gcv.shape, dtype=bool)
    first[gcv.argmin(axis=0), np.arange(gcv.shape[1])] = True
    errors = rows.errors(first)
    least = np.maximum(rss - RESIDUAL_ERROR * yy, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        lower = least / rows.freedom.max(axis=1)[:, None] ** 2
    lower[np.isnan(lower)] = 0.0
    rest = (lower <= errors.min(axis=0)) & ~first
    rest &= rows.lower_errors(rest) <= errors.min(axis=0)
    return np.minimum(errors, rows.errors(rest))


class _LeftOut:
    """Training rows of a problem, each left out in turn.

    Where the basis leaves no free dimension, as with fewer rows than features, residuals and
    1 - leverage are computed as sums of 1 - s: at a small alpha a subtraction would leave rounding.
    """

    def __init__(
        self, training: Training, problem: Problem, block: TargetBlock, alphas: Floats
    ) -> None:
        self.problem, self.block = problem, block
        groups = problem.factor.coordinates.groups
        self.kept = ~np.isin(groups.folds, training.left_out)
        self.weights, self.weight = groups.weights, training.weight
        basis = problem.factor.basis
        self.filled = basis.fills(training.count)
        self.shares = basis.leave(alphas) if self.filled else basis.shrink(alphas)
        """Share of c in the residual if filled, else in the prediction, (n_alphas, rank)."""
        self._only_chunk: tuple[Ints, Array] | None = None
        parts = [self._freedom(rows, z) for rows, z in self._chunks()]
        self.freedom = np.concatenate([free for free, _ in parts], axis=1)
        """1 - leverage, (n_alphas, n_kept)."""
        self._lengths = np.concatenate([length for _, length in parts])

    def errors(self, wanted: NDArray[np.bool_]) -> Floats:
        """Errors (n_alphas, n_targets) where they are wanted, infinity elsewhere."""
        errors = self._sums(wanted, lambda values: values)
        # Where a row's prediction depends on that row alone, its error is 0 / 0.
        errors[np.isnan(errors)] = np.inf
        return errors

    def lower_errors(self, wanted: NDArray[np.bool_]) -> Floats:
        """Lower bounds on wanted errors, from residuals in float32; infinity elsewhere."""
        basis, c = self.problem.factor.basis, self.problem.c
        power = fetch(self.shares**2 @ (c * c))
        near = self._sums(wanted, single)
        n_kept, rank = int(self.kept.sum()), len(basis.values)
        with np.errstate(all="ignore"):
            spread = np.sqrt(self._row_weights() @ self._lengths)[:, None]
            low = np.sqrt(near * (1 - rounding(n_kept)))
            low -= rounding(rank) * spread * np.sqrt(power)
            lower: Floats = np.maximum(low, 0.0) ** 2
        lower[~np.isfinite(near) & wanted] = 0.0
        return lower

    def _sums(self, wanted: NDArray[np.bool_], cast: Callable[[Array], Array]) -> Floats:
        """Sum squared left-out residuals, (n_alphas, n_targets), of arrays that `cast` converts."""
        errors = np.where(wanted, 0.0, np.inf)
        start = 0
        for rows, z in self._chunks():
            # Targets are rows here, so that each wanted one is contiguous in memory.
            y = cast(put(np.ascontiguousarray((self.block.y[rows] - self.problem.centred.mean).T)))
            z = cast(z).T
            weights = cast(put(self._row_weights()[:, start : start + len(rows)]))
            start += len(rows)
            for a, shares in enumerate(self.shares):
                columns = np.flatnonzero(wanted[a])
                if columns.size:
                    x = take(self.problem.c, pad_columns(columns)) * shares[:, None]
                    left_out = cast(x).T @ z
                    if not self.filled:
                        left_out[: columns.size] -= take(y, columns, axis=0)
                    left_out *= left_out
                    with np.errstate(all="ignore"):
                        errors[a, columns] += fetch(left_out @ weights[a])[: columns.size]
        return errors

    def _row_weights(self) -> Floats:
        """Weight of each kept row's squared residual, (n_alphas, n_kept)."""
        with np.errstate(divide="ignore"):
            weights: Floats = self.weights[self.kept] / self.freedom**2
        return weights

    def _freedom(self, rows: Ints, z: Array) -> tuple[Floats, Floats]:
        """1 - leverage at every alpha (n_alphas, n), and squared lengths of the rows (n,)."""
        squares, weights = z * z, self.weights[rows]
        within = weights * fetch(self.shares @ squares.T)
        free = within if self.filled else 1.0 - (weights / self.weight + within)
        return free, fetch(squares.sum(axis=1))

    def _chunks(self) -> Iterator[tuple[Ints, Array]]:
        """Yield kept rows and their coordinates, (n, rank)."""
        if self._only_chunk is None:
            yield from self._computed_chunks()
        else:
            yield self._only_chunk

    def _computed_chunks(self) -> Iterator[tuple[Ints, Array]]:
        coordinates, vectors = self.problem.factor.coordinates, self.problem.factor.basis.vectors
        for start in range(0, len(self.kept), ROWS):
            rows = start + np.flatnonzero(self.kept[start : start + ROWS])
            part: Any = np.asarray(coordinates.x[slice(start, start + ROWS)], dtype=np.float64)
            part = part[rows - start] - coordinates.shift
            z = put(part[:, : len(vectors) - 1]) @ vectors[1:] + vectors[0]
            if len(self.kept) <= ROWS:
                self._only_chunk = rows, z
            yield rows, z
