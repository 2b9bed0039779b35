"""Choice of alpha and ratio: errors of every candidate, each evaluated no more than it must be.

Least errors are found in two steps. Bounds on the errors of all (ratio, alpha) pairs are cheap;
only pairs whose lower bound lies below the least upper bound are evaluated, in float64. What is not
evaluated cannot be the least and has the error infinity.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradenc_core.arrays import Array, Floats, fetch, put, single
from gradenc_core.ridge import basis as ridge
from gradenc_core.ridge.basis import Ints
from gradenc_core.ridge.factorise import Factor, Training
from gradenc_core.ridge.moments import ROWS, Coordinates, TargetMoments, target_moments
from gradenc_core.ridge.quadratic import rounding, squared_predictions
from gradenc_core.ridge.scores import Centred, pad_columns, take

# Share of a target's variance that residuals in float64 may be wrong by.
RESIDUAL_ERROR = 1e-11

Validations = Sequence[tuple[Training, Sequence[tuple[int, int]]]]
"""Training sets, each with (fold that validates, outer set that it validates for)."""


class Block:
    """Targets, (n_stimuli, n_targets), and what training sets make of them.

    Moments are computed once for every set of coordinates, problems once for the last `keep`
    training sets: they need as much memory as targets of the factors' rank.
    """

    def __init__(self, y: Floats, keep: int = 1) -> None:
        self.y, self.keep = y, keep
        self._sums: dict[Coordinates, TargetMoments] = {}
        self._problems: dict[tuple[int, ...], list[Problem]] = {}

    @classmethod
    def of_sums(cls, coordinates: Coordinates, sums: TargetMoments) -> Block:
        """Return targets that are known by their moments per fold alone."""
        block = cls(np.empty((0, len(sums.shift))))
        block._sums[coordinates] = sums
        return block

    def sums(self, coordinates: Coordinates) -> TargetMoments:
        """Moments per fold, computed once."""
        if coordinates not in self._sums:
            sums = target_moments(coordinates, self.y, np.zeros(self.y.shape[1]))
            self._sums[coordinates] = sums.per_fold()
        return self._sums[coordinates]

    def problems(self, training: Training) -> list[Problem]:
        """Return the problem of every ratio."""
        if training.left_out not in self._problems:
            while len(self._problems) >= self.keep:
                del self._problems[next(iter(self._problems))]
            self._problems[training.left_out] = list(Problem.each(training, self))
        return self._problems[training.left_out]

    def take(self, columns: Ints) -> Block:
        """Select targets."""
        part = Block(self.y[:, columns])
        for coordinates, sums in self._sums.items():
            products = take(sums.products.reshape(-1, sums.products.shape[-1]), columns)
            part._sums[coordinates] = TargetMoments(
                sums.shift[columns],
                products.reshape(*sums.products.shape[:-1], len(columns)),
                take(sums.yy, columns),
            )
        return part


@dataclass(frozen=True)
class Problem:
    """A training set's targets in its basis: c (rank, n_targets), and about their own mean."""

    factor: Factor
    c: Array
    centred: Centred

    @classmethod
    def each(cls, training: Training, block: Block) -> Iterator[Problem]:
        """Yield the problem of every ratio."""
        last: tuple[Coordinates, TargetMoments] | None = None
        for factor in training.factors:
            if last is None or last[0] is not factor.coordinates:
                sums = block.sums(factor.coordinates).others(*training.left_out)
                last = factor.coordinates, sums
            centred = Centred.of(training.weight, last[1])
            yield cls(factor, factor.basis.project(last[1].products), centred)

    def held(self, fold: int, block: Block) -> tuple[Array, Centred, Floats]:
        """Products of a fold left out with its targets about their means, the targets, their bias.

        Returns
        -------
        d : array, (rank, n_targets)
        held : Centred
        bias : array, (n_targets,)
            Mean of the fold's targets less that of the training set.
        """
        rows = self.factor.held[fold]
        sums = block.sums(self.factor.coordinates).part(fold)
        held = Centred.of(rows.weight, sums)
        d = self.factor.basis.project(sums.products)
        d -= rows.offset[:, None] * sums.y
        return d, held, held.mean - self.centred.mean


def kfold_errors(validations: Validations, block: Block, alphas: Floats) -> Floats:
    """Squared error on folds left out, summed over training sets.

    The squared predictions of all alphas come from one product, with a bound on its rounding;
    those that could be the least are computed again, each by itself.

    Parameters
    ----------
    validations : sequence
        See `Validations`.
    block : Block
    alphas : array, (n_alphas,)

    Returns
    -------
    array, (n_outer, n_ratios, n_alphas, n_targets)
    """
    n_outer = 1 + max(outer for _, pairs in validations for _, outer in pairs)
    n_ratios = len(validations[0][0].factors)
    shape = (n_outer, n_ratios, len(alphas), block.y.shape[1])
    known, squares, margin = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    for training, pairs in validations:
        for i, problem in enumerate(block.problems(training)):
            _add_known(problem, pairs, block, alphas, known[:, i])
            _add_squares(problem, pairs, alphas, squares[:, i], margin[:, i])
    errors = known + squares
    for outer, (e, m) in enumerate(zip(errors, margin, strict=True)):
        possible, is_open = can_be_least(e - m, e + m)
        e[~possible] = np.inf
        open_targets = np.flatnonzero(is_open)
        if open_targets.size:
            columns = pad_columns(open_targets)
            exact = _exact_squares(
                [(t, [f for f, o in pairs if o == outer]) for t, pairs in validations],
                block.take(columns),
                alphas,
                possible[..., columns],
            )[..., : open_targets.size]
            e[..., open_targets] = known[outer][..., open_targets] + exact
    return np.maximum(errors, 0.0)


def _add_known(
    problem: Problem,
    pairs: Sequence[tuple[int, int]],
    block: Block,
    alphas: Floats,
    known: Floats,
) -> None:
    """Add all of the squared error but the squared predictions, which costs little."""
    basis, sums = problem.factor.basis, block.sums(problem.factor.coordinates)
    shrunk = basis.shrink(alphas)
    for fold, outer in pairs:
        rows, own = problem.factor.held[fold], sums.part(fold)
        held = Centred.of(rows.weight, own)
        guess = fetch((shrunk * rows.offset) @ problem.c)
        products = basis.project(own.products)
        products *= problem.c
        common = fetch(shrunk @ products) - guess * fetch(own.y)
        missed = held.mean - problem.centred.mean - guess
        known[outer] += held.yy - 2 * common + rows.weight * missed**2


def _add_squares(
    problem: Problem,
    pairs: Sequence[tuple[int, int]],
    alphas: Floats,
    squares: Floats,
    margin: Floats,
) -> None:
    """Add squared predictions, and how far they may be off."""
    basis = problem.factor.basis
    powers = [problem.factor.held[fold].power for fold, _ in pairs]
    all_squares = squared_predictions(basis.values, basis.shrink(alphas), powers, problem.c)
    for (_, outer), (found, off) in zip(pairs, all_squares, strict=True):
        squares[outer] += fetch(found)
        margin[outer] += fetch(off)


def _exact_squares(
    folds: Sequence[tuple[Training, Sequence[int]]],
    block: Block,
    alphas: Floats,
    possible: NDArray[np.bool_],
) -> Floats:
    """Squared predictions alpha by alpha where they are possible choices, infinity elsewhere."""
    exact = np.where(possible, 0.0, np.inf)
    for training, held in folds:
        if not held:
            continue
        for i, problem in enumerate(block.problems(training)):
            for a, alpha in enumerate(alphas):
                x, columns = _predict(problem, alpha, possible[i, a])
                for fold in held if columns.size else ():
                    values = fetch(problem.factor.held[fold].power(x))
                    exact[i, a, columns] += values[: columns.size]
    return exact


def _predict(problem: Problem, alpha: float, wanted: NDArray[np.bool_]) -> tuple[Array, Ints]:
    """Return s * c at one alpha of the targets that are wanted, padded, and which they are."""
    columns = np.flatnonzero(wanted)
    if not columns.size:
        return problem.c[:, :0], columns
    padded = pad_columns(columns)
    c = take(problem.c, padded)
    return problem.factor.basis.predict(c, np.full(len(padded), alpha)), columns


def can_be_least(lower: Floats, upper: Floats) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Tell which errors may be the least of all, or the least at the first ratio alone.

    Parameters
    ----------
    lower, upper : array, (n_ratios, n_alphas, n_targets)
        Bounds on the errors.

    Returns
    -------
    possible : array of bool, (n_ratios, n_alphas, n_targets)
    is_open : array of bool, (n_targets,)
        Where the bounds leave either undecided.
    """
    possible = np.zeros(lower.shape, dtype=bool)
    is_open = np.zeros(lower.shape[-1], dtype=bool)
    for n_ratios in (1, len(lower)):
        least = lower[:n_ratios] < upper[:n_ratios].min(axis=(0, 1))
        # Of exact ties, as where nothing is predicted, the one that would be chosen is enough.
        alpha, ratio = ridge.choose(upper[:n_ratios])
        least[ratio, alpha, np.arange(lower.shape[-1])] = True
        possible[:n_ratios] |= least
        is_open |= least.sum(axis=(0, 1)) > 1
    return possible, is_open


def gcv_errors(training: Training, block: Block, alphas: Floats) -> Floats:
    """Errors by generalised cross-validation, (n_ratios, n_alphas, n_targets)."""
    return np.stack(
        [
            ridge.gcv_errors(p.factor.basis, p.c, put(p.centred.yy), training.count, alphas)
            for p in block.problems(training)
        ]
    )


def loo_errors(training: Training, block: Block, alphas: Floats) -> Floats:
    """Exact leave-one-row-out errors with the standardisation held fixed.

    An error is at least the residual sum of squares over (1 - h)^2 at the least leverage h. The
    alpha that generalised cross-validation prefers is evaluated first, then those that these bounds
    and residuals in float32 leave over.

    Returns
    -------
    array, (n_ratios, n_alphas, n_targets)
    """
    return np.stack(
        [_loo_errors(training, problem, block, alphas) for problem in block.problems(training)]
    )


def _loo_errors(training: Training, problem: Problem, block: Block, alphas: Floats) -> Floats:
    basis = problem.factor.basis
    rows = _LeftOut(training, problem, block, alphas)
    yy = problem.centred.yy
    rss = fetch(ridge.residuals(basis, problem.c, put(yy), alphas, training.count))
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
    1 - leverage are sums of the shares 1 - s: subtractions would lose them at a small alpha.
    """

    def __init__(self, training: Training, problem: Problem, block: Block, alphas: Floats) -> None:
        self.problem, self.block = problem, block
        layout = problem.factor.coordinates.layout
        self.kept = ~np.isin(layout.folds, training.left_out)
        self.weights, self.weight = layout.weights, training.weight
        basis = problem.factor.basis
        self.filled = basis.fills(training.count)
        self.shares = basis.leave(alphas) if self.filled else basis.shrink(alphas)
        """Of c in the residual, or else in the prediction, (n_alphas, rank)."""
        self._only_chunk: tuple[Ints, Array] | None = None
        parts = [self._freedom(rows, z) for rows, z in self._chunks()]
        self.freedom = np.concatenate([free for free, _ in parts], axis=1)
        """1 - leverage, (n_alphas, n_kept)."""
        self._lengths = np.concatenate([length for _, length in parts])

    def errors(self, wanted: NDArray[np.bool_]) -> Floats:
        """Errors (n_alphas, n_targets) where they are wanted, infinity elsewhere."""
        errors = self._sums(wanted, lambda values: values)
        # A row that only itself determines, to the last bit, says nothing for that alpha.
        errors[np.isnan(errors)] = np.inf
        return errors

    def lower_errors(self, wanted: NDArray[np.bool_]) -> Floats:
        """Bounds below the errors where wanted, infinity elsewhere: from residuals in float32."""
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
        """Sum squared left-out residuals, (n_alphas, n_targets), computed as `cast` says."""
        errors = np.where(wanted, 0.0, np.inf)
        start = 0
        for rows, z in self._chunks():
            # Targets stand as rows: those that are wanted are then contiguous in memory.
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
