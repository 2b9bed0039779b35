"""Encoding against plain scikit-learn, himalaya, closed forms and its own invariants."""

import numpy as np
import pytest
from himalaya.ridge import GroupRidgeCV, RidgeCV
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge
from sklearn.model_selection import PredefinedSplit
from sklearn.preprocessing import StandardScaler

from gradenc_core.ridge.encode import encode, score_targets
from gradenc_core.ridge.factorise import factorise
from gradenc_core.ridge.options import RidgeOptions
from gradenc_core.ridge.scores import analytic_p

ALPHAS = (0.1, 1.0, 10.0, 100.0, 1e4)
RATIOS = (0.0, 0.1, 1.0, 4.0)
SELECTIONS = ("kfold", "gcv", "loo")


def study(n=80, p=12, t=5, seed=0, n_folds=4, noise=2.0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, p)) * rng.uniform(0.1, 10, p) + rng.standard_normal(p)
    y = x / x.std(axis=0) @ rng.standard_normal((p, t)) + noise * rng.standard_normal((n, t))
    return x, y, rng.permutation(np.arange(n) % n_folds), rng.integers(1, 4, n).astype(float)


# ---- a naive reference: rows, loops and scikit-learn ----


def predict(x, y, w, test, alpha, scale):
    """Standardise by the training rows, scale columns, fit Ridge, predict the test rows."""
    scaler = StandardScaler().fit(x, sample_weight=w)
    model = Ridge(alpha=alpha, solver="cholesky").fit(
        scaler.transform(x) * scale, y, sample_weight=w
    )
    return model.predict(scaler.transform(test) * scale)


def kfold_error(x, y, w, folds, alpha, scale):
    error = 0.0
    for j in np.unique(folds):
        fit, test = folds != j, folds == j
        guess = predict(x[fit], y[fit], w[fit], x[test], alpha, scale)
        error += (w[test] * (y[test] - guess) ** 2).sum()
    return error


def gcv_error(x, y, w, folds, alpha, scale):
    """With the hat matrix of the weighted fit with intercept."""
    hat = predict(x, np.eye(len(y)), w, x, alpha, scale)
    residual = y - hat @ y
    return (w * residual**2).sum() / (1 - np.trace(hat) / len(y)) ** 2


def loo_error(x, y, w, folds, alpha, scale):
    """Leave each row out, standardisation of the whole training set held fixed."""
    z = StandardScaler().fit(x, sample_weight=w).transform(x) * scale
    error = 0.0
    for i in range(len(y)):
        kept = np.arange(len(y)) != i
        model = Ridge(alpha=alpha, solver="cholesky").fit(z[kept], y[kept], sample_weight=w[kept])
        error += w[i] * (y[i] - model.predict(z[[i]])[0]) ** 2
    return error


ERRORS = {"kfold": kfold_error, "gcv": gcv_error, "loo": loo_error}


def naive(x, y, folds, w, selection, grid):
    """Nested fit of one target; `grid` lists (alpha, ratio, scale), larger alphas first."""
    w = w / w.mean()
    out = {"r": [], "sse": [], "sst": [], "alpha": [], "ratio": []}
    for k in np.unique(folds):
        fit, test = folds != k, folds == k
        errors = [
            ERRORS[selection](x[fit], y[fit], w[fit], folds[fit], alpha, scale)
            for alpha, _, scale in grid
        ]
        alpha, ratio, scale = grid[int(np.argmin(errors))]
        guess = predict(x[fit], y[fit], w[fit], x[test], alpha, scale)
        cov = np.cov(y[test], guess, aweights=w[test])
        mean = np.average(y[test], weights=w[test])
        out["r"].append(cov[0, 1] / np.sqrt(cov[0, 0] * cov[1, 1]))
        out["sse"].append((w[test] * (y[test] - guess) ** 2).sum())
        out["sst"].append((w[test] * (y[test] - mean) ** 2).sum())
        out["alpha"].append(alpha)
        out["ratio"].append(ratio)
    return {name: np.array(values) for name, values in out.items()}


def one_band_grid(p, alphas=ALPHAS):
    return [(alpha, 1.0, np.ones(p)) for alpha in sorted(alphas, reverse=True)]


def banded_grid(bands, ratios=RATIOS):
    return [
        (alpha, ratio, np.repeat([1, np.sqrt(ratio)], bands))
        for alpha in sorted(ALPHAS, reverse=True)
        for ratio in ratios
    ]


def assert_same(scores, want, target, names=("r", "sse", "sst", "alpha")):
    for name in names:
        got = getattr(scores, name)[:, target]
        np.testing.assert_allclose(got, want[name.removesuffix("_off")], rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize(("n", "p"), [(60, 8), (24, 40)])
def test_one_band_equals_scikit_learn(selection, n, p):
    x, y, folds, w = study(n, p, t=3)
    scores = encode(x, y, folds, w, RidgeOptions(ALPHAS, selection))
    assert scores.r.dtype == np.float32
    for t in range(3):
        assert_same(scores, naive(x, y[:, t], folds, w, selection, one_band_grid(p)), t)


@pytest.mark.parametrize("selection", SELECTIONS)
def test_two_bands_equal_scikit_learn(selection):
    x, y, folds, w = study(32, 14, t=2, noise=4)
    scores = encode(x, y, folds, w, RidgeOptions(ALPHAS, selection, RATIOS), bands=(9, 5))
    for t in range(2):
        want = naive(x, y[:, t], folds, w, selection, banded_grid((9, 5)))
        assert_same(scores, want, t, ("r", "sse", "sst", "alpha", "ratio"))
        off = naive(x, y[:, t], folds, w, selection, banded_grid((9, 5), [0.0]))
        assert_same(scores, off, t, ("r_off", "sse_off"))


def test_fixed_alpha_is_the_closed_form():
    x, y, folds, _ = study()
    scores = encode(x, y, folds, options=RidgeOptions((7.0,), "gcv"))
    fit, test = folds != 0, folds == 0
    mean, sd = x[fit].mean(axis=0), x[fit].std(axis=0)
    z, zt, yc = (x[fit] - mean) / sd, (x[test] - mean) / sd, y[fit] - y[fit].mean(axis=0)
    guess = y[fit].mean(axis=0) + zt @ np.linalg.solve(z.T @ z + 7 * np.eye(12), z.T @ yc)
    want = [np.corrcoef(g, t)[0, 1] for g, t in zip(guess.T, y[test].T, strict=True)]
    np.testing.assert_allclose(scores.r[0], want, rtol=1e-6)
    np.testing.assert_allclose(scores.sse[0], ((y[test] - guess) ** 2).sum(axis=0), rtol=1e-6)


def test_two_bands_agree_with_himalaya():
    """On one grid of alphas and ratios; neither standardises, so that they mean the same."""
    x, y, folds, _ = study(200, 14, t=60, noise=4)
    options = RidgeOptions(ALPHAS, "kfold", RATIOS, standardise=False)
    scores = encode(x, y, folds, options=options, bands=(9, 5))
    fit, test = folds != 0, folds == 0
    models = [himalaya_fit(x[fit], y[fit], PredefinedSplit(folds[fit]), ratio) for ratio in RATIOS]
    best = np.argmax([np.ravel(model.cv_scores_) for model in models], axis=0)
    guesses = [
        model.predict(x[test] if ratio else x[test, :9])
        for model, ratio in zip(models, RATIOS, strict=True)
    ]
    for t, i in enumerate(best):
        assert scores.ratio[0, t] == np.float32(RATIOS[i])
        assert scores.alpha[0, t] == pytest.approx(models[i].best_alphas_[t] * (1 + RATIOS[i]))
        want = np.corrcoef(guesses[i][:, t], y[test, t])[0, 1]
        assert scores.r[0, t] == pytest.approx(want, abs=1e-5)


def himalaya_fit(z, y, cv, ratio):
    """Banded ridge at one ratio: its two squared scales add up to one, so alphas are rescaled."""
    alphas = np.array(ALPHAS) / (1 + ratio)
    if ratio == 0:
        return RidgeCV(alphas=alphas, cv=cv, fit_intercept=True).fit(z[:, :9], y)
    gammas = np.array([[1.0, ratio]]) / (1 + ratio)
    params = {"n_iter": gammas, "alphas": alphas, "progress_bar": False}
    return GroupRidgeCV(
        groups=[0] * 9 + [1] * 5, cv=cv, fit_intercept=True, solver_params=params
    ).fit(z, y)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(9, 50),
    p=st.integers(1, 60),
    rank=st.integers(1, 60),
    selection=st.sampled_from(SELECTIONS),
    x_scale=st.sampled_from([1e-30, 1e-6, 1.0, 1e8, 1e30]),
    y_scale=st.sampled_from([1e-15, 1.0, 1e12]),
    seed=st.integers(0, 99),
)
def test_scores_of_any_shape_and_scale(n, p, rank, selection, x_scale, y_scale, seed):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, min(rank, p))) @ rng.standard_normal((min(rank, p), p))
    x[:, 0] = rng.choice([0.0, 3.3, x[0, 0]])
    y = np.column_stack([x @ rng.standard_normal(p), rng.standard_normal((n, 2)), np.full(n, 0.7)])
    y[n // 2, 1] = np.nan
    folds = rng.permutation(np.arange(n) % 3)
    options = RidgeOptions((1.0, 100.0), selection)
    scores = encode(x * x_scale, y * y_scale, folds, options=options)
    assert np.isnan(scores.r[:, [1, 3]]).all()
    assert np.isnan(scores.alpha[:, [1, 3]]).all()
    assert (scores.counts.nan_targets, scores.counts.constant_targets - (p == 1)) == (1, 1)
    free = [0, 2] if p > 1 else [2]  # without a varying feature the first target is constant
    assert (np.abs(scores.r[:, free]) <= 1).all()
    assert (scores.sse[:, free] >= 0).all()
    assert (scores.alpha[:, free] >= 1).all()
    plain = encode(x, y, folds, options=options)
    np.testing.assert_allclose(scores.r, plain.r, atol=1e-4)
    np.testing.assert_allclose(
        scores.sse[:, free] / scores.sst[:, free],
        plain.sse[:, free] / plain.sst[:, free],
        rtol=1e-3,
    )


def test_a_feature_without_variance_changes_nothing():
    x, y, folds, w = study()
    plain = encode(x, y, folds, w)
    for constant in (0.0, 0.1, 1e9):
        more = encode(np.column_stack([x, np.full(len(x), constant)]), y, folds, w)
        np.testing.assert_allclose(more.r, plain.r, atol=1e-6)
    rounding = 1e3 * (1 + 1e-8 * np.random.default_rng(0).standard_normal(len(x)))
    np.testing.assert_allclose(
        encode(np.column_stack([x, rounding]), y, folds, w).r, plain.r, atol=1e-6
    )


@pytest.mark.parametrize("seed", range(5))
def test_a_feature_that_varies_only_in_the_held_out_fold_has_no_weight(seed):
    x, y, folds, w = study(seed=seed)
    alone = np.where(folds == 0, np.random.default_rng(seed).standard_normal(len(x)) + 3, 0)
    more = encode(np.column_stack([x, alone]), y, folds, w, RidgeOptions((1.0,)))
    plain = encode(x, y, folds, w, RidgeOptions((1.0,)))
    np.testing.assert_allclose(more.r[0], plain.r[0], atol=1e-6)


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("constant", [0.1, 7.7])
def test_features_constant_in_a_fold_of_few_rows_lose_no_score(selection, constant):
    """Ten rows of forty features are described by a root of their moments."""
    x, y, folds, w = study(60, 40, t=2, n_folds=6)
    x[folds == 1, :20] = constant
    scores = encode(x, y, folds, w, RidgeOptions((0.1, 10.0), selection))
    for t in range(2):
        want = naive(x, y[:, t], folds, w, selection, one_band_grid(40, (0.1, 10.0)))
        assert_same(scores, want, t)


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("p", [4, 6, 30])
def test_folds_of_one_stimulus_or_of_duplicates_have_squared_errors(selection, p):
    x, y, _, w = study(12, p, t=2)
    folds = np.array([0, 1, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4])
    x[folds == 2] = x[2]
    scores = encode(x, y, folds, w, RidgeOptions((0.1, 10.0), selection))
    assert np.isnan(scores.r[:2]).all()
    assert (scores.r[2] == 0).all()
    assert np.isfinite(scores.r[3:]).all()
    for t in range(2):
        with np.errstate(invalid="ignore"):
            want = naive(x, y[:, t], folds, w, selection, one_band_grid(p, (0.1, 10.0)))
        assert_same(scores, want, t, ("sse", "alpha"))


def test_no_features_with_variance_predict_nothing_and_are_counted():
    _, y, folds, _ = study()
    scores = encode(np.full((80, 3), 2.5), y, folds)
    assert (scores.r == 0).all()
    assert scores.counts.flat_predictions == scores.r.size
    assert (scores.alpha == 1e8).all()  # all alphas tie
    assert scores.counts.highest_alpha == scores.counts.lowest_alpha == 0


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("trap", ["huge stimulus", "distant means"])
def test_traps_of_precision_cost_no_accuracy(selection, trap):
    x, y, folds, w = study(48, 8, t=2)
    if trap == "huge stimulus":
        x[7] *= 1e4
    else:
        x += 100 * x.std(axis=0)
    scores = encode(x, y, folds, w, RidgeOptions((0.1, 10.0), selection))
    for t in range(2):
        want = naive(x, y[:, t], folds, w, selection, one_band_grid(8, (0.1, 10.0)))
        np.testing.assert_allclose(scores.r[:, t], want["r"], atol=1e-6)
        np.testing.assert_allclose(scores.sse[:, t], want["sse"], rtol=1e-6)
        np.testing.assert_allclose(scores.alpha[:, t], want["alpha"], rtol=1e-6)


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("bands", [None, (7, 5)])
def test_a_target_does_not_depend_on_its_neighbours(selection, bands):
    x, y, folds, w = study(t=1500)
    options = RidgeOptions(ALPHAS, selection, (0.0, 1.0))
    design = factorise(x, folds, w, options, bands)
    together = score_targets(design, y)
    order = np.random.default_rng(0).permutation(1500)
    dirty = y[:, order].copy()
    dirty[3, ::2] = np.nan
    mixed = score_targets(design, dirty)
    clean = np.arange(1500) % 2 == 1
    few = score_targets(design, y[:, 700:703])
    for name in ("r", "sse", "alpha"):
        want = getattr(together, name)
        assert np.array_equal(getattr(mixed, name)[:, clean], want[:, order[clean]])
        assert np.array_equal(getattr(few, name), want[:, 700:703])


def test_order_of_rows_does_not_matter():
    x, y, folds, w = study()
    rows = np.random.default_rng(0).permutation(80)
    a, b = encode(x, y, folds, w), encode(x[rows], y[rows], folds[rows], w[rows])
    np.testing.assert_allclose(a.r, b.r, atol=1e-6)


def test_weights_are_repeats():
    x, y, folds, w = study()
    repeated = np.repeat(np.arange(80), w.astype(int))
    options = RidgeOptions((5.0 * w.mean(),))
    rows = encode(x[repeated], y[repeated], folds[repeated], options=options)
    weighted = encode(x, y, folds, w, RidgeOptions((5.0,)))
    np.testing.assert_allclose(rows.r, weighted.r, atol=1e-6)
    assert np.array_equal(encode(x, y, folds, 2 * w).r, encode(x, y, folds, w).r)


def test_a_target_constant_in_one_fold_has_no_score_there():
    x, y, folds, w = study(t=20)
    y[folds == 1] = 10 * np.random.default_rng(0).standard_normal(20)
    scores = encode(x, y, folds, w)
    assert np.isnan(scores.r[1]).all()
    assert (scores.sst[1] == 0).all()
    assert scores.counts.constant_folds == 20
    assert scores.counts.constant_targets == 0
    assert np.isfinite(scores.r[[0, 2, 3]]).all()


# ---- unique variance ----


def forward_brain(n=400, seed=0, gradient=0.0):
    """Responses to F alone, or also to the part of G that F lacks; G is mostly F."""
    rng = np.random.default_rng(seed)
    f = rng.standard_normal((n, 20))
    own = rng.standard_normal((n, 8))
    g = f @ rng.standard_normal((20, 8)) + own
    y = f @ rng.standard_normal((20, 60)) + gradient * own @ rng.standard_normal((8, 60))
    y += 4 * rng.standard_normal((n, 60))
    return np.column_stack([f, g]), y, rng.permutation(np.arange(n) % 5)


def unique(scores):
    return (scores.sse_off.sum(axis=0) - scores.sse.sum(axis=0)) / scores.sst.sum(axis=0)


@pytest.mark.parametrize("selection", ["kfold", "gcv"])
def test_unique_variance_is_none_in_a_forward_brain(selection):
    options = RidgeOptions(selection=selection)
    x, y, folds = forward_brain()
    assert abs(unique(encode(x, y, folds, options=options, bands=(20, 8))).mean()) < 2e-3
    x, y, folds = forward_brain(gradient=1.0)
    assert unique(encode(x, y, folds, options=options, bands=(20, 8))).mean() > 0.1


def test_same_layer_unique_variance_is_no_evidence_where_that_of_all_layers_is():
    """A gradient is a function of deeper activations: beside its own layer's it always adds."""
    rng = np.random.default_rng(0)
    own, deeper = rng.standard_normal((2, 600, 12))
    gradient = deeper @ rng.standard_normal((12, 8)) + own @ rng.standard_normal((12, 8))
    y = own @ rng.standard_normal((12, 60)) + deeper @ rng.standard_normal((12, 60))
    y += 4 * rng.standard_normal((600, 60))
    folds = rng.permutation(np.arange(600) % 5)
    same_layer = unique(encode(np.hstack([own, gradient]), y, folds, bands=(12, 8)))
    everything = unique(encode(np.hstack([own, deeper, gradient]), y, folds, bands=(24, 8)))
    assert same_layer.mean() > 0.05
    assert abs(everything.mean()) < 3 * everything.std() / np.sqrt(60) + 1e-3
    assert abs(everything.mean()) < 2e-3


def test_band_off_is_exactly_the_first_band_alone():
    x, y, folds = forward_brain()
    scores = encode(x, y, folds, bands=(20, 8))
    off = scores.ratio == 0
    assert off.any()
    assert not off.all()
    assert np.array_equal(scores.sse[off], scores.sse_off[off])
    alone = encode(x[:, :20], y, folds)
    np.testing.assert_allclose(scores.r_off, alone.r, atol=1e-6)


# ---- significance ----


def test_analytic_p_keeps_its_level():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((300, 20)), rng.standard_normal((300, 4000))
    r = encode(x, y, np.arange(300) % 5, options=RidgeOptions((100.0,))).r.mean(axis=0)
    assert 0.025 < (analytic_p(r, 300, 5) < 0.05).mean() < 0.055
    assert analytic_p(np.zeros(1), 300, 5)[0] == 0.5


# ---- bad input ----


def test_bad_input_is_named():
    x, y, folds, w = study()
    broken = x.copy()
    broken[:, 3] = np.nan
    cases = [
        (lambda: encode(broken, y, folds), "1 of 12 features .* first in column 3"),
        (lambda: encode(x[:, 0], y, folds), r"features have shape \(80,\)"),
        (lambda: encode(x[:, :0], y, folds), r"features have shape \(\d+, 0\); give stimuli"),
        (lambda: encode(x[:0], y[:0], folds[:0]), r"features have shape \(0, \d+\); give stimuli"),
        (lambda: encode(x, y[:-1], folds), r"targets have shape \(79, 5\) .* 80 rows"),
        (lambda: encode(x, y, folds[:-1]), r"folds has shape \(79,\) .* 80 rows"),
        (lambda: encode(x, y, folds, w[:-1]), r"weights has shape \(79,\) .* 80 rows"),
        (lambda: encode(x, y, folds, w - 1), "weights hold values that are not positive"),
        (lambda: encode(x[:3], y[:3], np.array([0, 1, 4])), "3 stimuli cannot fill 5 folds"),
        (lambda: encode(x, y, np.where(folds == 1, 0, folds)), "fold 1 of 4 holds no stimulus"),
        (lambda: encode(x, y, folds % 2), "at least 3 for selection 'kfold'"),
        (lambda: encode(x, y, folds - 1), "folds run from -1"),
        (lambda: encode(x, y, folds, bands=(7, 6)), r"bands is \(7, 6\); .* 12 features"),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize("unit", [1e-30, 1e20, 1e200])
def test_a_target_in_units_beyond_float32_is_counted_and_touches_no_other(unit):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 30, 4))
    folds = np.arange(30) % 5
    expected = encode(x, y, folds)
    found = encode(x, y * [1, unit, 1, 1], folds)
    assert found.counts.nan_targets == 1
    assert np.isnan(found.r[:, 1]).all()
    assert np.isnan(found.sst[:, 1]).all()
    np.testing.assert_array_equal(found.r[:, [0, 2, 3]], expected.r[:, [0, 2, 3]])


# ---- edges of the grid ----


def chosen(alphas, y, x):
    options = RidgeOptions(alphas, "kfold")
    return encode(x, y, np.arange(len(x)) % 4, options=options).counts


def test_only_targets_that_are_predicted_count_at_the_edges_of_the_grid():
    x, y, _, _ = study(n=400, p=40, t=6, noise=8.0)
    noise = np.random.default_rng(1).standard_normal((400, 60))
    both = np.hstack([y, noise])
    grids = (0.01, 0.1), (0.01, 60.0, 1e6), (1e5, 1e6)
    low, wide, high = (chosen(alphas, both, x) for alphas in grids)
    assert low.predicted == wide.predicted == high.predicted == 4 * 6
    assert (low.lowest_alpha, low.highest_alpha) == (0, 24)
    assert (wide.lowest_alpha, wide.highest_alpha) == (0, 0)
    assert (high.lowest_alpha, high.highest_alpha) == (24, 0)


def test_noise_chooses_the_largest_alpha_and_counts_nowhere():
    x = np.random.default_rng(0).standard_normal((300, 8))
    y = np.random.default_rng(1).standard_normal((300, 200))
    scores = encode(x, y, np.arange(300) % 4, options=RidgeOptions((1.0, 1e2, 1e6), "kfold"))
    assert (scores.alpha == 1e6).mean() > 0.5
    assert (scores.counts.predicted, scores.counts.highest_alpha) == (0, 0)
