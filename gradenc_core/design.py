"""Features of a layer, factorised once for every training set that cross-validation needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradenc_core import ridge
from gradenc_core.moments import (
    Cells,
    FeatureMoments,
    Floats,
    TargetMoments,
    ordered_feature_moments,
    ordered_target_moments,
    weigh_rows,
)
from gradenc_core.ridge import Basis, CentredTargets, Ints, RidgeOptions, Scaler
from gradenc_core.scores import FoldScores, HeldOut, score_by_ratio

# Squared errors (n_ratios, n_alphas, n_targets) inside the training set of one outer fold.
InnerErrors = Callable[[int, CentredTargets, Sequence[Floats]], Floats]


@dataclass(frozen=True)
class Training:
    """One factorised training set: its standardisation and one basis per ratio."""

    scaler: Scaler
    bases: tuple[Basis, ...]

    @classmethod
    def of(cls, sums: FeatureMoments, scales: Sequence[Floats]) -> Training:
        """Factorise a training set's sums."""
        scaler = Scaler.of(sums)
        gram = scaler.gram(sums)
        return cls(scaler, tuple(ridge.factor(gram, scale) for scale in scales))

    def centre(self, targets: TargetMoments) -> CentredTargets:
        """Centre the targets of the training set."""
        return self.scaler.centre(self.scaler.weight, self.scaler.mean, targets)

    def project(self, centred: CentredTargets) -> list[Floats]:
        """Project X'Y on each basis."""
        return [basis.project(centred.xy) for basis in self.bases]


@dataclass(frozen=True)
class Outer:
    """An outer training set and the fold that scores it."""

    training: Training
    held: HeldOut

    def centre_held(self, targets: TargetMoments) -> CentredTargets:
        """Centre the targets of the held-out fold on their own means."""
        return self.training.scaler.centre(self.held.weight, self.held.mean, targets)


@dataclass(frozen=True)
class Validation:
    """A fold that validates an inner training set: `root` (p, rank) is about the training mean."""

    weight: float
    mean: Floats
    offset: Floats
    root: Floats

    @classmethod
    def of(cls, held: HeldOut) -> Validation:
        """Take the root of the held-out rows' moments about the training mean."""
        gram = held.gram + held.weight * np.outer(held.offset, held.offset)
        return cls(held.weight, held.mean, held.offset, ridge.root(gram))

    def centre(self, training: Training, sums: TargetMoments, y_mean: Floats) -> CentredTargets:
        """Centre the fold's targets on the training means."""
        own = training.scaler.centre(self.weight, self.mean, sums)
        shift = own.mean - y_mean
        xy = own.xy + self.weight * np.multiply.outer(self.offset, shift)
        return CentredTargets(y_mean, own.yy + self.weight * shift**2, xy)


@dataclass(frozen=True)
class Inner:
    """The training set without a pair of folds; each validates for the other as outer fold."""

    folds: tuple[int, int]
    training: Training
    validations: tuple[Validation, Validation]

    @classmethod
    def of(
        cls, features: FeatureMoments, folds: tuple[int, int], scales: Sequence[Floats]
    ) -> Inner:
        """Factorise the sums of the folds outside the pair."""
        training = Training.of(features.others(*folds), scales)
        first, second = (
            Validation.of(HeldOut.of(training.scaler, features.part(k))) for k in folds
        )
        return cls(folds, training, (first, second))


@dataclass(frozen=True)
class Design:
    """Features of one layer, factorised for every training set; made by `factorise`.

    Attributes
    ----------
    options : RidgeOptions
    bands : tuple of int or None
        Widths of the two bands; None for one.
    scales : tuple of array
        Per ratio, the scale of each column that takes part.
    cells : Cells
        Rows by fold; the arrays below hold rows in its order.
    x : array, (n_stimuli, n_features)
        Features less `features.shift`, float64.
    weighted : array, (n_stimuli, n_features + 1)
        Weighted features and, last, the weights, of mean 1.
    features : FeatureMoments
        Sums per fold.
    outer : tuple of Outer
        One training set per outer fold.
    inner : tuple of Inner
        One training set per pair of folds; empty unless alphas are chosen by k-fold.
    """

    options: RidgeOptions
    bands: tuple[int, ...] | None
    scales: tuple[Floats, ...]
    cells: Cells
    x: Floats
    weighted: Floats
    features: FeatureMoments
    outer: tuple[Outer, ...]
    inner: tuple[Inner, ...]

    @property
    def n_ratios(self) -> tuple[int, ...]:
        """How many ratios each fit may choose from: all, then (with two bands) the first, 0."""
        return (len(self.scales),) if self.bands is None else (len(self.scales), 1)

    @property
    def fold_of(self) -> Ints:
        """Fold of each row in the order of the cells, (n_stimuli,)."""
        return np.repeat(np.arange(self.cells.shape[0]), np.diff(self.cells.edges))


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


def factorise(
    x: NDArray[Any],
    folds: NDArray[np.integer],
    weights: NDArray[Any] | None = None,
    options: RidgeOptions | None = None,
    bands: tuple[int, ...] | None = None,
) -> Design:
    """Factorise features once for every fold, to score any number of targets.

    Parameters
    ----------
    x : array, (n_stimuli, n_features)
        Features; with two bands, `[F | G]`.
    folds : array of int, (n_stimuli,)
        Fold of each stimulus, every one from 0 to n_folds - 1 in use.
    weights : array, (n_stimuli,), optional
        Number of repeats averaged in each row; normalised to mean 1.
    options : RidgeOptions, optional
    bands : tuple of int, optional
        Widths (n_f, n_g) of the two bands; None for one band.

    Raises
    ------
    ValueError
        If rows mismatch, a fold is empty, there are fewer stimuli than folds, features are not
        finite, weights are not positive, or bands do not add up.
    """
    options = RidgeOptions() if options is None else options
    x, folds = np.asarray(x), np.asarray(folds)
    weights = np.ones(len(x)) if weights is None else np.asarray(weights, dtype=np.float64)
    _check_rows(x, folds, weights)
    _check_folds(folds, options.selection)
    _check_bands(x.shape[1], bands)
    cells = Cells.of(folds)
    shift = cells.first_mean(x)
    ordered = x[cells.order] - shift
    weighted = weigh_rows(ordered, (weights / weights.mean())[cells.order])
    features = ordered_feature_moments(cells, weighted, ordered, shift).per_fold()
    ratios = [1.0] if bands is None else options.ratio_grid.tolist()
    scales = tuple(ridge.band_scale(x.shape[1], bands, ratio) for ratio in ratios)
    outer = tuple(_outer(features, k, scales) for k in range(cells.shape[0]))
    pairs = combinations(range(cells.shape[0]), 2) if options.selection == "kfold" else ()
    inner = tuple(Inner.of(features, pair, scales) for pair in pairs)
    return Design(options, bands, scales, cells, ordered, weighted, features, outer, inner)


def fit(design: Design, rows: Floats) -> tuple[Fit, ...]:
    """Choose, fit and score targets in every outer fold.

    Parameters
    ----------
    design : Design
    rows : array, (n_stimuli, n_targets)
        Finite targets near zero mean and unit variance, rows in the order of the design's cells.

    Returns
    -------
    tuple of Fit
        The fit with alpha and ratio chosen jointly; with two bands, then that of the first band
        alone, its alphas chosen anew.
    """
    shift = np.zeros(rows.shape[1])
    targets = ordered_target_moments(design.cells, design.weighted, rows, shift).per_fold()
    inner_errors = _SELECTIONS[design.options.selection](design, targets, rows)
    folds = []
    for k, outer in enumerate(design.outer):
        centred = outer.training.centre(targets.others(k))
        projected = outer.training.project(centred)
        errors = inner_errors(k, centred, projected)
        held = outer.centre_held(targets.part(k))
        folds.append(_fit_fold(design, outer, projected, errors, held, held.mean - centred.mean))
    return tuple(Fit.map(np.stack, fits) for fits in zip(*folds, strict=True))


def _outer(features: FeatureMoments, k: int, scales: Sequence[Floats]) -> Outer:
    training = Training.of(features.others(k), scales)
    return Outer(training, HeldOut.of(training.scaler, features.part(k)))


def _fit_fold(
    design: Design,
    outer: Outer,
    projected: Sequence[Floats],
    errors: Floats,
    held: CentredTargets,
    bias: Floats,
) -> tuple[Fit, ...]:
    bases, sizes = outer.training.bases, [len(scale) for scale in design.scales]
    fits: tuple[Fit, ...] = ()
    for n in reversed(design.n_ratios):
        alpha, ratio = ridge.choose(errors[:n])
        penalties = design.options.alpha_grid[alpha]

        def weigh(i: int, columns: Ints, penalties: Floats = penalties) -> Floats:
            return bases[i].weigh(projected[i].take(columns, axis=1), penalties[columns])

        off = fits[0].scores if fits else None
        scores = score_by_ratio(weigh, ratio, sizes[:n], outer.held, held, bias, off)
        fits = (Fit(scores, alpha, ratio), *fits)
    return fits


def _gcv(design: Design, targets: TargetMoments, rows: Floats) -> InnerErrors:
    alphas = design.options.alpha_grid

    def errors(k: int, centred: CentredTargets, projected: Sequence[Floats]) -> Floats:
        training = design.outer[k].training
        count = training.scaler.count
        pairs = zip(training.bases, projected, strict=True)
        return np.stack([ridge.gcv_errors(b, c, centred.yy, count, alphas) for b, c in pairs])

    return errors


def _loo(design: Design, targets: TargetMoments, rows: Floats) -> InnerErrors:
    alphas = design.options.alpha_grid
    fold_of = design.fold_of

    def errors(k: int, centred: CentredTargets, projected: Sequence[Floats]) -> Floats:
        training, kept = design.outer[k].training, fold_of != k
        x = (design.x[kept] - training.scaler.mean) * training.scaler.unit
        y, weights = rows[kept] - centred.mean, design.weighted[kept, -1]
        ratios = []
        for basis, c in zip(training.bases, projected, strict=True):
            z = x[:, : len(basis.vectors)] @ basis.vectors
            ratios.append(ridge.loo_errors(basis, c, z, y, weights, alphas))
        return np.stack(ratios)

    return errors


def _kfold(design: Design, targets: TargetMoments, rows: Floats) -> InnerErrors:
    alphas = design.options.alpha_grid
    shape = (len(design.outer), len(design.scales), len(alphas), rows.shape[1])
    pooled = np.zeros(shape)
    for inner in design.inner:
        training = inner.training
        centred = training.centre(targets.others(*inner.folds))
        projected = training.project(centred)
        outer_folds = reversed(inner.folds)
        for fold, outer, held in zip(inner.folds, outer_folds, inner.validations, strict=True):
            validation = held.centre(training, targets.part(fold), centred.mean)
            for i, (basis, c) in enumerate(zip(training.bases, projected, strict=True)):
                pooled[outer, i] += ridge.held_out_errors(basis, c, held.root, validation, alphas)
    return lambda k, centred, projected: pooled[k]


_SELECTIONS = {"gcv": _gcv, "loo": _loo, "kfold": _kfold}


def _check_rows(x: NDArray[Any], folds: NDArray[Any], weights: Floats) -> None:
    if x.ndim != 2:
        raise ValueError(f"features have shape {x.shape}; give (n_stimuli, n_features).")
    for name, rows in (("folds", folds), ("weights", weights)):
        if rows.shape != (len(x),):
            raise ValueError(
                f"{name} has shape {rows.shape} but the features have {len(x)} rows; give one "
                "value per stimulus."
            )
    if not np.isfinite(weights).all() or (weights <= 0).any():
        raise ValueError("weights hold values that are not positive; give numbers of repeats.")
    broken = ~np.isfinite(x).all(axis=0)
    if broken.any():
        raise ValueError(
            f"{broken.sum()} of {x.shape[1]} features hold values that are not finite, the first "
            f"in column {broken.argmax()}; extract them again."
        )


def _check_folds(folds: NDArray[np.integer], selection: str) -> None:
    n_folds = int(folds.max(initial=-1)) + 1
    needed = 3 if selection == "kfold" else 2
    if folds.min(initial=0) < 0 or n_folds < needed:
        raise ValueError(
            f"folds run from {folds.min(initial=0)} to {n_folds - 1}; number them from 0, with at "
            f"least {needed} for selection {selection!r}."
        )
    if len(folds) < n_folds:
        raise ValueError(f"{len(folds)} stimuli cannot fill {n_folds} folds; lower n_folds.")
    empty = sorted(set(range(n_folds)) - set(folds.tolist()))
    if empty:
        raise ValueError(f"fold {empty[0]} of {n_folds} holds no stimulus; use assign_folds.")


def _check_bands(n_features: int, bands: tuple[int, ...] | None) -> None:
    if bands is None:
        return
    if len(bands) != 2 or min(bands) < 1 or sum(bands) != n_features:
        raise ValueError(
            f"bands is {bands}; give two positive widths that add up to {n_features} features."
        )
