"""The alpha and ratio of least error, and the nested fit that chooses them in every outer fold.

By k-fold, least errors are found in two steps. Bounds on the errors of all (ratio, alpha) pairs are
cheap; only pairs whose lower bound lies below the least upper bound are computed exactly, in
float64. A pair that is not computed cannot be the least and has the error infinity.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradenc_core.arrays import Array, Floats, Ints, fetch, put, take
from gradenc_core.ridge.factorise import Design, Training
from gradenc_core.ridge.leave_one_out import loo_errors
from gradenc_core.ridge.options import RidgeOptions
from gradenc_core.ridge.quadratic import squared_predictions
from gradenc_core.ridge.scores import Centred, FoldScores, pad_columns, score, score_by_ratio
from gradenc_core.ridge.targets import Problem, TargetBlock

Validations = Sequence[tuple[Training, Sequence[tuple[int, int]]]]
"""Training sets, each with (fold that validates, outer set that it validates for)."""


@dataclass(frozen=True)
class Fit:
    """Scores and the chosen alphas and ratios, as grid indices; arrays (n_folds, n_targets)."""

    scores: FoldScores
    alpha: Ints
    ratio: Ints

    @classmethod
    def map(cls, function: Callable[..., NDArray[Any]], fits: Sequence[Fit]) -> Fit:
        """Apply a function, such as `np.stack`, to the arrays of several fits."""
        return cls(
            scores=FoldScores.map(function, [one.scores for one in fits]),
            alpha=function([one.alpha for one in fits]),
            ratio=function([one.ratio for one in fits]),
        )


def fit(design: Design, block: TargetBlock) -> tuple[Fit, ...]:
    """Choose, fit and score targets in every outer fold.

    Parameters
    ----------
    design : Design
    block : TargetBlock
        Finite targets near zero mean and unit variance.

    Returns
    -------
    tuple of Fit
        The fit with alpha and ratio chosen jointly. With two bands, a second one: the first band
        alone, with alphas chosen anew.
    """
    alphas = design.options.alpha_grid
    if design.options.selection == "kfold":
        pairs = [(t, [(a, b), (b, a)]) for t in design.inner for a, b in [t.left_out]]
        errors = kfold_errors(pairs, block, alphas)
        folds = [_fit_fold(design, t, block, e) for t, e in zip(design.outer, errors, strict=True)]
    else:
        folds = [
            _fit_fold(design, t, block, errors_within(t, block, design.options))
            for t in design.outer
        ]
    return tuple(Fit.map(np.stack, fits) for fits in zip(*folds, strict=True))


def _fit_fold(
    design: Design, training: Training, block: TargetBlock, errors: Floats
) -> tuple[Fit, ...]:
    (fold,) = training.left_out
    choices = [least_error(errors[:n]) for n in design.n_ratios]
    parts = _scored(design, training, block, fold, choices)
    return tuple(
        Fit(scores, alpha, ratio) for scores, (alpha, ratio) in zip(parts, choices, strict=True)
    )


def _scored(
    design: Design,
    training: Training,
    block: TargetBlock,
    fold: int,
    choices: Sequence[tuple[Ints, Ints]],
) -> list[FoldScores]:
    """Score the targets of one fold at their alphas and ratios, for every choice."""
    problems = block.problems(training)
    held = [problem.held(fold, block) for problem in problems]
    scores: list[FoldScores] = []
    for (alpha, ratio), n in zip(reversed(choices), reversed(design.n_ratios), strict=True):
        penalties = design.options.alpha_grid[alpha]

        def score_columns(i: int, columns: Ints, penalties: Floats = penalties) -> FoldScores:
            problem, (d, centred, bias) = problems[i], held[i]
            c = take(problem.c, columns)
            x = problem.factor.basis.predict(c, penalties[columns])
            rows = problem.factor.held[fold]
            return score(x, rows, take(d, columns), centred.take(columns), bias[columns])

        scores.insert(0, score_by_ratio(score_columns, ratio, n, scores[0] if scores else None))
    return scores


def least_error(errors: Floats) -> tuple[Ints, Ints]:
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


def kfold_errors(validations: Validations, block: TargetBlock, alphas: Floats) -> Floats:
    """Squared error on folds left out, summed over training sets.

    The squared predictions of all alphas come from one product, with a bound on its rounding.
    Where the bound leaves more than one candidate for the least, each is computed by itself.

    Parameters
    ----------
    validations : sequence
        See `Validations`.
    block : TargetBlock
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
    block: TargetBlock,
    alphas: Floats,
    known: Floats,
) -> None:
    """Add all terms of the squared error except the squared predictions; they cost little."""
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
    """Add squared predictions, and the bounds on their rounding."""
    basis = problem.factor.basis
    powers = [problem.factor.held[fold].power for fold, _ in pairs]
    all_squares = squared_predictions(basis.values, basis.shrink(alphas), powers, problem.c)
    for (_, outer), (found, off) in zip(pairs, all_squares, strict=True):
        squares[outer] += fetch(found)
        margin[outer] += fetch(off)


def _exact_squares(
    folds: Sequence[tuple[Training, Sequence[int]]],
    block: TargetBlock,
    alphas: Floats,
    possible: NDArray[np.bool_],
) -> Floats:
    """Squared predictions, alpha by alpha, of possible choices; infinity elsewhere."""
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
    """Return s * c of the wanted targets at one alpha, padded, and their columns."""
    columns = np.flatnonzero(wanted)
    if not columns.size:
        return problem.c[:, :0], columns
    padded = pad_columns(columns)
    c = take(problem.c, padded)
    return problem.factor.basis.predict(c, np.full(len(padded), alpha)), columns


def can_be_least(lower: Floats, upper: Floats) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Find errors that may be the least of all ratios, or the least of the first ratio alone.

    Parameters
    ----------
    lower, upper : array, (n_ratios, n_alphas, n_targets)
        Bounds on the errors.

    Returns
    -------
    possible : array of bool, (n_ratios, n_alphas, n_targets)
    is_open : array of bool, (n_targets,)
        Whether the bounds leave either of the two undecided.
    """
    possible = np.zeros(lower.shape, dtype=bool)
    is_open = np.zeros(lower.shape[-1], dtype=bool)
    for n_ratios in (1, len(lower)):
        least = lower[:n_ratios] < upper[:n_ratios].min(axis=(0, 1))
        # Among exact ties, as where nothing is predicted, keep only the pair that is chosen.
        alpha, ratio = least_error(upper[:n_ratios])
        least[ratio, alpha, np.arange(lower.shape[-1])] = True
        possible[:n_ratios] |= least
        is_open |= least.sum(axis=(0, 1)) > 1
    return possible, is_open


def errors_within(training: Training, block: TargetBlock, options: RidgeOptions) -> Floats:
    """Errors inside one training set by `gcv` or `loo`, (n_ratios, n_alphas, n_targets)."""
    errors = gcv_errors if options.selection == "gcv" else loo_errors
    return errors(training, block, options.alpha_grid)


def gcv_errors(training: Training, block: TargetBlock, alphas: Floats) -> Floats:
    """Errors by generalised cross-validation (Golub, Heath & Wahba 1979).

    Returns
    -------
    array, (n_ratios, n_alphas, n_targets)
        Residual sum of squares over (1 - df / n)^2, where df counts the intercept.
    """
    errors = []
    for problem in block.problems(training):
        basis = problem.factor.basis
        rss = basis.residuals(problem.c, put(problem.centred.yy), alphas, training.count)
        errors.append(fetch(rss) / basis.freedom(training.count, alphas) ** 2)
    return np.stack(errors)
