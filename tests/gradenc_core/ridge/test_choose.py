"""Which alphas are chosen, against every error computed in float64; the same on tensors."""

import numpy as np
import pytest
from himalaya.ridge import RidgeCV as HimalayaRidgeCV
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.model_selection import PredefinedSplit

from gradenc_core import arrays as device
from gradenc_core.ridge import choose as selection
from gradenc_core.ridge import moments
from gradenc_core.ridge.basis import RidgeOptions
from gradenc_core.ridge.choose import Block, loo_errors
from gradenc_core.ridge.encode import bootstrap_scores, encode, permutation_scores, score_targets
from gradenc_core.ridge.estimator import fit_ridge
from gradenc_core.ridge.factorise import factorise, read, train
from gradenc_core.ridge.quadratic import squared_predictions

ALPHAS = tuple(np.logspace(-3, 6, 13).tolist())


def study(n, p, t, seed, kind):
    """Heavy-tailed features, a fifth of the targets pure noise, and what is numerically hard."""
    rng = np.random.default_rng(seed)
    x = rng.standard_t(3, (n, p)) * rng.lognormal(0, 1, p)
    if kind == "huge stimulus":
        x[n // 2] *= 1e4
    elif kind == "distant means":
        x += 100 * x.std(axis=0)
    elif kind == "duplicated":
        x[:, p // 2 :] = x[:, : p - p // 2]
    elif kind == "condition 1e6":
        u, _, v = np.linalg.svd(x, full_matrices=False)
        x = u * np.logspace(0, -6, len(v)) @ v
    y = x / x.std(axis=0) @ rng.standard_normal((p, t)) / np.sqrt(p)
    y *= np.where(np.arange(t) % 5 == 0, 0, rng.uniform(0.2, 2, t))
    y += rng.standard_normal((n, t))
    return x, y, rng.permutation(np.arange(n) % 4), rng.integers(1, 4, n).astype(float)


def standardised(x, w, fit):
    mean = np.average(x[fit], axis=0, weights=w[fit])
    sd = np.sqrt(np.average((x[fit] - mean) ** 2, axis=0, weights=w[fit]))
    return (x - mean) / sd


def predictions(x, y, w, fit, alpha):
    """Predictions of all rows by the rows `fit`, and their hat matrix's diagonal: SVD, float64."""
    z, root = standardised(x, w, fit), np.sqrt(w[fit])[:, None]
    mean = np.average(y[fit], axis=0, weights=w[fit])
    u, s, v = np.linalg.svd(z[fit] * root, full_matrices=False)
    kept = s > s[0] * 1e-7
    u, s, v = u[:, kept], s[kept], v[kept]
    gain = s / (s**2 + alpha)
    leverage = w[fit] / w[fit].sum() + (u**2) @ (s * gain)
    return mean + z @ v.T @ (gain[:, None] * (u.T @ (root * (y[fit] - mean)))), leverage


def reference(x, y, folds, w, selection):
    """Errors of every alpha, (n_alphas, n_targets), alphas falling."""
    errors = []
    for alpha in sorted(ALPHAS, reverse=True):
        if selection == "kfold":
            parts = []
            for k in range(4):
                guess, _ = predictions(x, y, w, folds != k, alpha)
                held = folds == k
                parts.append((w[held, None] * (y - guess)[held] ** 2).sum(axis=0))
            errors.append(sum(parts))
            continue
        guess, leverage = predictions(x, y, w, np.ones(len(x), bool), alpha)
        if selection == "loo":
            errors.append((w[:, None] * ((y - guess) / (1 - leverage)[:, None]) ** 2).sum(axis=0))
        else:
            residual = (w[:, None] * (y - guess) ** 2).sum(axis=0)
            errors.append(residual / (1 - leverage.sum() / len(x)) ** 2)
    return np.stack(errors)


@settings(max_examples=40, deadline=None)
@given(
    n=st.sampled_from([12, 40, 90]),
    p=st.sampled_from([1, 3, 20, 60, 120]),
    kind=st.sampled_from(["plain", "huge stimulus", "distant means", "duplicated"]),
    selection=st.sampled_from(["kfold", "loo", "gcv"]),
    seed=st.integers(0, 99),
)
def test_the_alpha_is_the_one_of_least_error(n, p, kind, selection, seed):
    x, y, folds, w = study(n, p, 70, seed, kind)
    errors = reference(x, y, folds, w / w.mean(), selection)
    best, second = np.sort(errors, axis=0)[:2]
    clear = second - best > 1e-6 * best
    fitted = fit_ridge(x, y, folds, w, RidgeOptions(ALPHAS, selection))
    want = np.array(sorted(ALPHAS, reverse=True))[errors.argmin(axis=0)]
    np.testing.assert_allclose(fitted.alpha[clear], want[clear])


@pytest.mark.parametrize(("n", "p"), [(16, 15), (16, 40)])
def test_leave_one_out_of_an_interpolating_fit_is_not_rounding(n, p):
    """With n <= p the errors at tiny alphas tend to a limit, the kernel's closed form."""
    x, y, _, w = study(n, p, 5, 3, "plain")
    w /= w.mean()
    z = standardised(x, w, np.ones(n, bool))
    left_out = np.zeros(y.shape)
    for i in range(n):
        kept = np.arange(n) != i
        mean, y_mean = (np.average(v[kept], axis=0, weights=w[kept]) for v in (z, y))
        left_out[i] = (
            y[i] - y_mean - (z[i] - mean) @ np.linalg.pinv(z[kept] - mean) @ (y[kept] - y_mean)
        )
    want = (w[:, None] * left_out**2).sum(axis=0)
    coordinates = read(x, np.zeros(n, int), w)
    (whole,) = train(coordinates, [()], RidgeOptions(ALPHAS, "loo"), None)
    for alpha in (1e-8, 1e-11, 1e-13):
        errors = loo_errors(whole, Block(y), np.array([alpha]))[0, 0]
        np.testing.assert_allclose(errors, want, rtol=1e-4)


def test_a_huge_stimulus_leaves_its_own_leverage_its_digits():
    """With more features than stimuli its 1 - h is as small as 1e-8.

    What stays is rounding of the kernel's small eigenvalues, which a large alpha hides.
    """
    x, y, _, w = study(90, 120, 70, 1123, "huge stimulus")
    y -= y.mean(axis=0)
    want = reference(x, y, None, w / w.mean(), "loo")
    coordinates = read(x, np.zeros(90, int), w)
    options = RidgeOptions(ALPHAS, "loo")
    (whole,) = train(coordinates, [()], options, None)
    for i, alpha in enumerate(options.alpha_grid):
        errors = loo_errors(whole, Block(y), np.array([alpha]))[0, 0]
        np.testing.assert_allclose(errors, want[i], rtol=max(1e-8, 1e-5 / alpha))


@pytest.mark.parametrize("bands", [None, (7, 5)])
def test_choices_that_the_bounds_decide_are_not_computed_again(monkeypatch, bands):
    """Also where the least error of all is at another ratio than the first."""
    x, y, folds, w = study(90, 12, 20, 1, "plain")
    options = RidgeOptions(ALPHAS, ratios=(0.0, 0.1, 1.0))
    monkeypatch.setattr(selection, "squared_predictions", undecided)
    want = encode(x, y, folds, w, options, bands)
    monkeypatch.undo()
    monkeypatch.delattr(selection, "_exact_squares")
    found = encode(x, y, folds, w, options, bands)
    assert np.array_equal(found.alpha, want.alpha)
    if bands:
        assert np.array_equal(found.ratio, want.ratio)
        assert (found.ratio > 0).any()
        assert np.array_equal(found.r_off, want.r_off)


def undecided(*arguments):
    for squares, margin in squared_predictions(*arguments):
        yield squares, np.full_like(margin, np.inf)


@pytest.mark.parametrize("selection", ["kfold", "loo", "gcv"])
@pytest.mark.parametrize(
    ("unit", "mean"), [(1e-25, 0.0), (1e25, 0.0), (1.0, 9.0), (1.0, 11.0), (1e3, 1e6)]
)
def test_targets_as_they_are_and_standardised_are_fitted_alike(selection, unit, mean):
    """On both sides of where targets are left in their units, or about their means."""
    x, y, folds, w = study(90, 12, 20, 0, "plain")
    y = (y - y.mean(axis=0)) / y.std(axis=0)
    options = RidgeOptions(ALPHAS, selection)
    plain = fit_ridge(x, y, folds, w, options)
    other = fit_ridge(x, unit * (y + mean), folds, w, options)
    np.testing.assert_array_equal(other.alpha, plain.alpha)
    np.testing.assert_allclose(other.weights / unit, plain.weights, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(other.intercept / unit, plain.intercept + mean, rtol=1e-9, atol=1e-9)
    if selection == "kfold":
        np.testing.assert_allclose(other.r, plain.r, atol=1e-8)


def test_condition_1e6_changes_no_choice():
    x, y, folds, w = study(90, 20, 70, 0, "condition 1e6")
    errors = reference(x, y, folds, w / w.mean(), "kfold")
    fitted = fit_ridge(x, y, folds, w, RidgeOptions(ALPHAS))
    np.testing.assert_allclose(fitted.alpha, np.sort(ALPHAS)[::-1][errors.argmin(axis=0)])


@pytest.mark.parametrize("p", [12, 200])
@pytest.mark.parametrize("selection", ["kfold", "loo", "gcv"])
def test_weights_predict_what_the_closed_form_predicts(p, selection):
    x, y, folds, w = study(80, p, 9, 1, "plain")
    fitted = fit_ridge(x, y * 1e-9 + 5, folds, w, RidgeOptions(ALPHAS, selection))
    guess = x @ fitted.weights + fitted.intercept
    every = np.ones(80, bool)
    for t in range(9):
        want, _ = predictions(x, y[:, [t]], w / w.mean(), every, fitted.alpha[t])
        np.testing.assert_allclose((guess[:, t] - 5) * 1e9, want[:, 0], atol=1e-5)
    if selection == "kfold":
        guess, _ = predictions(x, y[:, [0]], w / w.mean(), folds != 2, fitted.alpha[0])
        held = folds == 2
        cov = np.cov(guess[held, 0], y[held, 0], aweights=w[held])
        want = cov[0, 1] / np.sqrt(cov[0, 0] * cov[1, 1])
        assert fitted.r[2, 0] == pytest.approx(want, abs=1e-6)


def test_alphas_at_an_edge_of_the_grid_are_counted():
    x, y, folds, _ = study(80, 12, 30, 1, "plain")
    fitted = fit_ridge(x, y, folds, options=RidgeOptions((1e-3, 1e-2)))
    assert fitted.lowest_alpha + fitted.highest_alpha == 30
    assert fitted.highest_alpha == (fitted.alpha == 1e-2).sum()


def test_targets_without_variance_are_counted_and_predicted_by_their_mean():
    x, y, folds, _ = study(60, 8, 4, 0, "plain")
    y[:, 1], y[:, 3] = 0.1, 0.0
    fitted = fit_ridge(x, y, folds)
    assert fitted.constant == 2
    assert fitted.highest_alpha == (fitted.alpha[[0, 2]] == 1e8).sum()
    assert not fitted.weights[:, [1, 3]].any()
    np.testing.assert_allclose(fitted.intercept[[1, 3]], [0.1, 0.0])
    assert np.isnan(fitted.r[:, [1, 3]]).all()
    assert np.isfinite(fitted.r[:, [0, 2]]).all()


def test_bad_targets_are_named():
    x, y, folds, _ = study(40, 5, 3, 0, "plain")
    y[3, 1] = np.nan
    with pytest.raises(ValueError, match=r"1 of 3 targets .* column 1"):
        fit_ridge(x, y, folds)
    with pytest.raises(ValueError, match=r"targets have shape \(39, 3\)"):
        fit_ridge(x, y[1:], folds)
    with np.errstate(over="ignore"), pytest.raises(ValueError, match="1 targets have squares"):
        fit_ridge(x, y[:, :1] * 1e160, folds)
    with pytest.raises(ValueError, match="'kfold' needs at least 2 folds"):
        fit_ridge(x, np.ones((40, 1)))
    with pytest.raises(ValueError, match="alphas is"):
        fit_ridge(x, np.ones((40, 1)), folds, options=RidgeOptions((-1.0,)))


@pytest.mark.parametrize("selection", ["kfold", "loo", "gcv"])
@pytest.mark.parametrize(("n", "bands"), [(60, (7, 5)), (60, None), (10, None)])
def test_rows_read_a_few_at_a_time_change_no_score(monkeypatch, selection, n, bands):
    x, y, folds, w = study(n, 12, 6, 2, "plain")
    options = RidgeOptions(ALPHAS, selection, (0.0, 1.0))
    whole = encode(x, y, folds, w, options, bands)
    monkeypatch.setattr(moments, "ROWS", 7)
    monkeypatch.setattr("gradenc_core.ridge.choose.ROWS", 7)
    parts = encode(x, y, folds, w, options, bands)
    np.testing.assert_allclose(parts.r, whole.r, atol=1e-6)
    assert np.array_equal(parts.alpha, whole.alpha)


@pytest.mark.parametrize("selection", ["kfold", "loo", "gcv"])
@pytest.mark.parametrize(("n", "bands"), [(60, (7, 5)), (10, None)])
def test_tensors_give_the_scores_of_arrays(monkeypatch, selection, n, bands):
    """What runs on a GPU, on torch's CPU tensors."""
    x, y, folds, w = study(n, 12, 6, 3, "plain")
    options = RidgeOptions(ALPHAS, selection, (0.0, 1.0))

    def everything():
        design = factorise(x, folds, w, options, bands)
        return (
            score_targets(design, y),
            permutation_scores(design, y, 2, 0),
            bootstrap_scores(design, y, np.arange(n) % 3, 2, 0),
        )

    want, want_null, want_spread = everything()
    monkeypatch.setattr(device, "uses_tensors", lambda: True)
    scores, null, spread = everything()
    assert np.array_equal(scores.alpha, want.alpha)
    np.testing.assert_allclose(scores.r, want.r, atol=1e-6)
    np.testing.assert_allclose(null, want_null, atol=1e-6)
    np.testing.assert_allclose(spread, want_spread, atol=1e-6)


FEW = ALPHAS[::3]
SHAPES = given(
    st.integers(3, 15),
    st.integers(1, 70),
    st.integers(1, 5),
    st.floats(0.1, 1),
    st.integers(0, 999),
)


def unstandardised(n, p, t, share, seed):
    """Features of any rank, one of them constant, and targets of any strength."""
    rng = np.random.default_rng(seed)
    rank = max(1, round(share * p))
    x = rng.standard_normal((n, rank)) @ rng.standard_normal((rank, p))
    x[:, 0] = 2.0
    return x, x @ rng.standard_normal((p, t)) * (seed % 3) + rng.standard_normal((n, t))


@settings(max_examples=50, deadline=None)
@SHAPES
def test_without_standardisation_it_is_scikit_learns_ridge(quarter, p, t, share, seed):
    x, y = unstandardised(4 * quarter, p, t, share, seed)
    ours = fit_ridge(x, y, options=RidgeOptions(FEW, "loo", standardise=False))
    theirs = RidgeCV(alphas=FEW, alpha_per_target=True, store_cv_results=True).fit(x, y)
    clear = is_clear(theirs.cv_results_.reshape(len(x), t, -1).sum(axis=0).T)
    np.testing.assert_allclose(ours.alpha[clear], np.ravel(theirs.alpha_)[clear])
    coef, intercept = np.atleast_2d(theirs.coef_)[clear], np.ravel(theirs.intercept_)[clear]
    np.testing.assert_allclose(ours.weights.T[clear], coef, rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(ours.intercept[clear], intercept, rtol=1e-5, atol=1e-7)


@settings(max_examples=50, deadline=None)
@SHAPES
def test_without_standardisation_it_chooses_as_himalaya(quarter, p, t, share, seed):
    """On folds of one size: himalaya averages over folds, not over rows."""
    x, y = unstandardised(4 * quarter, p, t, share, seed)
    folds = np.random.default_rng(seed).permutation(np.arange(len(x)) % 4)
    ours = fit_ridge(x, y, folds, options=RidgeOptions(FEW, "kfold", standardise=False))
    cv = PredefinedSplit(folds)
    theirs = HimalayaRidgeCV(alphas=FEW, fit_intercept=True, cv=cv).fit(x, y)
    errors = [
        sum(
            ((y[test] - model.fit(x[train], y[train]).predict(x[test]).reshape(-1, t)) ** 2).sum(0)
            for train, test in cv.split()
        )
        for model in [Ridge(alpha, solver="svd") for alpha in FEW]
    ]
    clear = is_clear(errors)
    np.testing.assert_allclose(ours.alpha[clear], theirs.best_alphas_[clear])


def is_clear(errors):
    """Targets whose best two errors, (n_alphas, n_targets), differ by more than 1e-6."""
    best, second = np.sort(errors, axis=0)[:2]
    return second - best > 1e-6 * best
