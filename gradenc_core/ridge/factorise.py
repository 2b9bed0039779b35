"""Features of a layer, factorised once for every training set that cross-validation needs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradenc_core.arrays import Array, Floats, fetch, namespace, put
from gradenc_core.ridge import basis as ridge
from gradenc_core.ridge.basis import Basis, RidgeOptions, Scaler
from gradenc_core.ridge.moments import (
    Coordinates,
    FeatureMoments,
    Layout,
    Rows,
    feature_moments,
    first_mean,
)
from gradenc_core.ridge.quadratic import Quadratic
from gradenc_core.ridge.scores import HeldOut, HeldRows
from gradenc_core.threads import in_threads

# Features whose kernel is summed at once; part of the algorithm's version.
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
        The features; without rows where they are known by their moments alone.
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
    x : array or other rows, (n_stimuli, n_features)
        Features; with two bands, `[F | G]`. Read by slices of rows, again for every block of
        targets, so that they may lie on disk.
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
    coordinates = read(x, folds, weights)
    sets = _training_sets(coordinates.layout.shape[0], options.selection)
    trainings = train(coordinates, sets, options, bands)
    return _design(coordinates, trainings, options, bands)


def factorise_moments(
    features: FeatureMoments,
    options: RidgeOptions | None = None,
    bands: tuple[int, ...] | None = None,
) -> Design:
    """Factorise features that are known by their moments alone; see `factorise`.

    Parameters
    ----------
    features : FeatureMoments
        Sums per fold, of rows whose weights have mean 1.

    Raises
    ------
    ValueError
        As for `factorise`, and for selection "loo", which leaves out single rows.
    """
    options = RidgeOptions() if options is None else options
    if options.selection == "loo":
        raise ValueError("selection 'loo' needs rows, moments have none; choose kfold or gcv.")
    n_folds, width = features.x.shape
    _check_filled(fetch(features.count))
    none = np.empty(0, dtype=np.intp)
    layout = Layout.of(none, none, shape=(n_folds, 1))
    coordinates = Coordinates(layout, np.empty((0, width)), features.shift)
    sets = _training_sets(n_folds, options.selection)
    trainings = train_on_moments(coordinates, features, sets, options, bands)
    return _design(coordinates, trainings, options, bands)


def _training_sets(n_folds: int, selection: str) -> list[tuple[int, ...]]:
    """Folds that each training set leaves out: one, and with k-fold selection every two."""
    _check_n_folds(n_folds, selection)
    pairs = combinations(range(n_folds), 2) if selection == "kfold" else ()
    return [*((k,) for k in range(n_folds)), *pairs]


def _design(
    coordinates: Coordinates,
    trainings: tuple[Training, ...],
    options: RidgeOptions,
    bands: tuple[int, ...] | None,
) -> Design:
    scales = scales_of(coordinates.x.shape[1], options, bands)
    n_folds = coordinates.layout.shape[0]
    outer, inner = trainings[:n_folds], trainings[n_folds:]
    return Design(options, bands, scales, coordinates, outer, inner)


def read(x: Rows, folds: NDArray[np.integer], weights: NDArray[Any] | None = None) -> Coordinates:
    """Check features and what goes with them; see `factorise`."""
    x = x if hasattr(x, "shape") else np.asarray(x)
    folds = np.asarray(folds)
    weights = np.ones(len(folds)) if weights is None else np.asarray(weights, dtype=np.float64)
    _check_rows(x, folds, weights)
    _check_folds(folds)
    layout = Layout.of(folds, weights / weights.mean())
    return Coordinates(layout, x, first_mean(x), hold=True)


def scales_of(
    n_features: int, options: RidgeOptions, bands: tuple[int, ...] | None
) -> tuple[Floats, ...]:
    """Scale of each column that takes part, per ratio."""
    _check_bands(n_features, bands)
    ratios = [1.0] if bands is None else options.ratio_grid.tolist()
    return tuple(ridge.band_scale(n_features, bands, ratio) for ratio in ratios)


def is_dual(shape: tuple[int, ...]) -> bool:
    """Whether kernels of stimuli are smaller than moments of features (n_stimuli, n_features)."""
    return shape[1] > shape[0]


def train(
    coordinates: Coordinates,
    sets: Sequence[tuple[int, ...]],
    options: RidgeOptions,
    bands: tuple[int, ...] | None,
) -> tuple[Training, ...]:
    """Factorise the training sets that leave out `sets` of folds."""
    if is_dual(coordinates.x.shape):
        scales = scales_of(coordinates.x.shape[1], options, bands)
        unit = options.standardise
        return tuple(_from_kernels(coordinates, left_out, scales, unit) for left_out in sets)
    features = feature_moments(coordinates).per_fold()
    return train_on_moments(coordinates, features, sets, options, bands)


def train_on_moments(
    coordinates: Coordinates,
    features: FeatureMoments,
    sets: Sequence[tuple[int, ...]],
    options: RidgeOptions,
    bands: tuple[int, ...] | None,
) -> tuple[Training, ...]:
    """Factorise training sets from sums per fold."""
    _check_finite(features)
    scales = scales_of(coordinates.x.shape[1], options, bands)
    rows = _rows_of_folds(features, {k for left_out in sets for k in left_out})

    def factorised(left_out: tuple[int, ...]) -> Training:
        return _from_moments(coordinates, features, rows, left_out, scales, options.standardise)

    return tuple(in_threads(factorised, sets))


def _rows_of_folds(features: FeatureMoments, folds: Iterable[int]) -> dict[int, HeldRows]:
    return {k: HeldRows.of(features.part(k)) for k in folds}


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
    layout = coordinates.layout
    kept = ~np.isin(layout.folds, left_out)
    weights = layout.weights[kept]
    factors = []
    for kernel in _kernels(coordinates, kept, scales, standardise):
        root = put(np.sqrt(weights)[:, None])
        values, vectors = ridge.factor(kernel[:, put(kept)] * root.T * root, np.ones(len(weights)))
        combination = root * vectors / values
        rows = kernel.T @ combination
        # The same, without the kernel's rounding divided by a small eigenvalue.
        rows[put(kept)] = vectors / root
        whitened = Coordinates(layout, fetch(rows), np.zeros(len(values)))
        basis = Basis.of_rows(values)
        held = {k: _held_rows(layout, rows, k) for k in left_out}
        factors.append(Factor(whitened, basis, held, combination))
    return Training(left_out, float(kept.sum()), float(weights.sum()), tuple(factors))


def _held_rows(layout: Layout, rows: Array, fold: int) -> HeldOut:
    """Describe the rows of a fold that are whitened already, (n_stimuli, rank)."""
    chosen = layout.folds == fold
    weights = layout.weights[chosen]
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
    weights = coordinates.layout.weights[kept]
    for start in range(0, x.shape[1], KERNEL_COLUMNS):
        columns = slice(start, start + KERNEL_COLUMNS)
        shift = coordinates.shift[columns]
        part = x[:, columns] - shift
        _check_columns(part, start)
        sums = (weights @ part[kept], weights @ part[kept] ** 2)
        count = float(kept.sum())
        scaler = Scaler.of_columns(count, float(weights.sum()), *sums, shift, standardise)
        yield columns, scaler, (part - scaler.mean) * scaler.unit


def _check_rows(x: Rows, folds: NDArray[Any], weights: Floats) -> None:
    if len(x.shape) != 2:
        raise ValueError(f"features have shape {tuple(x.shape)}; give (n_stimuli, n_features).")
    if 0 in x.shape:
        raise ValueError(f"features have shape {tuple(x.shape)}; give stimuli and columns.")
    for name, rows in (("folds", folds), ("weights", weights)):
        if rows.shape != (x.shape[0],):
            raise ValueError(
                f"{name} has shape {rows.shape} but the features have {x.shape[0]} rows; give one "
                "value per stimulus."
            )
    if not np.isfinite(weights).all() or (weights <= 0).any():
        raise ValueError("weights hold values that are not positive; give numbers of repeats.")


def _check_finite(features: FeatureMoments) -> None:
    """Refuse features of which any sum of squares is not finite."""
    xp = namespace(features.xx)
    _check_columns(xp.linalg.diagonal(features.xx), 0)


def _check_columns(rows: Any, start: int) -> None:
    xp = namespace(rows)
    broken = ~xp.all(xp.isfinite(rows), axis=0)
    if bool(xp.any(broken)):
        first = int(xp.argmax(xp.astype(broken, xp.int8)))
        raise ValueError(
            f"{int(xp.sum(broken))} of {len(broken)} features hold values that are not finite, the "
            f"first in column {start + first}; extract them again."
        )


def _check_folds(folds: NDArray[np.integer]) -> None:
    lowest, highest = int(folds.min(initial=0)), int(folds.max(initial=-1))
    if lowest < 0:
        raise ValueError(f"folds run from {lowest} to {highest}; number them from 0.")
    if len(folds) <= highest:
        raise ValueError(f"{len(folds)} stimuli cannot fill {highest + 1} folds; lower n_folds.")
    empty = sorted(set(range(highest + 1)) - set(folds.tolist()))
    if empty:
        raise ValueError(f"fold {empty[0]} of {highest + 1} holds no stimulus; use assign_folds.")


def _check_filled(counts: Floats) -> None:
    empty = np.flatnonzero(counts == 0)
    if empty.size:
        raise ValueError(
            f"fold {empty[0]} of {len(counts)} holds no stimulus; add the moments of all shards."
        )


def _check_n_folds(n_folds: int, selection: str) -> None:
    needed = 3 if selection == "kfold" else 2
    if n_folds < needed:
        raise ValueError(
            f"folds run from 0 to {n_folds - 1}; give at least {needed} for selection "
            f"{selection!r}."
        )


def _check_bands(n_features: int, bands: tuple[int, ...] | None) -> None:
    if bands is None:
        return
    if len(bands) != 2 or min(bands) < 1 or sum(bands) != n_features:
        raise ValueError(
            f"bands is {bands}; give two positive widths that add up to {n_features} features."
        )
