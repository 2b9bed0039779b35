"""Quadratic forms: squared predictions of held-out rows, from their second moments."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from gradenc_core.arrays import Array, namespace, zeros

# Number of blocks of rows of a symmetric matrix; entries above the diagonal blocks are never
# multiplied.
TRIANGLE_BLOCKS = 4
# Eigenvalues nearer to each other than this share are neighbours: see `squared_predictions`.
NEIGHBOURS = 1e-4
# PAIRS of neighbours are multiplied at once. Where more than the share MANY of all pairs are
# neighbours, computing every alpha by itself costs less.
PAIRS, MANY = 1024, 1 / 16
# The sum of n products has a rounding error below this times sqrt(n) units in the last place
# (Higham & Mary 2019), except in one case in 10^13.
ROUNDING = 8.0


@dataclass(frozen=True)
class Quadratic:
    """The quadratic form x'Mx of a positive semidefinite M, (rank, rank).

    `blocks` holds M below its diagonal doubled, on its diagonal as it is, so that M's other half is
    never multiplied; where M has a low rank, `root` (n, rank) with M = root' root instead.
    `size` bounds |x|'|M||x| / x'x.
    """

    blocks: tuple[Array, ...]
    root: Array | None
    size: float

    @classmethod
    def of(cls, matrix: Array) -> Quadratic:
        """Prepare a matrix."""
        edges = np.linspace(0, len(matrix), TRIANGLE_BLOCKS + 1).astype(int).tolist()
        blocks = []
        for start, stop in pairwise(edges):
            block = matrix[start:stop, :stop] * 2.0
            block[:, start:] /= 2.0
            blocks.append(block)
        return cls(tuple(blocks), None, _largest_row_sum(matrix))

    @classmethod
    def of_root(cls, root: Array) -> Quadratic:
        """Prepare root' root, (n, rank)."""
        return cls((), root, _largest_row_sum(root.T) * _largest_row_sum(root))

    @property
    def matrix(self) -> Array:
        """M, (rank, rank)."""
        if self.root is not None:
            return self.root.T @ self.root
        rank = self.blocks[-1].shape[1]
        below, start = zeros((rank, rank)), 0
        for block in self.blocks:
            stop = start + len(block)
            below[start:stop, :stop] = block
            start = stop
        return (below + below.T) / 2.0

    def __call__(self, x: Array) -> Array:
        """Return x'Mx of every column of x, (rank, m) -> (m,)."""
        if self.root is not None:
            rows = self.root @ x
            rows *= rows
            return rows.sum(axis=0)
        total: Array = 0.0
        start = 0
        for block in self.blocks:
            part = block @ x[: block.shape[1]]
            part *= x[start : start + len(block)]
            total = total + part.sum(axis=0)
            start += len(block)
        return total


def squared_predictions(
    values: Array, shrunk: Array, powers: Sequence[Quadratic], c: Array
) -> Iterator[tuple[Array, Array]]:
    """Yield x'Mx of the predictions x = s * c at every alpha: all alphas cost one product.

    For eigenvalues L_i and L_j, `s_i s_j = L_i L_j (g_j - g_i) / (L_i - L_j)` with
    `g = 1 / (L + alpha)`, so that alpha leaves the sum over pairs: with the antisymmetric
    `N_ij = M_ij L_i L_j / (L_i - L_j)`, it is `2 sum_j g_j c_j (N'c)_j`, and the diagonal of M.
    For neighbours the difference would lose digits, so their pairs are summed directly. Where there
    are many of them, as with orthogonal features, predictions are squared alpha by alpha.

    Parameters
    ----------
    values : array, (rank,)
        Eigenvalues L.
    shrunk : array, (n_alphas, rank)
        s = L / (L + alpha).
    powers : sequence of Quadratic
        Every M, (rank, rank).
    c : array, (rank, n_targets)

    Yields
    ------
    squares : array, (n_alphas, n_targets)
    margin : array, (n_alphas, n_targets)
        Bound on their rounding errors.
    """
    xp = namespace(c)
    quotients, neighbours = _pairs(values)
    if len(neighbours[0]) > MANY * len(values) ** 2:
        for power in powers:
            squares = xp.stack([power(s[:, None] * c) for s in shrunk])
            yield squares, zeros(tuple(squares.shape))
        return
    products = c * c
    lengths = xp.sqrt((shrunk**2 @ products) * products.sum(axis=0))
    bound = rounding(len(values), np.float64) * 2.0 / NEIGHBOURS
    for power in powers:
        matrix = power.matrix
        crossed = (matrix * quotients).T @ c
        crossed *= c
        squares = (shrunk**2 * xp.linalg.diagonal(matrix)) @ products
        squares += (2.0 * shrunk / values) @ crossed
        _add_neighbours(matrix, shrunk, c, neighbours, squares)
        yield squares, bound * power.size * lengths


def _pairs(values: Array) -> tuple[Array, tuple[Array, Array]]:
    """Return L_i L_j / (L_i - L_j), 0 for neighbours, and which pairs i > j are neighbours."""
    xp = namespace(values)
    gap = values[:, None] - values
    larger = xp.where(gap > 0, values[:, None], values[None])
    near = xp.abs(gap) <= NEIGHBOURS * larger
    return values[:, None] / xp.where(near, xp.inf, gap) * values, xp.nonzero(xp.tril(near, k=-1))


def _add_neighbours(
    matrix: Array, shrunk: Array, c: Array, pairs: tuple[Array, Array], squares: Array
) -> None:
    for start in range(0, len(pairs[0]), PAIRS):
        i, j = (index[start : start + PAIRS] for index in pairs)
        squares += (2.0 * matrix[i, j] * shrunk[:, i] * shrunk[:, j]) @ (c[i] * c[j])


def few_rows(n_rows: float, rank: int) -> bool:
    """Whether a quadratic form costs less by a root of that many rows than by its matrix."""
    return n_rows < rank * (TRIANGLE_BLOCKS + 1) / (2 * TRIANGLE_BLOCKS)


def rounding(rank: int, kind: type = np.float32) -> float:
    """Relative error of a quadratic form in `rank` dimensions, in numbers of a kind."""
    return float(ROUNDING * np.sqrt(2 * rank + 8) * np.finfo(kind).eps)


def _largest_row_sum(matrix: Array) -> float:
    xp = namespace(matrix)
    return float(xp.max(xp.sum(xp.abs(matrix), axis=1))) if len(matrix) else 0.0
