"""Choose, fit and score: nested over outer folds, or once for all stimuli."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradenc_core import float32, ridge
from gradenc_core.design import Design, Training, read, standardised_columns, train
from gradenc_core.device import Floats, fetch
from gradenc_core.moments import Coordinates, Rows
from gradenc_core.ridge import Ints, RidgeOptions
from gradenc_core.scores import FoldScores, score, score_by_ratio, take
from gradenc_core.selection import Block, gcv_errors, kfold_errors, loo_errors

# Part of the algorithm's version: products of another width may differ in their last bits.
TARGET_WIDTH = 1024
# Of float64 targets, relative to their mean.
ROUNDING_SD = 1e-13
# Squared mean over variance, and variance, of targets that are fitted as they are: to take off the
# mean would save no more than a digit, and errors of any unit are compared alike.
NEAR, FAR = 100.0, 1e12


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


def fit(design: Design, block: Block) -> tuple[Fit, ...]:
    """Choose, fit and score targets in every outer fold.

    Parameters
    ----------
    design : Design
    block : Block
        Finite targets near zero mean and unit variance.

    Returns
    -------
    tuple of Fit
        The fit with alpha and ratio chosen jointly; with two bands, then that of the first band
        alone, its alphas chosen anew.
    """
    alphas = design.options.alpha_grid
    if design.options.selection == "kfold":
        pairs = [(t, [(a, b), (b, a)]) for t in design.inner for a, b in [t.left_out]]
        errors = kfold_errors(pairs, block, alphas)
        folds = [_fit_fold(design, t, block, e) for t, e in zip(design.outer, errors, strict=True)]
    else:
        choose_by = {"gcv": gcv_errors, "loo": loo_errors}[design.options.selection]
        folds = [_fit_fold(design, t, block, choose_by(t, block, alphas)) for t in design.outer]
    return tuple(Fit.map(np.stack, fits) for fits in zip(*folds, strict=True))


def _fit_fold(design: Design, training: Training, block: Block, errors: Floats) -> tuple[Fit, ...]:
    (fold,) = training.left_out
    choices = [ridge.choose(errors[:n]) for n in design.n_ratios]
    parts = _scored(design, training, block, fold, choices)
    return tuple(
        Fit(scores, alpha, ratio) for scores, (alpha, ratio) in zip(parts, choices, strict=True)
    )


def _scored(
    design: Design,
    training: Training,
    block: Block,
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


@dataclass(frozen=True)
class Ridge:
    """A ridge fitted on all stimuli, one alpha per target.

    Attributes
    ----------
    alpha : array, (n_targets,)
    weights : array, (n_features, n_targets)
        In the units of features and targets.
    intercept : array, (n_targets,)
    r : array, (n_folds, n_targets), or None
        Pearson correlation on each fold by the ridge of the other folds at the chosen alpha; only
        for selection by k-fold. As alpha was chosen on the same folds, it is no nested score.
    constant : int
        Targets without variance; their weights are 0, their r is NaN.
    lowest_alpha, highest_alpha : int
        Targets with variance whose alpha is at an edge of the grid.
    """

    alpha: Floats
    weights: Floats
    intercept: Floats
    r: Floats | None
    constant: int
    lowest_alpha: int
    highest_alpha: int


def fit_ridge(
    x: Rows,
    y: NDArray[Any],
    folds: NDArray[np.integer] | None = None,
    weights: NDArray[Any] | None = None,
    options: RidgeOptions | None = None,
) -> Ridge:
    """Choose each target's alpha by cross-validation and fit all stimuli with it.

    Encoding scores come from `gradenc_core.encoding.encode`, which nests the choice.

    Parameters
    ----------
    x : array or other rows, (n_stimuli, n_features)
    y : array, (n_stimuli, n_targets)
        Finite. By `gcv`, float32 targets are multiplied in float32 where that changes no alpha.
    folds : array of int, (n_stimuli,)
        Needed for selection by k-fold only.
    weights : array, (n_stimuli,), optional
        Number of repeats averaged in each row.
    options : RidgeOptions, optional

    Raises
    ------
    ValueError
        As for `gradenc_core.design.factorise`, or if `y` has other rows, or it or its squares are
        not finite.
    """
    options = RidgeOptions() if options is None else options
    y = np.asarray(y)
    folds = np.zeros(len(y), dtype=int) if folds is None else folds
    coordinates = read(x, folds, weights)
    _check_targets(coordinates, y, options)
    n_folds = coordinates.layout.shape[0] if options.selection == "kfold" else 0
    sets: list[tuple[int, ...]] = [(), *((k,) for k in range(n_folds))]
    whole, *others = train(coordinates, sets, options, None)
    width, n_targets = coordinates.x.shape[1], y.shape[1]
    fitted = _Fitted(
        alpha=np.empty(n_targets),
        weights=np.empty((width, n_targets)),
        intercept=np.empty(n_targets),
        r=np.empty((len(others), n_targets)),
        is_constant=np.zeros(n_targets, dtype=bool),
    )
    in_float32 = options.selection == "gcv" and y.dtype == np.float32
    error = float32.residual_error(whole, options.alpha_grid) if in_float32 else np.array(np.inf)
    # One memory for all blocks: a fresh one costs as much as converting the targets.
    memory = np.empty(len(y) * min(n_targets, TARGET_WIDTH))
    for start in range(0, n_targets, TARGET_WIDTH):
        columns = slice(start, start + TARGET_WIDTH)
        part, out = y[:, columns], fitted.part(columns)
        rest: Ints | slice = slice(None)
        if error.min() < float32.TOLERANCE:
            rest = _fit_in_float32(coordinates, whole, part, error, options, out)
        part = part[:, rest]
        block = memory[: part.size].reshape(part.shape)
        block[:] = part
        if block.size:
            out.fill(rest, _fit_block(coordinates, whole, others, block, options))
    varied = fitted.alpha[~fitted.is_constant]
    return Ridge(
        alpha=fitted.alpha,
        weights=fitted.weights,
        intercept=fitted.intercept,
        r=fitted.r if others else None,
        constant=int(fitted.is_constant.sum()),
        lowest_alpha=int((varied == options.alpha_grid[-1]).sum()),
        highest_alpha=int((varied == options.alpha_grid[0]).sum()),
    )


@dataclass(frozen=True)
class _Fitted:
    """Arrays of a `Ridge`, (..., n_targets), that are filled block by block."""

    alpha: Floats
    weights: Floats
    intercept: Floats
    r: Floats
    is_constant: NDArray[np.bool_]

    def part(self, columns: slice) -> _Fitted:
        """Return views of a block of targets."""
        return _Fitted(**{f.name: getattr(self, f.name)[..., columns] for f in fields(self)})

    def fill(self, columns: Ints | slice, part: _Fitted) -> None:
        """Write some of the targets."""
        for f in fields(self):
            getattr(self, f.name)[..., columns] = getattr(part, f.name)


def _fit_in_float32(
    coordinates: Coordinates,
    whole: Training,
    y: NDArray[np.float32],
    error: Floats,
    options: RidgeOptions,
    out: _Fitted,
) -> Ints:
    """Fit a block of targets, (n_stimuli, n_targets), and return those that need float64."""
    block = Block(y, in_float32=True)
    with np.errstate(over="ignore", invalid="ignore"):
        errors, margin = float32.gcv_errors(whole, block, options.alpha_grid, error)
        is_decided = float32.are_decided(errors, margin, error)
        (problem,) = block.problems(whole)
        is_decided &= _is_near(problem.centred.mean**2, problem.centred.yy / whole.weight)
    index, _ = ridge.choose(errors)
    out.alpha[:] = options.alpha_grid[index]
    beta, out.intercept[:] = _weights(coordinates, whole, block, out.alpha, options.standardise)
    out.weights[:] = beta
    return np.flatnonzero(~is_decided)


def _fit_block(
    coordinates: Coordinates,
    whole: Training,
    others: Sequence[Training],
    y: Floats,
    options: RidgeOptions,
) -> _Fitted:
    """Fit a block of targets, (n_stimuli, n_targets), which may be changed in place."""
    mean, scale, is_constant = _standardise(y)
    block = Block(y, keep=1 + len(others))
    grid = options.alpha_grid
    if options.selection == "kfold":
        pairs = [(t, [(t.left_out[0], 0)]) for t in others]
        errors = kfold_errors(pairs, block, grid)[0]
    else:
        errors = {"gcv": gcv_errors, "loo": loo_errors}[options.selection](whole, block, grid)
    index, _ = ridge.choose(errors)
    alpha = grid[index]
    r = np.empty((len(others), len(alpha)))
    for i, training in enumerate(others):
        r[i] = _r(training, block, alpha)
    beta, intercept = _weights(coordinates, whole, block, alpha, options.standardise)
    beta *= scale
    return _Fitted(alpha, beta, mean + intercept * scale, r, is_constant)


def _standardise(y: Floats) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Centre and scale targets in place, unless all are near enough to what they would become.

    Returns
    -------
    mean, scale : array, (n_targets,)
        What was taken off, and divided by.
    is_constant : array of bool, (n_targets,)

    Raises
    ------
    ValueError
        If squares are not finite.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        squares = y.mean(axis=0) ** 2
        variance = np.einsum("ij,ij->j", y, y) / len(y) - squares
        is_near = _is_near(squares, variance)
    if is_near.all():
        return np.zeros(y.shape[1]), np.ones(y.shape[1]), np.zeros(y.shape[1], dtype=bool)
    mean, scale, is_constant = centre(y, ROUNDING_SD)
    if np.isinf(scale).any():
        raise ValueError(
            f"{np.isinf(scale).sum()} targets have squares beyond float64; use other units."
        )
    y *= 1.0 / scale
    return mean, scale, is_constant


def _is_near(squared_mean: Floats, variance: Floats) -> NDArray[np.bool_]:
    return (squared_mean < NEAR * variance) & (variance > 1 / FAR) & (variance < FAR)


def centre(y: Floats, zero: float) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Take the mean off every column in place; columns without variance become 0.

    Parameters
    ----------
    y : array, (n_stimuli, n_targets)
    zero : float
        Standard deviation over mean that is no more than rounding.

    Returns
    -------
    mean, scale : array, (n_targets,)
        Standard deviation, 1 for columns without variance.
    is_constant : array of bool, (n_targets,)
    """
    mean: Floats = y.mean(axis=0)
    y -= mean
    scale = np.sqrt(np.einsum("ij,ij->j", y, y) / len(y))
    is_constant = np.array(scale <= zero * np.abs(mean))
    y[:, is_constant] = 0.0
    scale[is_constant] = 1.0
    return mean, scale, is_constant


def _r(training: Training, block: Block, alpha: Floats) -> Floats:
    (problem,) = block.problems(training)
    (fold,) = training.left_out
    d, centred, bias = problem.held(fold, block)
    x = problem.factor.basis.predict(problem.c, alpha)
    return score(x, problem.factor.held[fold], d, centred, bias).r


def _weights(
    coordinates: Coordinates, whole: Training, block: Block, alpha: Floats, standardise: bool
) -> tuple[Floats, Floats]:
    """Return weights (n_features, n_targets) and intercept in units of the features."""
    (problem,) = block.problems(whole)
    factor = problem.factor
    x = factor.basis.predict(problem.c, alpha)
    if factor.combination is None:
        found = fetch(factor.basis.vectors @ x)
        beta, offset = found[1:], found[0]
    else:
        beta, offset = _weights_of_rows(coordinates, fetch(factor.combination @ x), standardise)
    return beta, offset + problem.centred.mean - coordinates.shift @ beta


def _weights_of_rows(
    coordinates: Coordinates, rows: Floats, standardise: bool
) -> tuple[Floats, Floats]:
    """Return weights and offset about the shift from weights of the rows, (n_stimuli, n)."""
    beta = np.empty((coordinates.x.shape[1], rows.shape[1]))
    offset = np.zeros(rows.shape[1])
    every = np.ones(len(rows), dtype=bool)
    for columns, scaler, standardised in standardised_columns(coordinates, every, standardise):
        beta[columns] = scaler.unit[:, None] * (standardised.T @ rows)
        offset -= scaler.mean @ beta[columns]
    return beta, offset


def _check_targets(coordinates: Coordinates, y: Floats, options: RidgeOptions) -> None:
    n = coordinates.x.shape[0]
    if y.ndim != 2 or len(y) != n or not y.shape[1]:
        raise ValueError(
            f"targets have shape {y.shape} but the features have {n} rows; give (n_stimuli, "
            "n_targets) for the same stimuli."
        )
    broken = ~np.isfinite(y).all(axis=0)
    if broken.any():
        raise ValueError(
            f"{broken.sum()} of {y.shape[1]} targets hold values that are not finite, the first in "
            f"column {broken.argmax()}; leave them out, or use encode, which gives them NaN."
        )
    if options.selection == "kfold" and coordinates.layout.shape[0] < 2:
        raise ValueError("selection 'kfold' needs at least 2 folds; give `folds`.")
