"""Permutation and bootstrap against refits of rows, one by one."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from gradenc_core.ridge import resample, targets
from gradenc_core.ridge.encode import encode, score_targets
from gradenc_core.ridge.factorise import factorise
from gradenc_core.ridge.options import RidgeOptions
from gradenc_core.ridge.resample import (
    block_weights,
    bootstrap_scores,
    exchangeable,
    permutation_scores,
    permutations,
)

ALPHAS = (0.1, 1.0, 10.0, 100.0, 1e4)
RATIOS = (0.0, 0.1, 1.0, 4.0)
SELECTIONS = ("kfold", "gcv", "loo")


def study(n=80, p=12, t=5, seed=0, n_folds=4, noise=2.0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, p)) * rng.uniform(0.1, 10, p) + rng.standard_normal(p)
    y = x / x.std(axis=0) @ rng.standard_normal((p, t)) + noise * rng.standard_normal((n, t))
    return x, y, rng.permutation(np.arange(n) % n_folds), rng.integers(1, 4, n).astype(float)


def predict(x, y, w, test, alpha, scale):
    """Standardise by the training rows, scale columns, fit Ridge, predict the test rows."""
    scaler = StandardScaler().fit(x, sample_weight=w)
    model = Ridge(alpha=alpha, solver="cholesky").fit(
        scaler.transform(x) * scale, y, sample_weight=w
    )
    return model.predict(scaler.transform(test) * scale)


def unique(scores):
    return (scores.sse_off.sum(axis=0) - scores.sse.sum(axis=0)) / scores.sst.sum(axis=0)


# ---- permutation ----


@pytest.mark.parametrize("bands", [None, (7, 5)])
@pytest.mark.parametrize("selection", SELECTIONS)
def test_permutation_refits_permuted_responses(selection, bands):
    x, y, folds, w = study()
    y[:, 1] = np.nan
    options = RidgeOptions(ALPHAS, selection, RATIOS)
    groups = np.arange(80) // 20
    design = factorise(x, folds, w, options, bands)
    scores = permutation_scores(design, y, 3, seed=5, groups=groups)
    orders = permutations(80, 3, 5, groups)
    assert orders[0].tolist() == list(range(80))
    assert (groups[orders] == groups).all()
    assert scores.shape == (4, 5)
    for order, got in zip(orders, scores, strict=True):
        fitted = encode(x, y[order], folds, w, options, bands)
        want = fitted.r.mean(axis=0) if bands is None else unique(fitted)
        np.testing.assert_allclose(got, want, atol=1e-6)
    assert np.isnan(scores[:, 1]).all()


def test_permutation_does_not_depend_on_the_number_of_targets(monkeypatch):
    x, y, folds, w = study(t=300)
    design = factorise(x, folds, w, RidgeOptions(selection="gcv"))
    many = permutation_scores(design, y, 9, 0)
    assert np.array_equal(many[:, 7:9], permutation_scores(design, y[:, 7:9], 9, 0))
    for module in (resample, targets):
        monkeypatch.setattr(module, "TARGET_WIDTH", 128)
    np.testing.assert_allclose(many, permutation_scores(design, y, 9, 0), atol=1e-6)


@pytest.mark.parametrize("n_targets", [1, 3])
def test_orders_of_stimuli_take_no_memory_beside_a_block_of_targets(n_targets):
    x, y, folds, _ = study(3000, 4, t=n_targets)
    design = factorise(x, folds, options=RidgeOptions((1.0,), "gcv"))
    tracemalloc.start()
    permutation_scores(design, y, 1000, 0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * 8 * targets.TARGET_WIDTH * len(y)


@pytest.mark.parametrize("bands", [None, (20, 8)])
def test_permutation_null_is_centred(bands):
    x, y, folds, _ = study(150, 28, t=60, n_folds=5, noise=6)
    options = RidgeOptions(selection="gcv")
    scores = permutation_scores(factorise(x, folds, None, options, bands), y, 50, 1)
    assert scores[0].mean() > 0.01
    assert -0.02 < scores[1:].mean() < 0.002
    assert scores[0].mean() > scores[1:].mean(axis=1).max()


# ---- bootstrap ----


@pytest.mark.parametrize("bands", [None, (7, 5)])
def test_bootstrap_with_unit_weights_is_the_observed_fit(monkeypatch, bands):
    x, y, folds, w = study()
    blocks = np.random.default_rng(1).integers(0, 6, 80)
    design = factorise(x, folds, w, RidgeOptions(ALPHAS, "kfold", RATIOS), bands)
    monkeypatch.setattr(resample, "block_weights", lambda c, b, s: np.ones((b, *c.shape)))
    scores = bootstrap_scores(design, y, blocks, 2, 0)
    fitted = score_targets(design, y)
    want = fitted.r.mean(axis=0) if bands is None else unique(fitted)
    for row in scores:
        np.testing.assert_allclose(row, want, atol=1e-6)


@pytest.mark.parametrize("bands", [None, (7, 5)])
def test_bootstrap_refits_resampled_rows_at_the_chosen_alphas(bands):
    x, y, folds, w = study(t=3)
    blocks = np.random.default_rng(1).integers(0, 6, 80)
    options = RidgeOptions(ALPHAS, "gcv", RATIOS)
    scores = bootstrap_scores(factorise(x, folds, w, options, bands), y, blocks, 2, 3)
    fitted = encode(x, y, folds, w, options, bands)
    counts = np.array([[((folds == k) & (blocks == b)).sum() for b in range(6)] for k in range(4)])
    drawn = block_weights(counts.astype(float), 2, 3)[1][folds, blocks]
    rows = drawn > 0
    for t in range(3):
        r, sse, sst, off = [], [], [], []
        for k in range(4):
            fit, test = (folds != k) & rows, (folds == k) & rows
            weight = (w / w.mean() * drawn)[test]

            def guess(alpha, scale, fit=fit, test=test, t=t):
                return predict(
                    x[fit], y[fit, t], (w / w.mean() * drawn)[fit], x[test], alpha, scale
                )

            ratio = 1.0 if bands is None else float(fitted.ratio[k, t])
            scale = np.repeat([1, np.sqrt(ratio)], bands or (12, 0))
            full = guess(float(fitted.alpha[k, t]), scale)
            cov = np.cov(y[test, t], full, aweights=weight)
            r.append(cov[0, 1] / np.sqrt(cov[0, 0] * cov[1, 1]))
            sse.append((weight * (y[test, t] - full) ** 2).sum())
            mean = np.average(y[test, t], weights=weight)
            sst.append((weight * (y[test, t] - mean) ** 2).sum())
            if bands:
                first = encode(x[:, :7], y, folds, w, options).alpha[k, t]
                alone = guess(float(first), np.repeat([1.0, 0.0], bands))
                off.append((weight * (y[test, t] - alone) ** 2).sum())
        want = np.mean(r) if bands is None else (np.sum(off) - np.sum(sse)) / np.sum(sst)
        np.testing.assert_allclose(scores[2, t], want, atol=2e-6)


def test_bootstrap_spread_is_that_of_new_stimuli():
    def draw(seed):
        rng = np.random.default_rng(seed)
        x = rng.standard_normal((400, 5))
        y = x @ np.ones((5, 40)) * 0.3 + rng.standard_normal((400, 40))
        return x, y, np.arange(400) % 5, rng.permutation(400) // 5 % 20

    options = RidgeOptions((10.0,))
    x, y, folds, blocks = draw(0)
    scores = bootstrap_scores(factorise(x, folds, None, options), y, blocks, 60, 0)
    anew = [encode(*draw(seed)[:3], options=options).r.mean(axis=0) for seed in range(1, 31)]
    spread = scores[1:].std(axis=0).mean()
    assert spread == pytest.approx(np.std(anew, axis=0).mean(), rel=0.25)


def test_without_replicates_the_observed_scores_remain():
    x, y, folds, w = study()
    design = factorise(x, folds, w, RidgeOptions(ALPHAS))
    scores = bootstrap_scores(design, y, np.arange(80) % 3, 0, 0)
    np.testing.assert_allclose(scores, [score_targets(design, y).r.mean(axis=0)], atol=1e-7)


def test_bootstrap_blocks_are_drawn_within_folds_and_never_empty():
    counts = np.array([[3.0, 2, 0], [1, 1, 1]])
    weights = block_weights(counts, 500, 0)
    assert (weights.sum(axis=2) == [2, 3]).all()
    assert (weights[:, 0, 2] == 0).all()
    np.testing.assert_allclose(weights.mean(axis=0)[:, :2], 1, atol=0.15)
    assert np.array_equal(weights, block_weights(counts, 500, 0))


def test_bootstrap_survives_tiny_alphas_and_nan_targets():
    x, y, folds, w = study(40, 30)
    x[:, 1] = x[:, 0]
    y[0, 2] = np.inf
    design = factorise(x, folds, w, RidgeOptions((1e-14,), "gcv"))
    scores = bootstrap_scores(design, y, np.arange(40) // 4 % 5, 3, 0)
    assert np.isnan(scores[:, 2]).all()
    assert np.isfinite(np.delete(scores, 2, axis=1)).all()


def test_rows_that_do_not_match_the_features_are_named():
    x, y, folds, w = study()
    design = factorise(x, folds, w)
    cases = [
        (lambda: bootstrap_scores(design, y, folds[:-1], 1, 0), "blocks has 79 rows"),
        (lambda: permutation_scores(design, y, 1, 0, folds[:-1]), r"groups has shape \(79,\)"),
        (lambda: permutation_scores(design, y[:-1], 1, 0), r"targets have shape \(79, 5\)"),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message):
            call()


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 6)), min_size=1, max_size=40))
def test_a_category_moves_as_one_and_stays_in_its_sessions(rows):
    groups, together = np.array(rows).T
    for order in permutations(len(rows), 4, 1, groups, together):
        assert sorted(order) == list(range(len(rows)))
        assert (groups[order] == groups).all()
        for value in np.unique(together):
            assert len(np.unique(together[order[together == value]])) == 1


def test_categories_of_another_size_stay_in_place():
    together = np.array([0, 0, 1, 1, 2, 2, 2])
    found = [rows.shape for rows in exchangeable(np.zeros(7), together)]
    assert sorted(found) == [(1, 3), (2, 2)]
    orders = permutations(7, 20, 0, together=together)
    assert (orders[:, 4:] == [4, 5, 6]).all()
    assert len(np.unique(orders, axis=0)) == 2


def test_images_of_a_category_are_not_taken_for_independent():
    """Both are driven by categories, and independent: one p in twenty is below .05."""
    rng = np.random.default_rng(0)
    category = np.repeat(np.arange(30), 6)
    below = {"whole": [], "single": []}
    for seed in range(24):
        x, y = (
            rng.standard_normal((30, k))[category] + 0.7 * rng.standard_normal((180, k))
            for k in (6, 10)
        )
        design = factorise(x, category % 5, options=RidgeOptions(alphas=(1.0, 100.0, 1e4)))
        for name, together in (("whole", category), ("single", None)):
            scores = permutation_scores(design, y, 39, seed, together=together)
            below[name].append(((scores >= scores[0]).mean(axis=0) <= 0.05).mean())
    assert np.mean(below["whole"]) < 0.1
    assert np.mean(below["single"]) > 0.15
