"""Choose, fit and score, nested over outer folds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradenc_core.arrays import Floats
from gradenc_core.ridge import basis as ridge
from gradenc_core.ridge.basis import Ints
from gradenc_core.ridge.choose import Block, gcv_errors, kfold_errors, loo_errors
from gradenc_core.ridge.factorise import Design, Training
from gradenc_core.ridge.scores import FoldScores, score, score_by_ratio, take

# Part of the algorithm's version: products of another width may differ in their last bits.
TARGET_WIDTH = 1024


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
