"""Resampling of whole stimuli: a permutation null, and a bootstrap of blocks of stimuli.

Both share the factors of the observed fit where they can: a permutation moves responses only, so
features stay as they are; a bootstrap sums the moments of blocks with other weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradenc_core.arrays import Columns, Floats, Ints, fetch
from gradenc_core.ridge.basis import Scaler, solve
from gradenc_core.ridge.choose import Fit, fit
from gradenc_core.ridge.cost import REPLICATES
from gradenc_core.ridge.factorise import Design
from gradenc_core.ridge.moments import (
    Coordinates,
    FeatureMoments,
    RowGroups,
    TargetMoments,
    feature_moments,
    target_moments,
)
from gradenc_core.ridge.scores import (
    Centred,
    FoldScores,
    HeldOut,
    score,
    score_by_ratio,
    statistic,
)
from gradenc_core.ridge.targets import (
    TARGET_WIDTH,
    StandardisedTargets,
    TargetBlock,
    standardised_blocks,
)


def permutation_scores(
    design: Design,
    y: Columns,
    n_permutations: int,
    seed: int,
    groups: NDArray[Any] | None = None,
    together: NDArray[Any] | None = None,
) -> NDArray[np.float32]:
    """Null scores: permute whole stimuli of `y` before fitting, choose alphas and ratios anew.

    Row weights stay with the features, so X'X and every factor are those of the observed fit.

    Parameters
    ----------
    design : Design
    y : array, (n_stimuli, n_targets)
    n_permutations : int
    seed : int
        The same for all layers, signals and targets, so that a maximum over layers belongs to one
        null.
    groups : array, (n_stimuli,), optional
        Stimuli are permuted only within a group, such as a session.
    together : array, (n_stimuli,), optional
        Stimuli of one value, such as a category, move as one: they change places with those of
        another value that are as many and lie in the same groups. A value without such another
        stays in its place, which costs power and keeps the test valid.

    Returns
    -------
    array, (n_permutations + 1, n_targets) float32
        Mean over folds of r for one band, U for two; index 0 is observed.

    Raises
    ------
    ValueError
        If `y`, `groups` or `together` has another number of rows than the features.
    """
    drawn = (design.n_stimuli, n_permutations, seed, groups, together)
    scores = [
        _permuted(design, block, _orders(*drawn))
        for block in standardised_blocks(y, design.n_stimuli)
    ]
    return np.concatenate(scores, axis=1)


def permutations(
    n_stimuli: int,
    n_permutations: int,
    seed: int,
    groups: NDArray[Any] | None = None,
    together: NDArray[Any] | None = None,
) -> Ints:
    """Draw orders of stimuli, (n_permutations + 1, n_stimuli); row 0 is the identity."""
    return np.stack([*_orders(n_stimuli, n_permutations, seed, groups, together)])


def _orders(
    n_stimuli: int,
    n_permutations: int,
    seed: int,
    groups: NDArray[Any] | None,
    together: NDArray[Any] | None,
) -> Iterator[Ints]:
    """Yield orders one by one: all together take as much memory as a thousand targets."""
    generator = np.random.default_rng(seed)
    groups = np.zeros(n_stimuli) if groups is None else np.asarray(groups)
    together = np.arange(n_stimuli) if together is None else np.asarray(together)
    for name, given in (("groups", groups), ("together", together)):
        if given.shape != (n_stimuli,):
            raise ValueError(f"{name} has shape {given.shape}; give one value for {n_stimuli} rows")
    alike = exchangeable(groups, together)
    yield np.arange(n_stimuli)
    for _ in range(n_permutations):
        order = np.arange(n_stimuli)
        for rows in alike:
            order[rows] = rows[generator.permuted(np.arange(len(rows)))]
        yield order


def exchangeable(groups: NDArray[Any], together: NDArray[Any]) -> list[Ints]:
    """Return the sets of stimuli that may change places, each array (n_sets, n_stimuli_per_set).

    A set holds the stimuli of one value of `together`, ordered by their groups. Sets in one array
    have the same groups in the same order, so that any exchange leaves each group its stimuli.
    """
    codes, sets = (np.unique(values, return_inverse=True)[1] for values in (groups, together))
    rows_by_set = np.split(np.lexsort((codes, sets)), np.cumsum(np.bincount(sets))[:-1])
    alike: dict[tuple[int, ...], list[Ints]] = {}
    for rows in rows_by_set:
        alike.setdefault(tuple(codes[rows].tolist()), []).append(rows)
    return [np.stack(alike[key]) for key in sorted(alike)]


def _permuted(
    design: Design, block: StandardisedTargets, orders: Iterator[Ints]
) -> NDArray[np.float32]:
    """Scores of one block of targets under each order of stimuli, (n_orders, n_targets)."""
    n_targets = block.rows.shape[1]
    scores = []
    for n_orders, columns in _side_by_side(block.rows, orders):
        values = statistic([chosen.scores for chosen in fit(design, TargetBlock(columns))])
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


def bootstrap_scores(
    design: Design, y: Columns, blocks: NDArray[np.integer], n_bootstraps: int, seed: int
) -> NDArray[np.float32]:
    """Scores refitted on resampled blocks of stimuli, at each target's own alphas and ratios.

    The moments take n_folds x n_blocks x n_features x (n_features + TARGET_WIDTH) x 8 bytes.

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
    groups = RowGroups.of(own.groups.folds, own.groups.weights, np.asarray(blocks))
    coordinates = replace(own, groups=groups)
    features = feature_moments(coordinates)
    weights = block_weights(fetch(features.count), n_bootstraps, seed)
    scores = [
        _resampled(design, block, coordinates, features, weights)
        for block in standardised_blocks(y, design.n_stimuli)
    ]
    return np.concatenate(scores, axis=1)


def _resampled(
    design: Design,
    block: StandardisedTargets,
    coordinates: Coordinates,
    features: FeatureMoments,
    weights: Floats,
) -> NDArray[np.float32]:
    """Scores of one block of targets, observed and in every replicate, (n + 1, n_targets)."""
    n_targets = block.rows.shape[1]
    fits = [Fit.map(lambda a: a[0][:, :n_targets], [f]) for f in fit(design, block.padded())]
    targets = target_moments(coordinates, block.rows)
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
            beta = solve(gram, xy.take(columns, axis=1), scale, penalties[columns])
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
