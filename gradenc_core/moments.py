"""Weighted second moments of features and targets, by fold and block of stimuli.

Moments are float64 sums over rows shifted by a stored constant, so they add up over shards of
stimuli and serve any training set as a sum of its folds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from functools import reduce
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


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

    @property
    def counts(self) -> Floats:
        """Number of rows per cell, (n_folds, n_blocks)."""
        return np.diff(self.edges).reshape(self.shape).astype(np.float64)

    def first_mean(self, rows: NDArray[Any]) -> Floats:
        """Mean over the first non-empty cell of rows in their own order: the constant shift."""
        first = next(part for part in self._slices() if part.stop > part.start)
        mean: Floats = rows[self.order[first]].mean(axis=0, dtype=np.float64)
        return mean

    def sums(self, ordered: Floats) -> Floats:
        """Sum rows (n_stimuli, ...), given in `order`, to (n_folds, n_blocks, ...)."""
        parts = np.stack([ordered[part].sum(axis=0) for part in self._slices()])
        return parts.reshape(*self.shape, *parts.shape[1:])

    def products(self, left: Floats, right: Floats) -> Floats:
        """Sum `left' right` of rows given in `order` to (n_folds, n_blocks, p, m)."""
        out = np.empty((len(self.edges) - 1, left.shape[1], right.shape[1]))
        for cell, part in enumerate(self._slices()):
            np.matmul(left[part].T, right[part], out=out[cell])
        return out.reshape(*self.shape, *out.shape[1:])

    def _slices(self) -> Iterator[slice]:
        return (slice(int(a), int(b)) for a, b in zip(self.edges, self.edges[1:], strict=False))


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

        def add(values: Floats) -> Floats:
            return reduce(np.add, [v for k, v in enumerate(values) if k not in left_out])

        return self._map(add)

    def _sums(self) -> dict[str, Floats]:
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "shift"}

    def _map(self, function: Callable[[Floats], Floats]) -> Self:
        return replace(self, **{name: function(v) for name, v in self._sums().items()})


@dataclass(frozen=True)
class FeatureMoments(_Moments):
    """Moments of features about `shift` (n_features,).

    Attributes
    ----------
    count, weight : arrays, (...)
        Number of rows and sum of their weights.
    x : array, (..., n_features)
    xx : array, (..., n_features, n_features)
    """

    count: Floats
    weight: Floats
    x: Floats
    xx: Floats


@dataclass(frozen=True)
class TargetMoments(_Moments):
    """Moments of targets about `shift` (n_targets,), with the features about their own.

    Attributes
    ----------
    y, yy : arrays, (..., n_targets)
        Sums of targets and of their squares.
    xy : array, (..., n_features, n_targets)
    """

    y: Floats
    yy: Floats
    xy: Floats


def feature_moments(
    cells: Cells, x: NDArray[Any], weights: NDArray[Any], shift: Floats
) -> FeatureMoments:
    """Accumulate the moments of features over cells; those of shards of stimuli add up.

    Parameters
    ----------
    cells : Cells
        Fold and block of each row.
    x : array, (n_stimuli, n_features)
    weights : array, (n_stimuli,)
    shift : array, (n_features,)
        Constant taken off each column, the same for all shards.

    Returns
    -------
    FeatureMoments
        With leading axes (n_folds, n_blocks).
    """
    ordered = x[cells.order] - shift
    weighted = weigh_rows(ordered, weights[cells.order])
    return ordered_feature_moments(cells, weighted, ordered, shift)


def target_moments(
    cells: Cells,
    x: NDArray[Any],
    y: NDArray[Any],
    weights: NDArray[Any],
    x_shift: Floats,
    shift: Floats,
) -> TargetMoments:
    """Accumulate the moments of targets (n_stimuli, n_targets) with the features over cells.

    Parameters are those of `feature_moments`; `shift` is the targets' constant, (n_targets,).
    """
    weighted = weigh_rows(x[cells.order] - x_shift, weights[cells.order])
    return ordered_target_moments(cells, weighted, y[cells.order] - shift, shift)


def weigh_rows(x: Floats, weights: NDArray[Any]) -> Floats:
    """Return weighted features with the weights as one more column, (n_stimuli, n_features + 1)."""
    return np.column_stack([x * weights[:, None], weights])


def ordered_feature_moments(
    cells: Cells, weighted: Floats, ordered: Floats, shift: Floats
) -> FeatureMoments:
    """Accumulate features whose rows, already shifted, stand in the order of the cells."""
    # The column of weights makes the last row of each product the sums of X.
    products = cells.products(weighted, ordered)
    return FeatureMoments(
        shift=shift,
        count=cells.counts,
        weight=cells.sums(weighted[:, -1]),
        x=products[..., -1, :],
        xx=products[..., :-1, :],
    )


def ordered_target_moments(
    cells: Cells, weighted: Floats, ordered: Floats, shift: Floats
) -> TargetMoments:
    """Accumulate targets whose rows, already shifted, stand in the order of the cells."""
    products = cells.products(weighted, ordered)
    squares = ordered * ordered
    squares *= weighted[:, -1:]  # in place: a second temporary of this size costs much more
    yy = cells.sums(squares)
    return TargetMoments(shift=shift, y=products[..., -1, :], yy=yy, xy=products[..., :-1, :])


def _weigh(values: Floats, block_weights: Floats) -> Floats:
    n_folds, n_blocks, *rest = values.shape
    flat = values.reshape(n_folds, n_blocks, -1)
    out = np.empty((*block_weights.shape[:-1], flat.shape[-1]))
    for fold in range(n_folds):
        out[..., fold, :] = block_weights[..., fold, :] @ flat[fold]
    return out.reshape(*block_weights.shape[:-1], *rest)
