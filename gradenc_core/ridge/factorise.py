"""Features of a layer, factorised once for every training set that cross-validation needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradenc_core.arrays import Array, Floats, Rows, fetch, in_threads, namespace, put
from gradenc_core.ridge.basis import Basis, Scaler, band_scale, factor
from gradenc_core.ridge.checks import (
    check_bands,
    check_finite,
    check_folds,
    check_n_folds,
    check_rows,
)
from gradenc_core.ridge.moments import (
    Coordinates,
    FeatureMoments,
    RowGroups,
    feature_moments,
    first_mean,
)
from gradenc_core.ridge.options import RidgeOptions
from gradenc_core.ridge.quadratic import Quadratic
from gradenc_core.ridge.scores import HeldOut, HeldRows

# Features whose kernel is summed at once. Part of the algorithm's version: other sums round
# differently.
KERNEL_COLUMNS = 4096


@dataclass(frozen=True)
class Factor:
    """One training set at one ratio.

    Attributes
    ----------
    coordinates : Coordinates
        The features, or with kernels the whitened rows.
    basis : Basis
    held : dict of int to HeldOut
        The folds that the training set lacks.
    combination : array, (n_rows, rank), or None
        With kernels, the basis as a combination of the standardised training rows.
    """

    coordinates: Coordinates
    basis: Basis
    held: dict[int, HeldOut]
    combination: Array | None = None


@dataclass(frozen=True)
class Training:
    """A training set, factorised at every ratio.

    Attributes
    ----------
    left_out : tuple of int
        The folds that it lacks.
    count, weight : float
        Rows and sum of their weights.
    factors : tuple of Factor
        One per ratio.
    """

    left_out: tuple[int, ...]
    count: float
    weight: float
    factors: tuple[Factor, ...]


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
    coordinates : Coordinates
        The features.
    outer : tuple of Training
        One per outer fold, which it leaves out.
    inner : tuple of Training
        One per pair of folds, each of which validates for the other as outer fold; empty unless
        alphas are chosen by k-fold.
    """

    options: RidgeOptions
    bands: tuple[int, ...] | None
    scales: tuple[Floats, ...]
    coordinates: Coordinates
    outer: tuple[Training, ...]
    inner: tuple[Training, ...]

    @property
    def n_stimuli(self) -> int:
        """Number of rows."""
        return self.coordinates.x.shape[0]

    @property
    def is_empty(self) -> bool:
        """Whether no feature varies in any training set, so that nothing can be predicted."""
        factors = (factor for training in self.outer for factor in training.factors)
        return all(len(factor.basis.values) == 0 for factor in factors)

    @property
    def n_ratios(self) -> tuple[int, ...]:
        """How many ratios each fit may choose from: all, then (with two bands) the first, 0."""
        return (len(self.scales),) if self.bands is None else (len(self.scales), 1)


def factorise(
    x: Rows,
    folds: NDArray[np.integer],
    weights: NDArray[Any] | None = None,
    options: RidgeOptions | None = None,
    bands: tuple[int, ...] | None = None,
) -> Design:
    """Factorise features once for every fold, to score any number of targets.

    Parameters
    ----------
    x : array or Rows, (n_stimuli, n_features)
        Features; with two bands, the columns of the first before those of the second. They may lie
        on disk: they are read by slices of rows, again for every block of targets.
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

    See Also
    --------
    gradenc_core.ridge.encode.score_targets : scores of targets on these features

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> x, folds = rng.standard_normal((60, 8)), np.arange(60) % 5
    >>> design = factorise(x, folds)
    >>> len(design.outer), len(design.inner)
    (5, 10)
    """
    options = RidgeOptions() if options is None else options
    coordinates = _read(x, folds, weights)
    n_folds = coordinates.groups.shape[0]
    scales = scales_of(coordinates.x.shape[1], options, bands)
    sets = _training_sets(n_folds, options.selection)
    trainings = train(coordinates, sets, scales, options.standardise)
    outer, inner = trainings[:n_folds], trainings[n_folds:]
    return Design(options, bands, scales, coordinates, outer, inner)


def _training_sets(n_folds: int, selection: str) -> list[tuple[int, ...]]:
    """Folds that each training set leaves out: one, and with k-fold selection every two."""
    check_n_folds(n_folds, selection)
    pairs = combinations(range(n_folds), 2) if selection == "kfold" else ()
    return [*((k,) for k in range(n_folds)), *pairs]


def _read(x: Rows, folds: NDArray[np.integer], weights: NDArray[Any] | None) -> Coordinates:
    x = x if hasattr(x, "shape") else np.asarray(x)
    folds = np.asarray(folds)
    weights = np.ones(len(folds)) if weights is None else np.asarray(weights, dtype=np.float64)
    check_rows(x, folds, weights)
    check_folds(folds)
    groups = RowGroups.of(folds, weights / weights.mean())
    return Coordinates(groups, x, first_mean(x), hold=True)


def scales_of(
    n_features: int, options: RidgeOptions, bands: tuple[int, ...] | None
) -> tuple[Floats, ...]:
    """Scale of each column that takes part, per ratio: one array (n_columns,) for one band."""
    check_bands(n_features, bands)
    ratios = [1.0] if bands is None else options.ratio_grid.tolist()
    return tuple(band_scale(n_features, bands, ratio) for ratio in ratios)


def is_dual(shape: tuple[int, ...]) -> bool:
    """Whether kernels of stimuli are smaller than moments of features (n_stimuli, n_features)."""
    return shape[1] > shape[0]


def train(
    coordinates: Coordinates,
    sets: Sequence[tuple[int, ...]],
    scales: Sequence[Floats],
    standardise: bool,
) -> tuple[Training, ...]:
    """Factorise training sets at every ratio.

    Parameters
    ----------
    coordinates : Coordinates
    sets : sequence of tuple of int
        The folds that each training set leaves out.
    scales : sequence of array
        See `scales_of`.
    standardise : bool
    """
    if is_dual(coordinates.x.shape):
        return tuple(
            in_threads(lambda out: _from_kernels(coordinates, out, scales, standardise), sets)
        )
    features = feature_moments(coordinates).per_fold()
    check_finite(namespace(features.xx).linalg.diagonal(features.xx))
    held = {k for left_out in sets for k in left_out}
    rows = {k: HeldRows.of(features.part(k)) for k in held}

    def factorised(left_out: tuple[int, ...]) -> Training:
        return _from_moments(coordinates, features, rows, left_out, scales, standardise)

    return tuple(in_threads(factorised, sets))


def _from_moments(
    coordinates: Coordinates,
    features: FeatureMoments,
    rows: Mapping[int, HeldRows],
    left_out: tuple[int, ...],
    scales: Sequence[Floats],
    standardise: bool,
) -> Training:
    sums = features.others(*left_out)
    scaler = Scaler.of(sums, standardise)
    gram = scaler.gram(sums)
    factors = []
    for scale in scales:
        basis = Basis.of(scaler, gram, scale)
        held = {k: HeldOut.in_basis(basis, rows[k]) for k in left_out}
        factors.append(Factor(coordinates, basis, held))
    return Training(left_out, scaler.count, scaler.weight, tuple(factors))


def _from_kernels(
    coordinates: Coordinates,
    left_out: tuple[int, ...],
    scales: Sequence[Floats],
    standardise: bool,
) -> Training:
    """Factorise kernels of stimuli, whose whitened rows take the place of features."""
    groups = coordinates.groups
    kept = ~np.isin(groups.folds, left_out)
    weights = groups.weights[kept]
    factors = []
    for kernel in _kernels(coordinates, kept, scales, standardise):
        root = put(np.sqrt(weights)[:, None])
        values, vectors = factor(kernel[:, put(kept)] * root.T * root, np.ones(len(weights)))
        combination = root * vectors / values
        rows = kernel.T @ combination
        # The same, without the kernel's rounding divided by a small eigenvalue.
        rows[put(kept)] = vectors / root
        whitened = Coordinates(groups, fetch(rows), np.zeros(len(values)))
        basis = Basis.of_rows(values)
        held = {k: _held_rows(groups, rows, k) for k in left_out}
        factors.append(Factor(whitened, basis, held, combination))
    return Training(left_out, float(kept.sum()), float(weights.sum()), tuple(factors))


def _held_rows(groups: RowGroups, rows: Array, fold: int) -> HeldOut:
    """Describe the rows of a fold that are whitened already, (n_stimuli, rank)."""
    chosen = groups.folds == fold
    weights = groups.weights[chosen]
    weight, own = float(weights.sum()), rows[put(chosen)]
    offset = put(weights / weight) @ own
    return HeldOut(
        weight, offset, Quadratic.of_root(put(np.sqrt(weights)[:, None]) * (own - offset))
    )


def _kernels(
    coordinates: Coordinates,
    kept: NDArray[np.bool_],
    scales: Sequence[Floats],
    standardise: bool,
) -> list[Any]:
    """Return X X' of rows standardised on those kept, (n_kept, n_stimuli), at every scale."""
    kernels = [np.zeros((int(kept.sum()), len(kept))) for _ in scales]
    for columns, _, rows in standardised_columns(coordinates, kept, standardise):
        for kernel, scale in zip(kernels, scales, strict=True):
            within = scale[columns]
            scaled = rows[:, : len(within)] * within
            kernel += scaled[kept] @ scaled.T
    return [put(kernel) for kernel in kernels]


def standardised_columns(
    coordinates: Coordinates, kept: NDArray[np.bool_], standardise: bool
) -> Iterator[tuple[slice, Scaler, Floats]]:
    """Yield blocks of columns, their scaler, and all rows standardised on those kept."""
    x = np.asarray(coordinates.x[slice(0, len(kept))])
    weights = coordinates.groups.weights[kept]
    for start in range(0, x.shape[1], KERNEL_COLUMNS):
        columns = slice(start, start + KERNEL_COLUMNS)
        shift = coordinates.shift[columns]
        part = x[:, columns] - shift
        check_finite(part, start)
        sums = (weights @ part[kept], weights @ part[kept] ** 2)
        count = float(kept.sum())
        scaler = Scaler.of_columns(count, float(weights.sum()), *sums, shift, standardise)
        yield columns, scaler, (part - scaler.mean) * scaler.unit
