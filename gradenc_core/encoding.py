"""Cross-validated encoding: scores per target, bootstrap and permutation of whole stimuli.

The features of a layer are factorised once per fold (`factorise`); all targets, permutations and
subjects that saw the same stimuli then share the factors. Targets pass in blocks of a constant
width, so a target's scores do not depend on the other targets of the call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from gradenc_core import ridge
from gradenc_core.moments import (
    Cells,
    FeatureMoments,
    Floats,
    TargetMoments,
    feature_moments,
    ordered_target_moments,
    weigh_rows,
)
from gradenc_core.ridge import Basis, CentredTargets, HeldOut, Ints, RidgeOptions, Scaler

# Part of the algorithm's version: products of another width may differ in their last bits.
TARGET_WIDTH = 1024
# Bootstrap replicates whose moments are summed in one product; bounds memory.
REPLICATES = 4


@dataclass(frozen=True)
class Training:
    """A factorised training set and the rows held out from it, by fold."""

    folds: tuple[int, ...]
    scaler: Scaler
    bases: tuple[Basis, ...]
    held: dict[int, HeldOut]

    @classmethod
    def of(cls, features: FeatureMoments, left_out: tuple[int, ...], scales: list[Floats]) -> Training:
        """Factorise all folds of `features` but those left out."""
        sums = features.others(*left_out)
        scaler = Scaler.of(sums)
        gram = scaler.gram(sums)
        bases = tuple(ridge.factor(gram, scale) for scale in scales)
        held = {k: HeldOut.of(scaler, features.part(k)) for k in left_out}
        return cls(left_out, scaler, bases, held)


@dataclass(frozen=True)
class InnerTraining:
    """A training set without two folds: each of them tests it when the other is the outer one."""

    training: Training
    roots: dict[int, Floats]


@dataclass(frozen=True)
class Design:
    """Features of one layer, factorised for every training set; made by `factorise`.

    Attributes
    ----------
    options : RidgeOptions
    scales : list of array
        Scale of the columns that take part, per ratio.
    cells : Cells
        Rows by fold; the arrays below hold rows in its order.
    x : array, (n_stimuli, n_features)
        Shifted features, float64.
    weights : array, (n_stimuli,)
        Row weights of mean 1.
    weighted : array, (n_stimuli, n_features + 1)
        Weighted features and, last, the weights.
    features : FeatureMoments
        Sums per fold.
    outer : list of Training
        One training set per outer fold.
    inner : list of InnerTraining
        One training set per pair of folds; empty unless alphas are chosen by k-fold.
    """

    options: RidgeOptions
    scales: list[Floats]
    cells: Cells
    x: Floats
    weights: Floats
    weighted: Floats
    features: FeatureMoments
    outer: list[Training]
    inner: list[InnerTraining]

    @property
    def banded(self) -> bool:
        """Whether the features hold two bands."""
        return len(self.scales[0]) < self.x.shape[1]


@dataclass(frozen=True)
class Fit:
    """Scores and choices, each (n_folds, n_targets): float64, alpha and ratio as grid indices."""

    r: Floats
    sse: Floats
    sst: Floats
    flat: NDArray[np.bool_]
    alpha: Ints
    ratio: Ints


@dataclass(frozen=True)
class EncodingCounts:
    """What a reader of the scores must know; the last three count (fold, target) pairs."""

    nan_targets: int
    constant_targets: int
    flat_predictions: int
    lowest_alpha: int
    highest_alpha: int


@dataclass(frozen=True)
class EncodingScores:
    """Held-out scores, arrays (n_folds, n_targets) float32; NaN for NaN and constant targets.

    Attributes
    ----------
    r : array
        Pearson correlation per fold; the score of a target is its plain mean over folds.
    sse, sst : array
        Weighted squared error and total sum of squares about the held-out fold's own mean, in
        squared units of the target. R2 = 1 - sum sse / sum sst over folds.
    alpha : array
        Chosen penalty.
    ratio, r_off, sse_off : array or None
        Chosen band ratio, and the scores of the first band alone with alphas chosen anew;
        U = (sum sse_off - sum sse) / sum sst. None with one band.
    counts : EncodingCounts
    """

    r: NDArray[np.float32]
    sse: NDArray[np.float32]
    sst: NDArray[np.float32]
    alpha: NDArray[np.float32]
    ratio: NDArray[np.float32] | None
    r_off: NDArray[np.float32] | None
    sse_off: NDArray[np.float32] | None
    counts: EncodingCounts


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
        Widths of the two bands (n_f, n_g); None for one band.

    Raises
    ------
    ValueError
        If rows mismatch, a fold is empty, there are fewer stimuli than folds, features are not
        finite, weights are not positive, or bands do not add up.
    """
    options = RidgeOptions() if options is None else options
    x, folds = np.asarray(x), np.asarray(folds)
    row_weights = np.ones(len(x)) if weights is None else np.asarray(weights, dtype=np.float64)
    _check_rows(x, folds, row_weights)
    _check_folds(folds, options)
    _check_bands(x.shape[1], bands)
    row_weights = row_weights / row_weights.mean()
    cells = Cells.of(folds)
    shift = cells.first_mean(x)
    features = feature_moments(cells, x, row_weights, shift).per_fold()
    ordered, ordered_weights = x[cells.order] - shift, row_weights[cells.order]
    ratios = options.ratio_grid if bands else [1.0]
    scales = [ridge.band_scale(x.shape[1], bands, float(ratio)) for ratio in ratios]
    n_folds = cells.shape[0]
    return Design(
        options=options,
        scales=scales,
        cells=cells,
        x=ordered,
        weights=ordered_weights,
        weighted=weigh_rows(ordered, ordered_weights),
        features=features,
        outer=[Training.of(features, (k,), scales) for k in range(n_folds)],
        inner=_inner_trainings(features, scales, n_folds) if options.selection == "kfold" else [],
    )


def encode(
    x: NDArray[Any],
    y: NDArray[Any],
    folds: NDArray[np.integer],
    weights: NDArray[Any] | None = None,
    options: RidgeOptions | None = None,
    bands: tuple[int, ...] | None = None,
) -> EncodingScores:
    """Fit and score targets by nested cross-validated ridge.

    The same as `score_targets(factorise(x, folds, weights, options, bands), y)`, which see.
    """
    return score_targets(factorise(x, folds, weights, options, bands), y)


def score_targets(design: Design, y: NDArray[Any]) -> EncodingScores:
    """Score targets on a factorised layer.

    Parameters
    ----------
    design : Design
    y : array, (n_stimuli, n_targets)
        Mean response per stimulus, rows in the order of the features. A target with a value that
        is not finite, or without variance, gets NaN scores and does not touch the others.

    Raises
    ------
    ValueError
        If `y` has another number of rows than the features.
    """
    _check_targets(design, y)
    fits, blocks = [], []
    for block in _blocks(design, y):
        fits.append(_fit(design, block.rows, block.shift))
        blocks.append(block)
    full = _join([full for full, _ in fits])
    off = _join([off for _, off in fits]) if design.banded else None
    return _encoding_scores(design, _Block.join(blocks), full, off)


def permutation_scores(
    design: Design,
    y: NDArray[Any],
    n_permutations: int,
    seed: int,
    groups: NDArray[Any] | None = None,
) -> NDArray[np.float32]:
    """Null scores: permute whole stimuli of `y` before fitting, choose alphas and ratios anew.

    Parameters
    ----------
    design : Design
    y : array, (n_stimuli, n_targets)
    n_permutations : int
    seed : int
        The same for all layers, signals and targets, so that maxima over layers are of one null.
    groups : array, (n_stimuli,), optional
        Stimuli are permuted only within a group, such as a session.

    Returns
    -------
    array, (n_permutations + 1, n_targets) float32
        Mean over folds of r for one band, U for two; index 0 is observed.

    Notes
    -----
    Row weights stay with the features: X'X, and so every factor, is that of the observed fit.
    """
    _check_targets(design, y)
    orders = permutations(len(y), n_permutations, seed, groups)[:, design.cells.order]
    back = np.argsort(design.cells.order)
    out = []
    for block in _blocks(design, y, pad=False):
        n_targets = block.rows.shape[1]
        at_once = TARGET_WIDTH // n_targets
        parts = []
        for start in range(0, len(orders), at_once):
            rows = block.rows.take(back[orders[start : start + at_once]].T, axis=0)
            columns = rows.reshape(len(rows), -1)
            shift = np.tile(block.shift, rows.shape[1])
            fit = _fit(design, _pad(columns), _pad(shift[None])[0])
            parts.append(_statistic(*fit)[: columns.shape[1]].reshape(-1, n_targets))
        out.append(np.where(block.usable, np.concatenate(parts), np.nan))
    return np.concatenate(out, axis=1).astype(np.float32)


def permutations(
    n_stimuli: int, n_permutations: int, seed: int, groups: NDArray[Any] | None = None
) -> Ints:
    """Orders of stimuli, (n_permutations + 1, n_stimuli); row 0 is the identity."""
    generator = np.random.default_rng(seed)
    orders = np.tile(np.arange(n_stimuli), (n_permutations + 1, 1))
    groups = np.zeros(n_stimuli) if groups is None else np.asarray(groups)
    if len(groups) != n_stimuli:
        raise ValueError(f"groups has {len(groups)} rows but there are {n_stimuli} stimuli.")
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        orders[1:, members] = generator.permuted(orders[1:, members], axis=1)
    return orders


def bootstrap_scores(
    design: Design, y: NDArray[Any], blocks: NDArray[np.integer], n_bootstraps: int, seed: int
) -> NDArray[np.float32]:
    """Scores refitted on resampled blocks of stimuli, at each target's own alphas and ratios.

    Parameters
    ----------
    design : Design
    y : array, (n_stimuli, n_targets)
        Needs n_folds x n_blocks x (n_features + n_targets) x n_features x 8 bytes.
    blocks : array of int, (n_stimuli,)
        Block of each stimulus within its fold.
    n_bootstraps : int
    seed : int
        The same for all layers and signals, so that their replicates are paired.

    Returns
    -------
    array, (n_bootstraps + 1, n_targets) float32
        Mean over folds of r for one band, U for two; index 0 is observed (all weights 1).
    """
    _check_targets(design, y)
    if len(blocks) != len(y):
        raise ValueError(f"blocks has {len(blocks)} rows but y has {len(y)}.")
    order = design.cells.order
    folds = np.repeat(np.arange(design.cells.shape[0]), np.diff(design.cells.edges))
    cells = Cells.of(folds, np.asarray(blocks)[order])
    features = feature_moments(cells, design.x, design.weights, np.zeros(design.x.shape[1]))
    features = _about(features, design.features.shift)
    targets, chosen, usable = _bootstrap_targets(design, y, cells)
    replicates = block_weights(cells.counts, n_bootstraps, seed)
    out = []
    for start in range(0, len(replicates), REPLICATES):
        drawn = replicates[start : start + REPLICATES]
        x_sums, y_sums = features.weigh(drawn), targets.weigh(drawn)
        out += [_refit(design, x_sums.part(i), y_sums.part(i), *chosen) for i in range(len(drawn))]
    return np.where(usable, np.stack(out), np.nan).astype(np.float32)
