import numpy as np
import pytest

from gradenc_core.ridge import moments
from gradenc_core.ridge.moments import (
    Coordinates,
    RowGroups,
    feature_moments,
    first_mean,
    target_moments,
)


def data(n=60, p=4, t=3, seed=0):
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((n, p)) + 100, rng.standard_normal((n, t))
    folds, blocks = rng.permutation(np.arange(n) % 3), rng.integers(0, 4, n)
    return x, y, folds, blocks, rng.integers(1, 4, n).astype(float)


def per_fold(x, weights, folds):
    return feature_moments(
        Coordinates(RowGroups.of(folds, weights), x, np.zeros(x.shape[1]))
    ).per_fold()


@pytest.mark.parametrize("rows_at_once", [4096, 7])
def test_moments_are_the_sums_they_say(monkeypatch, rows_at_once):
    monkeypatch.setattr(moments, "ROWS", rows_at_once)
    x, y, folds, blocks, w = data()
    groups, shift = RowGroups.of(folds, w, blocks), x[:5].mean(axis=0)
    fm = feature_moments(Coordinates(groups, x, shift))
    tm = target_moments(Coordinates(groups, x, shift), y)
    for k in range(3):
        for b in range(4):
            rows = (folds == k) & (blocks == b)
            xs, ys, ws = x[rows] - shift, y[rows], w[rows, None]
            assert fm.count[k, b] == rows.sum()
            assert fm.weight[k, b] == pytest.approx(ws.sum())
            np.testing.assert_allclose(fm.x[k, b], (ws * xs).sum(axis=0), atol=1e-12)
            np.testing.assert_allclose(fm.xx[k, b], (ws * xs).T @ xs, atol=1e-12)
            np.testing.assert_allclose(tm.y[k, b], (ws * ys).sum(axis=0), atol=1e-12)
            np.testing.assert_allclose(tm.yy[k, b], (ws * ys**2).sum(axis=0), atol=1e-12)
            np.testing.assert_allclose(tm.xy[k, b], (ws * xs).T @ ys, atol=1e-12)


def test_others_are_sums_and_keep_nothing_of_a_huge_held_out_stimulus():
    x, _, folds, _, w = data()
    x -= 100
    clean = per_fold(x, w, folds).others(0)
    x[np.flatnonzero(folds == 0)[0]] *= 1e12
    sums = per_fold(x, w, folds)
    assert np.array_equal(sums.others(0).xx, clean.xx)
    difference = sums.xx.sum(axis=0) - sums.xx[0]
    assert not np.allclose(difference, clean.xx)


def test_weights_of_blocks_are_weights_of_their_rows():
    x, y, folds, blocks, w = data()
    drawn = np.random.default_rng(1).integers(0, 3, (2, 3, 4)).astype(float)
    groups, zeros = RowGroups.of(folds, w, blocks), np.zeros(4)
    fm = feature_moments(Coordinates(groups, x, zeros)).weigh(drawn)
    tm = target_moments(Coordinates(groups, x, zeros), y).weigh(drawn)
    for b in range(2):
        rows = RowGroups.of(folds, w * drawn[b][folds, blocks])
        want_x = feature_moments(Coordinates(rows, x, zeros)).per_fold()
        want_y = target_moments(Coordinates(rows, x, zeros), y).per_fold()
        np.testing.assert_allclose(fm.part(b).xx, want_x.xx, rtol=1e-12)
        np.testing.assert_allclose(fm.part(b).weight, want_x.weight, rtol=1e-12)
        np.testing.assert_allclose(tm.part(b).xy, want_y.xy, rtol=1e-11, atol=1e-10)


def test_the_shift_is_the_mean_of_the_rows_that_are_read_first(monkeypatch):
    monkeypatch.setattr(moments, "ROWS", 9)
    x = data()[0]
    np.testing.assert_allclose(first_mean(x), x[:9].mean(axis=0))
