"""Scores from moments that were summed over shards of stimuli, against those from all rows."""

from dataclasses import astuple, fields
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradenc_core.ridge.basis import RidgeOptions
from gradenc_core.ridge.encode import encode, score_moments
from gradenc_core.ridge.fitting import TARGET_WIDTH
from gradenc_core.ridge.moments import Coordinates, Layout, feature_moments, target_moments

ALPHAS = tuple(float(alpha) for alpha in np.logspace(-1, 4, 6))


def study(n=90, p=12, t=7, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, p)) * rng.uniform(0.1, 10, p) + rng.standard_normal(p)
    y = x / x.std(axis=0) @ rng.standard_normal((p, t)) + 3 * rng.standard_normal((n, t)) + 5
    return x, y, rng.permutation(np.arange(n) % 4), rng.integers(1, 4, n).astype(float)


def summed(x, y, folds, weights, edges):
    """Sum the moments of shards, each read for itself."""
    shift, y_shift = x[:20].mean(axis=0), np.nan_to_num(y[:20].mean(axis=0))
    blocks = np.arange(len(x)) % 3
    total = None
    for start, stop in pairwise(edges):
        rows = slice(start, stop)
        layout = Layout.of(folds[rows], weights[rows], blocks[rows], (4, 3))
        coordinates = Coordinates(layout, x[rows], shift)
        part = feature_moments(coordinates), target_moments(coordinates, y[rows], y_shift)
        total = part if total is None else (total[0] + part[0], total[1] + part[1])
    return total


def assert_same(found, want):
    assert astuple(found.counts) == astuple(want.counts)
    for name in (field.name for field in fields(want) if field.name != "counts"):
        a, b = getattr(found, name), getattr(want, name)
        assert (a is None) == (b is None)
        if b is not None:
            np.testing.assert_allclose(a, b, rtol=2e-6, atol=1e-7, err_msg=name)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(1, 89), max_size=6, unique=True),
    st.sampled_from(["kfold", "gcv"]),
    st.sampled_from([None, (7, 5)]),
    st.sampled_from([1e-3, 1.0, 1e6]),
    st.integers(0, 99),
)
def test_scores_from_shards_are_those_of_all_rows(cuts, selection, bands, unit, seed):
    x, y, folds, weights = study(seed=seed)
    y *= unit
    y[3, 1], y[:, 4] = np.nan, 7.0
    y[:, 6] *= 1e-25  # beyond float32's squares
    options = RidgeOptions(ALPHAS, selection, ratios=(0.0, 0.1, 1.0))
    moments = summed(x, y, folds, weights, [0, *sorted(cuts), len(x)])
    found = score_moments(*moments, options, bands)
    assert_same(found, encode(x, y, folds, weights, options, bands))
    assert (found.counts.nan_targets, found.counts.constant_targets) == (2, 1)


def test_more_targets_than_a_block_and_more_features_than_stimuli():
    x, y, folds, weights = study(n=60, p=80, t=TARGET_WIDTH + 3)
    options = RidgeOptions(ALPHAS)
    found = score_moments(*summed(x, y, folds, weights, [0, 31, 60]), options)
    want = encode(x, y, folds, weights, options)
    assert np.array_equal(found.alpha, want.alpha)
    np.testing.assert_allclose(found.r, want.r, atol=1e-6)


def test_moments_that_do_not_go_together_are_refused():
    x, y, folds, weights = study()
    features, targets = summed(x, y, folds, weights, [0, 90])
    with pytest.raises(ValueError, match="needs rows"):
        score_moments(features, targets, RidgeOptions(ALPHAS, "loo"))
    with pytest.raises(ValueError, match="folds, blocks and features"):
        score_moments(features, targets.per_fold())
    with pytest.raises(ValueError, match="folds, blocks and features"):
        score_moments(features.per_fold(), targets.per_fold())
    with pytest.raises(ValueError, match="no target"):
        score_moments(features, targets.columns(slice(0)))
    kept = folds != 2
    layout = Layout.of(folds[kept], weights[kept], np.arange(len(x))[kept] % 3, (4, 3))
    coordinates = Coordinates(layout, x[kept], features.shift)
    moments = feature_moments(coordinates), target_moments(coordinates, y[kept], targets.shift)
    with pytest.raises(ValueError, match="fold 2 of 4 holds no stimulus"):
        score_moments(*moments)
