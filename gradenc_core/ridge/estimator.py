"""`RidgeCV`: one ridge on all stimuli with scikit-learn's interface, for weights and predictions.

It shares the factorisation and the choice of alphas with `encode`, whose scores nest that choice in
outer folds; so both choose alike, and a model's weights can be looked at beside its scores.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, MultiOutputMixin, RegressorMixin
from sklearn.model_selection import check_cv
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from gradenc_core.arrays import Array, Floats, Ints, fetch, take
from gradenc_core.ridge.choose import errors_within, kfold_errors, least_error
from gradenc_core.ridge.factorise import Factor, Training, scales_of, standardised_columns, train
from gradenc_core.ridge.moments import Coordinates, RowGroups, first_mean
from gradenc_core.ridge.options import RidgeOptions
from gradenc_core.ridge.targets import TARGET_WIDTH, TargetBlock, centre

# Standard deviation over mean at or below which a float64 target only varies by rounding.
ROUNDING_SD = 1e-13
UNTESTED = -1
DTYPES = (np.float64, np.float32)


class RidgeCV(MultiOutputMixin, RegressorMixin, BaseEstimator):
    """Ridge regression with an alpha, and with two bands a ratio, chosen for every target.

    Parameters
    ----------
    alphas : sequence of float
        Positive penalties to choose from. They are for the squared error summed over stimuli, as
        in scikit-learn's `Ridge`, so that they grow with the number of stimuli.
    cv : int, splitter, iterable of (train, test), "loo" or "gcv"
        How alphas and ratios are chosen: by k-fold cross-validation over splits whose test sets do
        not overlap (an integer is a number of consecutive folds), by exact leave-one-stimulus-out
        with fixed standardisation, or by generalised cross-validation.
    bands : (int, int), optional
        Numbers of features of two bands, which stand side by side in the columns of `X`. None is
        one band.
    band_ratios : sequence of float
        Squared scales of the second band to choose from, with 0 (band off) among them. At a ratio
        the second band's penalty is alpha / ratio. Without `bands` they are not used.
    standardise : bool
        Whether features are divided by their standard deviation, as in `encode`. If false, they are
        only centred, as in scikit-learn's and himalaya's ridges.

    Attributes
    ----------
    coef_ : array, (n_targets, n_features) or (n_features,)
        Weights, in units of target per unit of feature.
    intercept_ : array, (n_targets,), or float
        In units of the target.
    alpha_ : array, (n_targets,), or float
    best_score_ : array, (n_targets,), or float
        Minus the cross-validated mean squared error at the chosen alpha and ratio, in squared units
        of the target. The choice has seen it: for scores of a model, use `encode`.
    band_ratio_ : array, (n_targets,), or float
        Only with two bands.
    n_features_in_ : int
    feature_names_in_ : array, (n_features,)
        Only where `X` has names of columns.

    See Also
    --------
    gradenc_core.ridge.encode.encode : held-out scores of every target, the choice of alpha nested

    Notes
    -----
    Attributes lack the axis of targets where `y` has shape (n_stimuli,). The method and its sources
    are in docs/ridge.md; two bands are the banded ridge of Nunez-Elizalde et al. (2019).

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((100, 8))
    >>> Y = X @ rng.standard_normal((8, 3)) + rng.standard_normal((100, 3))
    >>> ridge = RidgeCV(alphas=np.logspace(0, 4, 5), cv=5).fit(X, Y)
    >>> ridge.coef_.shape, ridge.alpha_.shape
    ((3, 8), (3,))
    >>> ridge.predict(X[:2]).shape
    (2, 3)

    Two bands, the second of which may be off for some targets:

    >>> RidgeCV(bands=(5, 3)).fit(X, Y).band_ratio_.shape
    (3,)
    """

    def __init__(
        self,
        alphas: Sequence[float] = RidgeOptions.alphas,
        *,
        cv: int | Any | Iterable[tuple[Ints, Ints]] | Literal["loo", "gcv"] = 5,
        bands: tuple[int, int] | None = None,
        band_ratios: Sequence[float] = RidgeOptions.ratios,
        standardise: bool = True,
    ) -> None:
        self.alphas = alphas
        self.cv = cv
        self.bands = bands
        self.band_ratios = band_ratios
        self.standardise = standardise

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Choose every target's alpha and fit all stimuli with it.

        Parameters
        ----------
        X : array, (n_stimuli, n_features)
        y : array, (n_stimuli, n_targets) or (n_stimuli,)
        sample_weight : array, (n_stimuli,), optional
            Weights of the squared errors, such as numbers of repeats; a weight of 2 is a stimulus
            that stands twice in `X`.

        Raises
        ------
        ValueError
            If shapes do not match, values are not finite, splits overlap, or parameters are out of
            range.
        """
        X, y = validate_data(self, X, y, multi_output=True, y_numeric=True, dtype=DTYPES)
        weights = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
        kept = weights > 0
        if kept.sum() < 2:
            raise ValueError(
                f"n_samples={kept.sum()} of weight above 0; give at least two stimuli."
            )
        folds = _assign_folds(self.cv, X, y)
        features = _Features.of(X[kept], folds[kept], weights[kept], self._options(), self.bands)
        targets = np.asarray(y, dtype=np.float64).reshape(len(y), -1)[kept]
        blocks = range(0, targets.shape[1], TARGET_WIDTH)
        fits = [features.fit(targets[:, i : i + TARGET_WIDTH]) for i in blocks]
        fitted = {name: np.concatenate([fit[name] for fit in fits], axis=-1) for name in fits[0]}
        if y.ndim == 1:
            fitted = {name: values[..., 0] for name, values in fitted.items()}
        self.coef_ = fitted["coef"].T
        self.intercept_, self.alpha_ = fitted["intercept"], fitted["alpha"]
        self.best_score_ = -fitted["error"]
        if self.bands is not None:
            self.band_ratio_ = fitted["ratio"]
        return self

    def predict(self, X: Any) -> Floats:
        """Predict targets, (n_stimuli, n_targets) or (n_stimuli,), of new stimuli.

        Parameters
        ----------
        X : array, (n_stimuli, n_features)
        """
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=DTYPES)
        predictions: Floats = X @ self.coef_.T + self.intercept_
        return predictions

    def _options(self) -> RidgeOptions:
        selection: Any = self.cv if isinstance(self.cv, str) else "kfold"
        return RidgeOptions(
            tuple(self.alphas), selection, tuple(self.band_ratios), self.standardise
        )


def _assign_folds(cv: Any, X: NDArray[Any], y: NDArray[Any]) -> Ints:
    """Return the fold that tests each stimulus, -1 for none, (n_stimuli,)."""
    folds = np.full(len(X), UNTESTED)
    if isinstance(cv, str):
        if cv not in ("loo", "gcv"):
            raise ValueError(f"cv is {cv!r}; give a number of folds, a splitter, 'loo' or 'gcv'.")
        return folds
    rows = np.arange(len(X))
    for fold, (train_rows, test_rows) in enumerate(check_cv(cv).split(X, y)):
        others = np.setdiff1d(rows, rows[test_rows])
        if (folds[test_rows] != UNTESTED).any() or not np.array_equal(
            np.unique(rows[train_rows]), others
        ):
            raise ValueError(
                f"cv is {cv}, whose split {fold} tests stimuli that an earlier one tested, or "
                "does not train on all others; give splits as KFold's or GroupKFold's, 'loo' or "
                "'gcv'."
            )
        folds[test_rows] = fold
    return folds


@dataclass(frozen=True)
class _Features:
    """Features factorised on all stimuli and, for selection by k-fold, on all but each fold."""

    coordinates: Coordinates
    options: RidgeOptions
    scales: tuple[Floats, ...]
    whole: Training
    others: tuple[Training, ...]
    tested: float
    """Sum of the weights of stimuli that some fold tests, or of all."""

    @classmethod
    def of(
        cls,
        x: NDArray[Any],
        folds: Ints,
        weights: Floats,
        options: RidgeOptions,
        bands: tuple[int, int] | None,
    ) -> _Features:
        names, folds = np.unique(folds, return_inverse=True)
        sets: list[tuple[int, ...]] = [(), *((k,) for k, name in enumerate(names) if name >= 0)]
        by_kfold = options.selection == "kfold"
        if not len(x) or (by_kfold and len(names) < 2):
            raise ValueError(
                f"{len(x)} stimuli of positive weight are in {len(names)} fold(s) of cv; give "
                "stimuli to test on, and others to train on."
            )
        coordinates = Coordinates(RowGroups.of(folds, weights), x, first_mean(x), hold=True)
        scales = scales_of(x.shape[1], options, None if bands is None else tuple(bands))
        whole, *others = train(coordinates, sets, scales, options.standardise)
        tested = weights[names[folds] >= 0] if by_kfold else weights
        return cls(coordinates, options, scales, whole, tuple(others), float(tested.sum()))

    def fit(self, y: Floats) -> dict[str, Floats]:
        """Fit targets (n_stimuli, n_targets); every array's last axis is n_targets."""
        with np.errstate(over="ignore"):
            y = y.copy()
            mean, scale, _ = centre(y, ROUNDING_SD)
        if np.isinf(scale).any():
            raise ValueError(
                f"{np.isinf(scale).sum()} targets have squares beyond float64; use other units."
            )
        y /= scale
        block = TargetBlock(y)
        errors = self._errors(block)
        index, ratio = least_error(errors)
        alpha = self.options.alpha_grid[index]
        coef, intercept = self._weights(block, alpha, ratio)
        return {
            "coef": coef * scale,
            "intercept": mean + intercept * scale,
            "alpha": alpha,
            "ratio": self.options.ratio_grid[ratio],
            "error": errors.min(axis=(0, 1)) * scale**2 / self.tested,
        }

    def _errors(self, block: TargetBlock) -> Floats:
        """Errors to choose by, (n_ratios, n_alphas, n_targets)."""
        if self.options.selection != "kfold":
            return errors_within(self.whole, block, self.options)
        validations = [(t, [(t.left_out[0], 0)]) for t in self.others]
        errors: Floats = kfold_errors(validations, block, self.options.alpha_grid)[0]
        return errors

    def _weights(self, block: TargetBlock, alpha: Floats, ratio: Ints) -> tuple[Floats, Floats]:
        """Return weights (n_features, n_targets) and intercepts in units of the features."""
        coef = np.zeros((self.coordinates.x.shape[1], len(alpha)))
        intercept = np.zeros(len(alpha))
        for i, problem in enumerate(block.problems(self.whole)):
            columns = np.flatnonzero(ratio == i)
            if not columns.size:
                continue
            x = problem.factor.basis.predict(take(problem.c, columns), alpha[columns])
            beta, offset = self._in_features(problem.factor, self.scales[i], x)
            coef[: len(beta), columns] = beta
            offset += problem.centred.mean[columns] - self.coordinates.shift[: len(beta)] @ beta
            intercept[columns] = offset
        return coef, intercept

    def _in_features(self, factor: Factor, scale: Floats, x: Array) -> tuple[Floats, Floats]:
        """Return weights of the features that take part, and the offset about their shift."""
        if factor.combination is None:
            found = fetch(factor.basis.vectors @ x)
            return found[1:], found[0]
        rows = fetch(factor.combination @ x)
        beta, offset = np.empty((len(scale), rows.shape[1])), np.zeros(rows.shape[1])
        every = np.ones(len(rows), dtype=bool)
        standardise = self.options.standardise
        for columns, scaler, z in standardised_columns(self.coordinates, every, standardise):
            within = scale[columns]
            n = len(within)
            beta[columns] = (scaler.unit[:n] * within**2)[:, None] * (z[:, :n].T @ rows)
            offset -= scaler.mean[:n] @ beta[columns]
        return beta, offset
