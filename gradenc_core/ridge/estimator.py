"""Choose each target's alpha and fit all stimuli with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradenc_core.arrays import Floats, fetch
from gradenc_core.ridge import basis as ridge
from gradenc_core.ridge.basis import Ints, RidgeOptions
from gradenc_core.ridge.choose import Block, gcv_errors, kfold_errors, loo_errors
from gradenc_core.ridge.factorise import Training, read, standardised_columns, train
from gradenc_core.ridge.fitting import TARGET_WIDTH, centre
from gradenc_core.ridge.float32 import Float32
from gradenc_core.ridge.moments import Coordinates, Rows
from gradenc_core.ridge.scores import score

# Of float64 targets, relative to their mean.
ROUNDING_SD = 1e-13
# Squared mean over variance, and variance, of targets that are fitted as they are: to take off the
# mean would save no more than a digit, and errors of any unit are compared alike.
NEAR, FAR = 100.0, 1e12


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

    Encoding scores come from `gradenc_core.ridge.encode.encode`, which nests the choice.

    Parameters
    ----------
    x : array or other rows, (n_stimuli, n_features)
    y : array, (n_stimuli, n_targets)
        Finite. By `gcv`, float32 targets are multiplied in float32 where that gives the same alpha
        and predictions within 1e-5 of their sd (`gradenc_core.ridge.float32`).
    folds : array of int, (n_stimuli,)
        Needed for selection by k-fold only.
    weights : array, (n_stimuli,), optional
        Number of repeats averaged in each row.
    options : RidgeOptions, optional

    Raises
    ------
    ValueError
        As for `factorise`, or if `y` has other rows, or it or its squares are
        not finite.
    """
    options = RidgeOptions() if options is None else options
    y = np.asarray(y)
    folds = np.zeros(len(y), dtype=int) if folds is None else folds
    coordinates = read(x, folds, weights)
    _check_targets(coordinates, y, options)
    features = _Features.of(coordinates, options)
    fitted = _Fitted.empty(coordinates.x.shape[1], y.shape[1], len(features.others))
    for columns, part in _fits(features, y):
        fitted.fill(columns, part)
    varied = fitted.alpha[~fitted.is_constant]
    return Ridge(
        alpha=fitted.alpha,
        weights=fitted.weights,
        intercept=fitted.intercept,
        r=fitted.r if features.others else None,
        constant=int(fitted.is_constant.sum()),
        lowest_alpha=int((varied == options.alpha_grid[-1]).sum()),
        highest_alpha=int((varied == options.alpha_grid[0]).sum()),
    )


@dataclass(frozen=True)
class _Fitted:
    """Arrays of a `Ridge`, (..., n_targets)."""

    alpha: Floats
    weights: Floats
    intercept: Floats
    r: Floats
    is_constant: NDArray[np.bool_]

    @classmethod
    def empty(cls, n_features: int, n_targets: int, n_folds: int) -> _Fitted:
        """Make room for targets that are fitted block by block."""
        return cls(
            alpha=np.empty(n_targets),
            weights=np.empty((n_features, n_targets)),
            intercept=np.empty(n_targets),
            r=np.empty((n_folds, n_targets)),
            is_constant=np.empty(n_targets, dtype=bool),
        )

    def fill(self, columns: Ints | slice, part: _Fitted) -> None:
        """Write some of the targets."""
        for f in fields(self):
            getattr(self, f.name)[..., columns] = getattr(part, f.name)


def _fits(features: _Features, y: NDArray[Any]) -> Iterator[tuple[Ints | slice, _Fitted]]:
    """Yield which targets are fitted, and their fits; those given last hold."""
    blocks: Sequence[Ints | slice] = _blocks(y.shape[1])
    fast = features.in_float32() if y.dtype == np.float32 else None
    if fast is not None:
        is_decided = np.empty(y.shape[1], dtype=bool)
        for columns in blocks:
            # What float32 cannot hold becomes infinite or NaN, and is not decided.
            with np.errstate(over="ignore", invalid="ignore"):
                known, alpha, is_decided[columns] = fast.choose(y[:, columns])
                fitted = features.fit_at(known, alpha)
            yield columns, fitted
        rest = np.flatnonzero(~is_decided)
        blocks = [rest[columns] for columns in _blocks(len(rest))]
    # One memory for all blocks: a fresh one costs as much as converting the targets.
    memory = np.empty(len(y) * min(y.shape[1], TARGET_WIDTH))
    for columns in blocks:
        part = y[:, columns]
        block = memory[: part.size].reshape(part.shape)
        block[:] = part
        yield columns, features.fit(block)


def _blocks(n_targets: int) -> list[slice]:
    return [slice(i, i + TARGET_WIDTH) for i in range(0, n_targets, TARGET_WIDTH)]


@dataclass(frozen=True)
class _Features:
    """Features factorised on all stimuli and, for selection by k-fold, on all but each fold."""

    coordinates: Coordinates
    options: RidgeOptions
    whole: Training
    others: tuple[Training, ...]

    @classmethod
    def of(cls, coordinates: Coordinates, options: RidgeOptions) -> _Features:
        """Factorise features."""
        n_folds = coordinates.layout.shape[0] if options.selection == "kfold" else 0
        sets: list[tuple[int, ...]] = [(), *((k,) for k in range(n_folds))]
        whole, *others = train(coordinates, sets, options, None)
        return cls(coordinates, options, whole, tuple(others))

    def in_float32(self) -> Float32 | None:
        """Return what fits in float32, where that saves time.

        Only selection by `gcv` gains much. A kernel of stimuli (dual form) has float64's rounding
        in the directions of its least eigenvalues, which would enlarge that of float32 unseen.
        """
        (factor,) = self.whole.factors
        if self.options.selection != "gcv" or factor.combination is not None:
            return None
        return Float32(self.whole, self.options.alpha_grid)

    def fit(self, y: Floats) -> _Fitted:
        """Fit targets, (n_stimuli, n_targets), which may be changed in place."""
        mean, scale, is_constant = _standardise(y)
        block = Block(y, keep=1 + len(self.others))
        index, _ = ridge.choose(self._errors(block))
        fitted = self.fit_at(block, self.options.alpha_grid[index])
        weights = fitted.weights * scale
        intercept = mean + fitted.intercept * scale
        return replace(fitted, weights=weights, intercept=intercept, is_constant=is_constant)

    def fit_at(self, block: Block, alpha: Floats) -> _Fitted:
        """Fit targets that vary at given alphas, (n_targets,)."""
        r = np.empty((len(self.others), len(alpha)))
        for i, training in enumerate(self.others):
            r[i] = _r(training, block, alpha)
        weights, intercept = self._weights(block, alpha)
        return _Fitted(alpha, weights, intercept, r, np.zeros(len(alpha), dtype=bool))

    def _errors(self, block: Block) -> Floats:
        """Errors that alphas are chosen by, (1, n_alphas, n_targets)."""
        grid = self.options.alpha_grid
        if self.options.selection == "kfold":
            pairs = [(t, [(t.left_out[0], 0)]) for t in self.others]
            errors: Floats = kfold_errors(pairs, block, grid)[0]
            return errors
        return {"gcv": gcv_errors, "loo": loo_errors}[self.options.selection](
            self.whole, block, grid
        )

    def _weights(self, block: Block, alpha: Floats) -> tuple[Floats, Floats]:
        """Return weights (n_features, n_targets) and intercept in units of the features."""
        (problem,) = block.problems(self.whole)
        factor = problem.factor
        x = factor.basis.predict(problem.c, alpha)
        if factor.combination is None:
            found = fetch(factor.basis.vectors @ x)
            beta, offset = found[1:], found[0]
        else:
            beta, offset = _weights_of_rows(
                self.coordinates, fetch(factor.combination @ x), self.options.standardise
            )
        return beta, offset + problem.centred.mean - self.coordinates.shift @ beta


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
        is_near = (squares < NEAR * variance) & (variance > 1 / FAR) & (variance < FAR)
    if is_near.all():
        return np.zeros(y.shape[1]), np.ones(y.shape[1]), np.zeros(y.shape[1], dtype=bool)
    mean, scale, is_constant = centre(y, ROUNDING_SD)
    if np.isinf(scale).any():
        raise ValueError(
            f"{np.isinf(scale).sum()} targets have squares beyond float64; use other units."
        )
    y *= 1.0 / scale
    return mean, scale, is_constant


def _r(training: Training, block: Block, alpha: Floats) -> Floats:
    (problem,) = block.problems(training)
    (fold,) = training.left_out
    d, centred, bias = problem.held(fold, block)
    x = problem.factor.basis.predict(problem.c, alpha)
    return score(x, problem.factor.held[fold], d, centred, bias).r


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
