"""Weighted second moments of features and targets, by fold and block of stimuli.

Moments are float64 sums over rows shifted by a stored constant, so they add up over shards of
stimuli and serve any training set as a sum of its folds. A column of ones stands before the
features: its products are the sums of weights, features and targets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from gradenc_core.device import Array, Floats, fetch, like, namespace, put, zeros

# Rows that are added at once. Part of the algorithm's version: other sums round differently.
ROWS = 4096


class Rows(Protocol):
    """Rows that may be too many to hold: an array, or one on disk that is read by slices."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(n_stimuli, n_columns)."""

    def __getitem__(self, rows: slice, /) -> Any:
        """Read a slice of rows."""


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
        blocks: NDArray[np.integer] | None = None,
        shape: tuple[int, int] | None = None,
    ) -> Cells:
        """Group rows; `shape` is needed only where a shard may lack the last fold or block."""
        blocks = np.zeros(len(folds), dtype=np.intp) if blocks is None else blocks
        shape = shape or (int(folds.max()) + 1, int(blocks.max()) + 1)
        labels = folds.astype(np.intp) * shape[1] + blocks
        order = np.argsort(labels, kind="stable")
        edges = np.searchsorted(labels[order], np.arange(shape[0] * shape[1] + 1))
        return cls(order, edges, shape)

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

    shift: Floats

    def __add__(self, other: Self) -> Self:
        if not np.array_equal(self.shift, other.shift):
            raise ValueError("Moments about different shifts do not add; give shards one shift.")
        mine, theirs = self._sums(), other._sums()
        return replace(self, **{name: mine[name] + theirs[name] for name in mine})

    def weigh(self, block_weights: Floats) -> Self:
        """Sum blocks with weights (..., n_folds, n_blocks) to leading axes (..., n_folds)."""
        return self._map(lambda values: _weigh(values, block_weights))

    def per_fold(self) -> Self:
        """Sum the blocks of each fold."""
        return self._map(lambda values: values.sum(axis=1))

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
    """Moments of features about `shift` (n_features,).

    Attributes
    ----------
    count : array, (...)
        Number of rows.
    products : array, (..., 1 + n_features, 1 + n_features)
        Weighted sums of products of the rows (1, features).
    """

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
    """Moments of targets about `shift` (n_targets,), with the features about their own.

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
class Layout:
    """What rows are besides their values, for a whole stimulus set or a shard of it.

    Attributes
    ----------
    folds, blocks : arrays of int, (n_stimuli,)
    weights : array, (n_stimuli,)
    shape : tuple of int
        (n_folds, n_blocks) of the whole set.
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
        shape: tuple[int, int] | None = None,
    ) -> Layout:
        """Describe rows; `shape` is needed only where a shard may lack the last fold or block."""
        blocks = np.zeros(len(folds), dtype=np.intp) if blocks is None else blocks
        shape = shape or (int(folds.max()) + 1, int(blocks.max()) + 1)
        return cls(folds, blocks, np.asarray(weights, dtype=np.float64), shape)

    @property
    def counts(self) -> Floats:
        """Number of rows per cell, (n_folds, n_blocks)."""
        labels = self.folds.astype(np.intp) * self.shape[1] + self.blocks
        counts = np.bincount(labels, minlength=self.shape[0] * self.shape[1])
        return counts.reshape(self.shape).astype(np.float64)

    def chunks(self) -> Iterator[tuple[slice, Cells, Floats]]:
        """Yield rows to be read at once, their cells, and the roots of their ordered weights."""
        for start in range(0, len(self.folds), ROWS):
            rows = slice(start, start + ROWS)
            cells = Cells.of(self.folds[rows], self.blocks[rows], self.shape)
            yield rows, cells, np.sqrt(self.weights[rows][cells.order])[:, None]

    def only(self, kept: NDArray[np.bool_]) -> Layout:
        """Return the layout of some of the rows."""
        return replace(
            self, folds=self.folds[kept], blocks=self.blocks[kept], weights=self.weights[kept]
        )


def first_mean(x: Rows) -> Floats:
    """Mean of the first rows: the constant that is taken off every column, (n_columns,)."""
    mean: Floats = np.asarray(x[slice(0, ROWS)]).mean(axis=0, dtype=np.float64)
    return mean


def feature_moments(layout: Layout, x: Rows, shift: Floats) -> FeatureMoments:
    """Accumulate the moments of features over cells; those of shards of stimuli add up.

    Parameters
    ----------
    layout : Layout
        Fold, block and weight of each row.
    x : array or other rows, (n_stimuli, n_features)
        Read `ROWS` at a time.
    shift : array, (n_features,)
        Constant taken off each column, the same for all shards.

    Returns
    -------
    FeatureMoments
        With leading axes (n_folds, n_blocks), on this process's device.
    """
    width = len(shift) + 1
    products = zeros((*layout.shape, width, width))
    for rows, cells, root in layout.chunks():
        scaled = put(_augmented(x, rows, cells, root, shift))
        cells.add_products(scaled, scaled, products)
    return FeatureMoments(shift, put(layout.counts), products)


def target_moments(
    layout: Layout, x: Rows, y: Floats, x_shift: Floats, shift: Floats
) -> TargetMoments:
    """Accumulate the moments of targets (n_stimuli, n_targets) with the features over cells.

    Parameters are those of `feature_moments`; `shift` is the targets' constant, (n_targets,).
    """
    products = zeros((*layout.shape, len(x_shift) + 1, len(shift)))
    squares = np.zeros((*layout.shape, len(shift)))
    for rows, cells, root in layout.chunks():
        targets = y[rows][cells.order]
        targets -= shift
        targets *= root
        scaled = put(_augmented(x, rows, cells, root, x_shift))
        cells.add_products(scaled, put(targets), products)
        cells.add_squares(targets, squares)
    return TargetMoments(shift, products, put(squares))


def _augmented(x: Rows, rows: slice, cells: Cells, root: Floats, shift: Floats) -> Floats:
    """Return the rows (1, features) times the root of their weight, in the order of the cells."""
    values = np.asarray(x[rows])[cells.order]
    out = np.empty((len(values), values.shape[1] + 1))
    out[:, 0] = 1.0
    np.subtract(values, shift, out=out[:, 1:])
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
