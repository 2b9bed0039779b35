"""Weighted second moments of features and targets, by fold and block of stimuli.

Moments are float64 sums over rows shifted by a stored constant, so those of any training set are
the sum of its folds'. A column of ones stands before the features: its products are the sums of
weights, features and targets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import pairwise
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from gradenc_core.arrays import Array, Floats, Rows, fetch, like, namespace, put, zeros

# Rows that are added at once. Part of the algorithm's version: other sums round differently.
ROWS = 4096


@dataclass(frozen=True)
class Cells:
    """Rows grouped by (fold, block); a cell is one block of one fold.

    Attributes
    ----------
    order : array of int, (n_stimuli,)
        Rows sorted by cell; within a cell they keep their order.
    edges : array of int, (n_folds * n_blocks + 1,)
        Where each cell starts and stops in `order`.
    shape : tuple of int
        (n_folds, n_blocks).
    """

    order: NDArray[np.intp]
    edges: NDArray[np.intp]
    shape: tuple[int, int]

    @classmethod
    def of(
        cls,
        folds: NDArray[np.integer],
        blocks: NDArray[np.integer],
        shape: tuple[int, int],
    ) -> Cells:
        """Group rows."""
        labels = folds.astype(np.intp) * shape[1] + blocks
        order = np.argsort(labels, kind="stable")
        edges = np.searchsorted(labels[order], np.arange(shape[0] * shape[1] + 1))
        return cls(order, edges, shape)

    def arrange(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Return rows sorted by cell; where they are sorted already they are not copied."""
        return rows[self.order] if (np.diff(self.order) < 0).any() else rows

    def add_products(self, left: Array, right: Array, sums: Array) -> None:
        """Add `left' right` of rows given in `order` to sums (n_folds, n_blocks, p, m)."""
        for cell, part in self._slices():
            sums[cell] += left[part].T @ right[part]

    def add_squares(self, rows: Floats, sums: Floats) -> None:
        """Add the squares of rows given in `order` to sums (n_folds, n_blocks, m)."""
        for cell, part in self._slices():
            sums[cell] += np.einsum("ij,ij->j", rows[part], rows[part])

    def _slices(self) -> Iterator[tuple[tuple[int, int], slice]]:
        for cell, (start, stop) in enumerate(pairwise(self.edges.tolist())):
            if stop > start:
                yield divmod(cell, self.shape[1]), slice(start, stop)


@dataclass(frozen=True)
class _Moments:
    """Sums with leading axes (n_folds, n_blocks), then (n_folds,), then none."""

    def weigh(self, block_weights: Floats) -> Self:
        """Sum blocks with weights (..., n_folds, n_blocks) to leading axes (..., n_folds)."""
        return self._map(lambda values: _weigh(values, block_weights))

    def per_fold(self) -> Self:
        """Sum the blocks of each fold."""
        return self._map(lambda values: values.sum(axis=1) if values.shape[1] > 1 else values[:, 0])

    def part(self, index: int) -> Self:
        """Return one entry of the leading axis, such as one fold."""
        return self._map(lambda values: values[index])

    def others(self, *left_out: int) -> Self:
        """Sum all folds but those left out.

        A sum, never total minus fold: one huge stimulus in a held-out fold would leave its
        rounding error in the training moments.
        """
        return self._map(lambda values: _sum_others(values, left_out))

    def on_cpu(self) -> Self:
        """Move the sums to numpy's arrays."""
        return self._map(fetch)

    def _sums(self) -> dict[str, Array]:
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "shift"}

    def _map(self, function: Callable[[Array], Array]) -> Self:
        return replace(self, **{name: function(v) for name, v in self._sums().items()})


@dataclass(frozen=True)
class FeatureMoments(_Moments):
    """Moments of features.

    Attributes
    ----------
    shift : array, (n_features,)
        Constant that was taken off the features.
    count : array, (...)
        Number of rows.
    products : array, (..., 1 + n_features, 1 + n_features)
        Weighted sums of products of the rows (1, features).
    """

    shift: Floats
    count: Array
    products: Array

    @property
    def weight(self) -> Array:
        """Sum of weights, (...)."""
        return self.products[..., 0, 0]

    @property
    def x(self) -> Array:
        """Sums of features, (..., n_features)."""
        return self.products[..., 0, 1:]

    @property
    def xx(self) -> Array:
        """Sums of products, (..., n_features, n_features)."""
        return self.products[..., 1:, 1:]


@dataclass(frozen=True)
class TargetMoments(_Moments):
    """Moments of targets with features, the features less their shift.

    Attributes
    ----------
    products : array, (..., 1 + n_features, n_targets)
        Weighted sums of products of the rows (1, features) with the targets.
    yy : array, (..., n_targets)
        Sums of squares.
    """

    products: Array
    yy: Array

    @property
    def y(self) -> Array:
        """Sums of targets, (..., n_targets)."""
        return self.products[..., 0, :]

    @property
    def xy(self) -> Array:
        """Sums of products, (..., n_features, n_targets)."""
        return self.products[..., 1:, :]


@dataclass(frozen=True)
class RowGroups:
    """Fold, block and weight of each row.

    Attributes
    ----------
    folds, blocks : arrays of int, (n_stimuli,)
    weights : array, (n_stimuli,)
    shape : tuple of int
        (n_folds, n_blocks).
    """

    folds: NDArray[np.integer]
    blocks: NDArray[np.integer]
    weights: Floats
    shape: tuple[int, int]

    @classmethod
    def of(
        cls,
        folds: NDArray[np.integer],
        weights: NDArray[Any],
        blocks: NDArray[np.integer] | None = None,
    ) -> RowGroups:
        """Describe rows; without `blocks` every fold is one block."""
        blocks = np.zeros(len(folds), dtype=np.intp) if blocks is None else blocks
        shape = (int(folds.max()) + 1, int(blocks.max()) + 1)
        return cls(folds, blocks, np.asarray(weights, dtype=np.float64), shape)

    @property
    def counts(self) -> Floats:
        """Number of rows per cell, (n_folds, n_blocks)."""
        labels = self.folds.astype(np.intp) * self.shape[1] + self.blocks
        counts = np.bincount(labels, minlength=self.shape[0] * self.shape[1])
        return counts.reshape(self.shape).astype(np.float64)


@dataclass(frozen=True, eq=False)
class Coordinates:
    """Rows of one stimulus set: features, or what a basis makes of them.

    Attributes
    ----------
    groups : RowGroups
        Fold, block and weight (of mean 1) of each row.
    x : Rows, (n_stimuli, n_features)
        Read `ROWS` at a time.
    shift : array, (n_features,)
        Constant taken off each column.
    hold : bool
        Whether rows that fit one read, no more than `ROWS`, stay in memory in the form they are
        summed in.
    """

    groups: RowGroups
    x: Rows
    shift: Floats
    hold: bool = False

    def chunks(self) -> Iterator[Chunk]:
        """Yield rows to be read at once, in the order of their cells."""
        if self.hold and len(self.groups.folds) <= ROWS:
            yield self._only_chunk
        else:
            yield from self._read_chunks()

    @cached_property
    def _only_chunk(self) -> Chunk:
        (chunk,) = self._read_chunks()
        return chunk

    def _read_chunks(self) -> Iterator[Chunk]:
        groups = self.groups
        for start in range(0, len(groups.folds), ROWS):
            rows = slice(start, start + ROWS)
            cells = Cells.of(groups.folds[rows], groups.blocks[rows], groups.shape)
            root = np.sqrt(cells.arrange(groups.weights[rows]))[:, None]
            values = cells.arrange(np.asarray(self.x[rows]))
            yield Chunk(rows, cells, root, put(_augmented(values, root, self.shift)))


@dataclass(frozen=True)
class Chunk:
    """Some rows of `Coordinates`.

    Attributes
    ----------
    rows : slice
    cells : Cells
    root : array, (n, 1)
        Roots of the weights, in the order of the cells.
    scaled : array, (n, 1 + n_features)
        The rows (1, features less the shift) times the roots, in that order.
    """

    rows: slice
    cells: Cells
    root: Floats
    scaled: Array

    def scale(self, targets: NDArray[Any]) -> NDArray[Any]:
        """Return these rows of targets times the roots, in the cells' order."""
        targets = self.cells.arrange(targets)
        # Weights of 1 are left out: a product would pass over all targets.
        return targets * self.root if (self.root != 1.0).any() else targets


def first_mean(x: Rows) -> Floats:
    """Mean of the first rows: the constant that is taken off every column, (n_columns,)."""
    mean: Floats = np.asarray(x[slice(0, ROWS)]).mean(axis=0, dtype=np.float64)
    return mean


def feature_moments(coordinates: Coordinates) -> FeatureMoments:
    """Accumulate the moments of features over cells.

    Returns
    -------
    FeatureMoments
        With leading axes (n_folds, n_blocks), on this process's device.
    """
    groups, width = coordinates.groups, len(coordinates.shift) + 1
    products = zeros((*groups.shape, width, width))
    for chunk in coordinates.chunks():
        chunk.cells.add_products(chunk.scaled, chunk.scaled, products)
    return FeatureMoments(coordinates.shift, put(groups.counts), products)


def target_moments(coordinates: Coordinates, y: Floats) -> TargetMoments:
    """Accumulate the moments of targets (n_stimuli, n_targets) with the features over cells.

    Targets are not shifted: they must be near zero mean.
    """
    leading, n_targets = coordinates.groups.shape, y.shape[1]
    products = zeros((*leading, len(coordinates.shift) + 1, n_targets))
    squares = np.zeros((*leading, n_targets))
    for chunk in coordinates.chunks():
        targets = chunk.scale(y[chunk.rows])
        chunk.cells.add_products(chunk.scaled, put(targets), products)
        chunk.cells.add_squares(targets, squares)
    return TargetMoments(products, put(squares))


def _augmented(values: Floats, root: Floats, shift: Floats) -> Floats:
    """Return the rows (1, values less the shift) times the root of their weight."""
    out = np.empty((len(values), values.shape[1] + 1))
    out[:, 0] = 1.0
    np.subtract(values, shift, out=out[:, 1:])
    if (root != 1.0).any():
        out *= root
    return out


def _sum_others(values: Array, left_out: Sequence[int]) -> Array:
    first, *rest = [k for k in range(len(values)) if k not in left_out]
    total = values[first]
    for k in rest:
        if k == rest[0]:
            total = total + values[k]
        else:
            total += values[k]
    return total


def _weigh(values: Array, block_weights: Floats) -> Array:
    n_folds, n_blocks, *rest = values.shape
    flat = values.reshape(n_folds, n_blocks, -1)
    weights = like(block_weights, values)
    xp = namespace(values)
    folds = [weights[..., fold, :] @ flat[fold] for fold in range(n_folds)]
    return xp.stack(folds, axis=-2).reshape(*block_weights.shape[:-1], *rest)
