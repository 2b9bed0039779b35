"""Cross-validated encoding: scores per target, bootstrap and permutation of whole stimuli.

The features of a layer are factorised once (`factorise`); all targets, permutations and subjects
that saw the same stimuli share the factors. Targets pass in blocks of a constant width, so a
target's scores do not depend on the other targets of the call.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, replace
from itertools import chain, islice
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gradenc_core.arrays import Floats, fetch, put
from gradenc_core.ridge import basis as ridge
from gradenc_core.ridge.basis import Ints, RidgeOptions, Scaler
from gradenc_core.ridge.choose import Block
from gradenc_core.ridge.cost import REPLICATES
from gradenc_core.ridge.factorise import Design, factorise, factorise_moments
from gradenc_core.ridge.fitting import TARGET_WIDTH, Fit, centre, fit
from gradenc_core.ridge.moments import (
    Coordinates,
    FeatureMoments,
    Layout,
    TargetMoments,
    feature_moments,
    target_moments,
)
from gradenc_core.ridge.scores import (
    Centred,
    FoldScores,
    HeldOut,
    analytic_p,
    score,
    score_by_ratio,
    statistic,
)

__all__ = [
    "EncodingCounts",
    "EncodingScores",
    "analytic_p",
    "block_weights",
    "bootstrap_scores",
    "encode",
    "factorise",
    "permutation_scores",
    "permutations",
    "score_moments",
    "score_targets",
]


# Standard deviations of targets whose sums of squares float32 holds with all its digits. Others,
# such as a dead channel's, count as NaN.
LEAST_SD, LARGEST_SD = 1e-17, 1e15


class Columns(Protocol):
    """Targets that may be too many to hold: an array, or one on disk that is read by columns."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(n_stimuli, n_targets)."""

    def __getitem__(self, columns: tuple[slice, slice], /) -> Any:
        """Read a slice of columns of all rows."""


@dataclass(frozen=True)
class EncodingCounts:
    """What a reader of the scores must know; the last four count (fold, target) pairs.

    `constant_folds` are those without r, of targets that vary elsewhere.
    """

    nan_targets: int
    constant_targets: int
    constant_folds: int
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
        Weighted squared error, and total sum of squares about the held-out fold's own mean, in
        squared units of the target. R2 = 1 - sum sse / sum sst over folds.
    alpha : array
        Chosen penalty.
    ratio, r_off, sse_off : array or None
        Chosen band ratio, and the scores of the first band alone with alphas chosen anew:
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


def score_targets(design: Design, y: Columns) -> EncodingScores:
    """Score targets on a factorised layer.

    Parameters
    ----------
    design : Design
    y : array or other columns, (n_stimuli, n_targets)
        Mean response per stimulus, rows in the order of the features; read `TARGET_WIDTH` columns
        at a time. A target with a value that is not finite, a standard deviation out of the range
        of `LEAST_SD` to `LARGEST_SD`, or without variance, gets NaN scores
        and does not touch the others.

    Raises
    ------
    ValueError
        If `y` has another number of rows than the features.
    """
    blocks = _blocks(design, y)
    return _scores(design, ((block, fit(design, Block(_pad(block.rows)))) for block in blocks))


def score_moments(
    features: FeatureMoments,
    targets: TargetMoments,
    options: RidgeOptions | None = None,
    bands: tuple[int, ...] | None = None,
) -> EncodingScores:
    """Score targets from moments alone, whose shards of stimuli no process need hold together.

    Sum what `feature_moments` and `target_moments` return for every shard, with one shift for all
    of them that is near the mean. Scores are those of `score_targets` on the rows, but for
    rounding.

    Parameters
    ----------
    features : FeatureMoments
        With leading axes (n_folds, n_blocks).
    targets : TargetMoments
        With the same features and leading axes. What is said of a target's values by
        `score_targets` holds for its sums.
    options : RidgeOptions, optional
        With selection by "kfold" or "gcv".
    bands : tuple of int, optional
        Widths (n_f, n_g) of the two bands; None for one band.

    Raises
    ------
    ValueError
        As for `factorise_moments`, or if the two moments do not go together.
    """
    if features.count.ndim != 2 or features.x.shape != targets.xy.shape[:-1]:
        raise ValueError(
            f"features have moments of shape {tuple(features.x.shape)} but the targets' are "
            f"{tuple(targets.xy.shape)}; give (n_folds, n_blocks, n_features) and one more for "
            "the targets, of the same folds, blocks and features."
        )
    if not len(targets.shift) or not features.count.sum():
        raise ValueError("moments hold no target or no stimulus; give one or more of each.")
    features = features.per_fold()
    # Alphas are for weights of mean 1.
    n_stimuli = float(features.count.sum())
    unit = n_stimuli / float(features.weight.sum())
    products = put(features.products) * unit
    features = replace(features, count=put(features.count), products=products)
    design = factorise_moments(features, options, bands)
    blocks = _blocks_of_moments(design, targets, unit, n_stimuli)
    return _scores(design, ((block, fit(design, sums)) for block, sums in blocks))


def _scores(design: Design, fitted: Iterable[tuple[_Block, Sequence[Fit]]]) -> EncodingScores:
    """Join the scores of blocks of targets."""
    measures: list[dict[str, NDArray[np.float32]]] = []
    counts: list[EncodingCounts] = []
    for block, fits in fitted:
        measures.append(_measures(block, design.options, fits))
        counts.append(_counts(block, design.options, fits))
        del block, fits  # not to be held while the next block is fitted
    joined = {name: np.concatenate([m[name] for m in measures], axis=1) for name in measures[0]}
    return EncodingScores(
        r=joined["r"],
        sse=joined["sse"],
        sst=joined["sst"],
        alpha=joined["alpha"],
        ratio=joined.get("ratio"),
        r_off=joined.get("r_off"),
        sse_off=joined.get("sse_off"),
        counts=EncodingCounts(*map(sum, zip(*map(astuple, counts), strict=True))),
    )


def permutation_scores(
    design: Design,
    y: Columns,
    n_permutations: int,
    seed: int,
    groups: NDArray[Any] | None = None,
) -> NDArray[np.float32]:
    """Null scores: permute whole stimuli of `y` before fitting, choose alphas and ratios anew.

    Row weights stay with the features, so X'X and every factor are those of the observed fit.

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

    Raises
    ------
    ValueError
        If `y` or `groups` has another number of rows than the features.
    """
    drawn = (design.n_stimuli, n_permutations, seed, groups)
    scores = [_permuted(design, block, _orders(*drawn)) for block in _blocks(design, y)]
    return np.concatenate(scores, axis=1)


def permutations(
    n_stimuli: int, n_permutations: int, seed: int, groups: NDArray[Any] | None = None
) -> Ints:
    """Draw orders of stimuli, (n_permutations + 1, n_stimuli); row 0 is the identity."""
    return np.stack([*_orders(n_stimuli, n_permutations, seed, groups)])


def _orders(
    n_stimuli: int, n_permutations: int, seed: int, groups: NDArray[Any] | None
) -> Iterator[Ints]:
    """Yield orders one by one: all of them are as large as a thousand targets."""
    generator = np.random.default_rng(seed)
    groups = np.zeros(n_stimuli) if groups is None else np.asarray(groups)
    if groups.shape != (n_stimuli,):
        raise ValueError(f"groups has shape {groups.shape}; give one value for {n_stimuli} rows.")
    members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    yield np.arange(n_stimuli)
    for _ in range(n_permutations):
        order = np.arange(n_stimuli)
        for rows in members:
            order[rows] = generator.permuted(rows)
        yield order


def bootstrap_scores(
    design: Design, y: Columns, blocks: NDArray[np.integer], n_bootstraps: int, seed: int
) -> NDArray[np.float32]:
    """Scores refitted on resampled blocks of stimuli, at each target's own alphas and ratios.

    Keeps moments of n_folds x n_blocks x n_features x (n_features + TARGET_WIDTH) x 8 bytes.

    Parameters
    ----------
    design : Design
    y : array, (n_stimuli, n_targets)
    blocks : array of int, (n_stimuli,)
        Block of each stimulus within its fold.
    n_bootstraps : int
    seed : int
        The same for all layers and signals, so that their replicates are paired.

    Returns
    -------
    array, (n_bootstraps + 1, n_targets) float32
        Mean over folds of r for one band, U for two; index 0 is observed.

    Raises
    ------
    ValueError
        If `y` or `blocks` has another number of rows than the features.
    """
    if len(blocks) != design.n_stimuli:
        raise ValueError(f"blocks has {len(blocks)} rows but the features have {design.n_stimuli}.")
    if n_bootstraps == 0:
        return permutation_scores(design, y, 0, seed)
    own = design.coordinates
    layout = Layout.of(own.layout.folds, own.layout.weights, np.asarray(blocks))
    coordinates = replace(own, layout=layout)
    features = feature_moments(coordinates)
    weights = block_weights(fetch(features.count), n_bootstraps, seed)
    scores = [
        _resampled(design, block, coordinates, features, weights) for block in _blocks(design, y)
    ]
    return np.concatenate(scores, axis=1)


def _resampled(
    design: Design,
    block: _Block,
    coordinates: Coordinates,
    features: FeatureMoments,
    weights: Floats,
) -> NDArray[np.float32]:
    """Scores of one block of targets, observed and in every replicate, (n + 1, n_targets)."""
    n_targets = block.rows.shape[1]
    fits = [
        Fit.map(lambda a: a[0][:, :n_targets], [f]) for f in fit(design, Block(_pad(block.rows)))
    ]
    targets = target_moments(coordinates, block.rows, np.zeros(n_targets))
    scores = [statistic([chosen.scores for chosen in fits])]
    for start in range(0, len(weights), REPLICATES):
        drawn = weights[start : start + REPLICATES]
        x_sums, y_sums = features.weigh(drawn).on_cpu(), targets.weigh(drawn).on_cpu()
        parts = ((x_sums.part(i), y_sums.part(i)) for i in range(len(drawn)))
        scores.extend(_refit(design, x_part, y_part, fits) for x_part, y_part in parts)
    return np.where(block.usable, np.stack(scores), np.nan).astype(np.float32)


def block_weights(counts: Floats, n_bootstraps: int, seed: int) -> Floats:
    """Draw how often each block enters each replicate, with replacement within its fold.

    Parameters
    ----------
    counts : array, (n_folds, n_blocks)
        Stimuli per block; empty blocks are never drawn.
    n_bootstraps : int
    seed : int

    Returns
    -------
    array, (n_bootstraps, n_folds, n_blocks)
        Per fold, weights add up to its number of filled blocks.
    """
    generator = np.random.default_rng(seed)
    filled = counts > 0
    totals = filled.sum(axis=1)
    drawn = generator.multinomial(
        totals, filled / totals[:, None], size=(n_bootstraps, len(counts))
    )
    return drawn.astype(np.float64)


@dataclass(frozen=True)
class _Block:
    """Targets ready to fit: rows (n_stimuli, n) of mean zero and unit variance.

    `scale` is the standard deviation taken out; NaN and constant targets have rows of zeros.
    """

    rows: Floats
    scale: Floats
    is_nan: NDArray[np.bool_]
    is_constant: NDArray[np.bool_]

    @property
    def usable(self) -> NDArray[np.bool_]:
        return ~(self.is_nan | self.is_constant)


def _blocks(design: Design, y: Columns) -> Iterator[_Block]:
    if len(y.shape) != 2 or y.shape[0] != design.n_stimuli or y.shape[1] == 0:
        raise ValueError(
            f"targets have shape {tuple(y.shape)} but the features have {design.n_stimuli} rows; "
            "give (n_stimuli, n_targets) for the same stimuli."
        )
    for start in range(0, y.shape[1], TARGET_WIDTH):
        yield _prepare(np.array(y[:, start : start + TARGET_WIDTH], dtype=np.float64))


def _prepare(y: Floats) -> _Block:
    is_nan = np.array(~np.isfinite(y).all(axis=0))
    y[:, is_nan] = 0.0
    _, scale, is_constant = centre(y, ridge.RELATIVE_ZERO_SD)
    is_nan |= (scale < LEAST_SD) | ~(scale <= LARGEST_SD)
    y[:, is_nan], scale[is_nan] = 0.0, 1.0
    y /= scale
    return _Block(y, scale, is_nan, is_constant & ~is_nan)


def _blocks_of_moments(
    design: Design, targets: TargetMoments, unit: float, n_stimuli: float
) -> Iterator[tuple[_Block, Block]]:
    """Yield blocks of targets without rows, and their moments per fold as of standardised rows."""
    for start in range(0, len(targets.shift), TARGET_WIDTH):
        columns = slice(start, start + TARGET_WIDTH)
        part = targets.columns(columns).per_fold().on_cpu()
        products, yy = part.products * unit, part.yy * unit
        is_nan = ~np.isfinite(yy).all(axis=0)
        products[..., is_nan], yy[:, is_nan] = 0.0, 0.0
        total = products[:, 0].sum(axis=0), yy.sum(axis=0)
        scaler = Scaler.of_columns(n_stimuli, n_stimuli, *total, part.shift, True)
        is_constant = (scaler.unit == 0) & ~is_nan
        scale = 1 / np.where(scaler.unit > 0, scaler.unit, 1.0)
        is_nan |= (scale < LEAST_SD) | ~(scale <= LARGEST_SD)
        scale[is_nan] = 1.0
        inverse = np.where(is_nan, 0.0, scaler.unit)
        products *= inverse
        yy *= inverse**2
        sums = TargetMoments(_pad(part.shift), put(_pad(products)), put(_pad(yy)))
        rows = np.empty((0, len(scale)))
        yield _Block(rows, scale, is_nan, is_constant), Block.of_sums(design.coordinates, sums)


def _pad(rows: Floats) -> Floats:
    """Add columns of zeros up to `TARGET_WIDTH`."""
    missing = TARGET_WIDTH - rows.shape[-1]
    return np.pad(rows, [*[(0, 0)] * (rows.ndim - 1), (0, missing)]) if missing else rows


def _measures(
    block: _Block, options: RidgeOptions, fits: Sequence[Fit]
) -> dict[str, NDArray[np.float32]]:
    """Measures (n_folds, n_targets) of a block without its padding."""
    n_targets = block.rows.shape[1]

    def real(values: Floats) -> NDArray[np.float32]:
        return np.where(block.usable, values[:, :n_targets], np.nan).astype(np.float32)

    def squared(values: Floats) -> NDArray[np.float32]:
        return real(values[:, :n_targets] * block.scale**2)

    full = fits[0]
    measures = {
        "r": real(full.scores.r),
        "sse": squared(full.scores.sse),
        "sst": squared(full.scores.sst),
        "alpha": real(options.alpha_grid[full.alpha]),
    }
    for off in fits[1:]:
        measures["ratio"] = real(options.ratio_grid[full.ratio])
        measures["r_off"] = real(off.scores.r)
        measures["sse_off"] = squared(off.scores.sse)
    return measures


def _counts(block: _Block, options: RidgeOptions, fits: Sequence[Fit]) -> EncodingCounts:
    """Count what is odd of a block without its padding."""
    n_targets = block.rows.shape[1]
    scores, alpha = fits[0].scores, fits[0].alpha[:, :n_targets]
    return EncodingCounts(
        nan_targets=int(block.is_nan.sum()),
        constant_targets=int(block.is_constant.sum()),
        constant_folds=int((block.usable & (scores.sst[:, :n_targets] == 0)).sum()),
        flat_predictions=int(scores.flat[:, :n_targets].sum()),
        lowest_alpha=int((block.usable & (alpha == len(options.alpha_grid) - 1)).sum()),
        highest_alpha=int((block.usable & (alpha == 0)).sum()),
    )


def _permuted(design: Design, block: _Block, orders: Iterator[Ints]) -> NDArray[np.float32]:
    """Scores of one block of targets under each order of stimuli, (n_orders, n_targets)."""
    n_targets = block.rows.shape[1]
    scores = []
    for n_orders, columns in _side_by_side(block.rows, orders):
        values = statistic([chosen.scores for chosen in fit(design, Block(columns))])
        scores.append(values[: n_orders * n_targets].reshape(n_orders, n_targets))
    return np.where(block.usable, np.concatenate(scores), np.nan).astype(np.float32)


def _side_by_side(rows: Floats, orders: Iterator[Ints]) -> Iterator[tuple[int, Floats]]:
    """Yield a number of orders, and targets in these orders, padded to `TARGET_WIDTH`."""
    n_targets = rows.shape[1]
    for first in orders:
        columns = np.zeros((len(rows), TARGET_WIDTH))
        stop = 0
        for order in chain([first], islice(orders, TARGET_WIDTH // n_targets - 1)):
            columns[:, stop : stop + n_targets] = rows[order]
            stop += n_targets
        yield stop // n_targets, columns


def _refit(
    design: Design, x_sums: FeatureMoments, y_sums: TargetMoments, fits: Sequence[Fit]
) -> Floats:
    """Statistic of one replicate from its sums per fold, (n_targets,)."""
    folds = [_refit_fold(design, x_sums, y_sums, fits, k) for k in range(len(design.outer))]
    return statistic([FoldScores.map(np.stack, scores) for scores in zip(*folds, strict=True)])


def _refit_fold(
    design: Design, x_sums: FeatureMoments, y_sums: TargetMoments, fits: Sequence[Fit], k: int
) -> tuple[FoldScores, ...]:
    training, y_training = x_sums.others(k), y_sums.others(k)
    scaler = Scaler.of(training, design.options.standardise)
    gram, xy = scaler.gram(training), _standardised(scaler, training, y_training)
    held_x, held_y = x_sums.part(k), y_sums.part(k)
    held_xy = _standardised(scaler, held_x, held_y)
    held = Centred.of(float(held_x.weight), held_y)
    bias = held.mean - Centred.of(scaler.weight, y_training).mean
    rows = {n: HeldOut.standardised(scaler, held_x, n) for n in set(map(len, design.scales))}
    scores: tuple[FoldScores, ...] = ()
    for chosen, n_ratios in zip(reversed(fits), reversed(design.n_ratios), strict=True):
        penalties = design.options.alpha_grid[chosen.alpha[k]]

        def score_columns(i: int, columns: Ints, penalties: Floats = penalties) -> FoldScores:
            scale = design.scales[i]
            beta = ridge.solve(gram, xy.take(columns, axis=1), scale, penalties[columns])
            d = held_xy[: len(scale)].take(columns, axis=1)
            return score(beta, rows[len(scale)], d, held.take(columns), bias[columns])

        off = scores[0] if scores else None
        scores = (score_by_ratio(score_columns, chosen.ratio[k], n_ratios, off), *scores)
    return scores


def _standardised(scaler: Scaler, x_sums: FeatureMoments, y_sums: TargetMoments) -> Floats:
    """Products of standardised features with targets, both about the rows' own means."""
    mean = x_sums.x / x_sums.weight
    xy = np.multiply.outer(-mean, y_sums.y)
    xy += y_sums.xy
    xy *= scaler.unit[:, None]
    return xy
