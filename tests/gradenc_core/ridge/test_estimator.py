"""`RidgeCV` against scikit-learn's conventions, closed forms, scikit-learn, himalaya, `encode`."""

import subprocess
import sys

import numpy as np
import pytest
from himalaya.ridge import RidgeCV as HimalayaRidgeCV
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge
from sklearn.linear_model import RidgeCV as SklearnRidgeCV
from sklearn.model_selection import GroupKFold, KFold, PredefinedSplit, ShuffleSplit
from sklearn.utils.estimator_checks import estimator_checks_generator

from gradenc_core.ridge.encode import encode
from gradenc_core.ridge.estimator import RidgeCV
from gradenc_core.ridge.options import RidgeOptions
from gradenc_core.ridge.targets import TARGET_WIDTH

ALPHAS = (0.01, 1.0, 30.0, 1e3)
RATIOS = (0.0, 0.3, 2.0)
CHECKS = [pair for cv in (5, "loo", "gcv") for pair in estimator_checks_generator(RidgeCV(cv=cv))]
"""Every check of `check_estimator`; that of the array API skips itself unless SciPy is told to."""


def name_of(value):
    if isinstance(value, RidgeCV):
        return str(value.cv)
    return value.func.__name__


@pytest.mark.parametrize(("estimator", "check"), CHECKS, ids=name_of)
def test_it_follows_scikit_learns_conventions(estimator, check):
    check(estimator)


def study(n=60, p=12, t=5, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, p)) * rng.uniform(0.1, 10, p) + rng.standard_normal(p)
    y = x / x.std(axis=0) @ rng.standard_normal((p, t)) / np.sqrt(p)
    y = 7 + 3 * (y + rng.standard_normal((n, t)))
    return x, y, rng.permutation(np.arange(n) % 4), rng.integers(1, 4, n).astype(float)


def closed_form(x, y, w, alpha, scale):
    """Weights and intercept of one target by the normal equations of standardised features."""
    mean, sd = np.average(x, axis=0, weights=w), np.ones(x.shape[1])
    sd = np.sqrt(np.average((x - mean) ** 2, axis=0, weights=w)) / scale
    z, y_mean = (x - mean) / sd, np.average(y, weights=w)
    gram = (z.T * w) @ z + alpha * np.eye(x.shape[1])
    coef = np.linalg.solve(gram, (z.T * w) @ (y - y_mean)) / sd
    return coef, y_mean - mean @ coef


@pytest.mark.parametrize("p", [12, 200])
@pytest.mark.parametrize("bands", [False, True])
@pytest.mark.parametrize("cv", [3, "loo", "gcv"])
def test_weights_are_those_of_the_normal_equations(p, bands, cv):
    x, y, _, w = study(p=p)
    bands = (p - 4, 4) if bands else None
    ridge = RidgeCV(ALPHAS, cv=cv, bands=bands, band_ratios=RATIOS).fit(x, y, sample_weight=w)
    for t in range(y.shape[1]):
        ratio = ridge.band_ratio_[t] if bands else 1.0
        scale = np.repeat([1, np.sqrt(max(ratio, 1e-30))], bands or (p, 0))
        coef, intercept = closed_form(x, y[:, t], w, ridge.alpha_[t], scale)
        np.testing.assert_allclose(ridge.coef_[t], coef, rtol=1e-6, atol=1e-8)
        assert ridge.intercept_[t] == pytest.approx(intercept)
    np.testing.assert_allclose(ridge.predict(x), x @ ridge.coef_.T + ridge.intercept_)


@pytest.mark.parametrize("bands", [None, (8, 4)])
def test_the_choice_has_the_least_error_of_all_alphas_and_ratios(bands):
    x, y, folds, w = study(t=12)
    cv = PredefinedSplit(folds)
    ridge = RidgeCV(ALPHAS, cv=cv, bands=bands, band_ratios=RATIOS).fit(x, y, sample_weight=w)
    ratios = RATIOS[1:] if bands else (1.0,)
    for t in range(y.shape[1]):
        errors = {}
        for ratio in ratios:
            scale = np.repeat([1, np.sqrt(ratio)], bands or (12, 0))
            for alpha in ALPHAS:
                errors[alpha, ratio] = kfold_error(x, y[:, t], folds, w, alpha, scale)
        if bands:
            for alpha in ALPHAS:
                errors[alpha, 0.0] = kfold_error(x[:, :8], y[:, t], folds, w, alpha, np.ones(8))
        chosen = ridge.alpha_[t], ridge.band_ratio_[t] if bands else 1.0
        assert chosen == min(errors, key=errors.get)
        assert ridge.best_score_[t] == pytest.approx(-errors[chosen] / w.sum())
    if bands:
        assert len(set(ridge.band_ratio_)) > 1


def kfold_error(x, y, folds, w, alpha, scale):
    error = 0.0
    for k in range(4):
        fit, held = folds != k, folds == k
        coef, intercept = closed_form(x[fit], y[fit], w[fit], alpha, scale)
        error += (w[held] * (y[held] - x[held] @ coef - intercept) ** 2).sum()
    return error


@pytest.mark.parametrize("cv", ["kfold", "loo", "gcv"])
@pytest.mark.parametrize("bands", [None, (8, 4)])
def test_it_chooses_and_predicts_as_encode_does_in_an_outer_fold(cv, bands):
    x, y, folds, _ = study(80, t=30)
    scores = encode(x, y, folds, options=RidgeOptions(ALPHAS, cv, RATIOS), bands=bands)
    fit, held = folds != 2, folds == 2
    splits = PredefinedSplit(folds[fit]) if cv == "kfold" else cv
    ridge = RidgeCV(ALPHAS, cv=splits, bands=bands, band_ratios=RATIOS).fit(x[fit], y[fit])
    np.testing.assert_allclose(ridge.alpha_, scores.alpha[2])
    if bands:
        np.testing.assert_allclose(ridge.band_ratio_, scores.ratio[2])
    sse = ((y[held] - ridge.predict(x[held])) ** 2).sum(axis=0)
    np.testing.assert_allclose(sse, scores.sse[2], rtol=1e-5)


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
    ours = RidgeCV(ALPHAS, cv="loo", standardise=False).fit(x, y)
    theirs = SklearnRidgeCV(alphas=ALPHAS, alpha_per_target=True, store_cv_results=True).fit(x, y)
    errors = theirs.cv_results_.reshape(len(x), t, -1).mean(axis=0).T
    clear = is_clear(errors)
    np.testing.assert_allclose(ours.alpha_[clear], np.ravel(theirs.alpha_)[clear])
    np.testing.assert_allclose(ours.best_score_, -errors.min(axis=0), rtol=1e-6)
    coef, intercept = np.atleast_2d(theirs.coef_)[clear], np.ravel(theirs.intercept_)[clear]
    np.testing.assert_allclose(ours.coef_[clear], coef, rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(ours.intercept_[clear], intercept, rtol=1e-5, atol=1e-7)


@settings(max_examples=50, deadline=None)
@SHAPES
def test_without_standardisation_it_chooses_as_himalaya(quarter, p, t, share, seed):
    """On folds of one size: himalaya averages over folds, not over rows."""
    x, y = unstandardised(4 * quarter, p, t, share, seed)
    cv = PredefinedSplit(np.random.default_rng(seed).permutation(np.arange(len(x)) % 4))
    ours = RidgeCV(ALPHAS, cv=cv, standardise=False).fit(x, y)
    theirs = HimalayaRidgeCV(alphas=ALPHAS, fit_intercept=True, cv=cv).fit(x, y)
    errors = [
        sum(
            ((y[test] - model.fit(x[train], y[train]).predict(x[test]).reshape(-1, t)) ** 2).sum(0)
            for train, test in cv.split()
        )
        for model in [Ridge(alpha, solver="svd") for alpha in ALPHAS]
    ]
    clear = is_clear(errors)
    np.testing.assert_allclose(ours.alpha_[clear], theirs.best_alphas_[clear])


def is_clear(errors):
    """Targets whose best two errors, (n_alphas, n_targets), differ by more than 1e-6."""
    best, second = np.sort(errors, axis=0)[:2]
    return second - best > 1e-6 * best


@pytest.mark.parametrize("bands", [None, (8, 4)])
def test_one_target_without_its_axis_is_the_same_target(bands):
    x, y, _, _ = study()
    ridge = RidgeCV(ALPHAS, bands=bands)
    both = ridge.fit(x, y[:, :1])
    want = {name: getattr(both, name) for name in vars(both) if name.endswith("_")}
    guess = both.predict(x)
    one = ridge.fit(x, y[:, 0])
    assert one.coef_.shape == (12,)
    assert np.ndim(one.intercept_) == np.ndim(one.alpha_) == np.ndim(one.best_score_) == 0
    for name, value in want.items():
        np.testing.assert_array_equal(getattr(one, name), np.squeeze(value))
    np.testing.assert_array_equal(one.predict(x), guess[:, 0])
    assert hasattr(one, "band_ratio_") == (bands is not None)


@pytest.mark.parametrize("cv", [4, "loo", "gcv"])
@pytest.mark.parametrize(("unit", "mean"), [(1e-25, 0.0), (1e25, 0.0), (1e3, 1e6)])
def test_targets_in_any_unit_are_fitted_alike(cv, unit, mean):
    x, y, _, _ = study(90, t=20)
    y = (y - y.mean(axis=0)) / y.std(axis=0)
    plain = RidgeCV(ALPHAS, cv=cv).fit(x, y)
    other = RidgeCV(ALPHAS, cv=cv).fit(x, unit * (y + mean))
    np.testing.assert_array_equal(other.alpha_, plain.alpha_)
    np.testing.assert_allclose(other.coef_ / unit, plain.coef_, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(other.intercept_ / unit, plain.intercept_ + mean, atol=1e-8)
    np.testing.assert_allclose(other.best_score_ / unit**2, plain.best_score_, rtol=1e-6)


def test_targets_beyond_one_block_are_fitted_as_by_themselves():
    x, y, _, _ = study(40, 6, TARGET_WIDTH + 3)
    ridge, last = RidgeCV(ALPHAS).fit(x, y), RidgeCV(ALPHAS).fit(x, y[:, -5:])
    np.testing.assert_array_equal(ridge.alpha_[-5:], last.alpha_)
    np.testing.assert_allclose(ridge.coef_[-5:], last.coef_, rtol=1e-10)


def test_a_constant_target_is_predicted_by_its_mean_at_the_largest_alpha():
    x, y, _, _ = study()
    y[:, 1], y[:, 3] = 0.1, 0.0
    ridge = RidgeCV(ALPHAS).fit(x, y)
    assert not ridge.coef_[[1, 3]].any()
    np.testing.assert_allclose(ridge.intercept_[[1, 3]], [0.1, 0.0])
    assert ridge.alpha_[[1, 3]].tolist() == [1e3, 1e3]
    assert ridge.coef_[[0, 2]].all()


def test_a_weight_is_a_number_of_rows():
    x, y, folds, w = study()
    w[:7] = 0.0
    repeated = np.repeat(np.arange(60), w.astype(int))
    weighted = RidgeCV(ALPHAS, cv=PredefinedSplit(folds)).fit(x, y, sample_weight=w)
    rows = RidgeCV(ALPHAS, cv=PredefinedSplit(folds[repeated])).fit(x[repeated], y[repeated])
    for name in ("coef_", "intercept_", "alpha_", "best_score_"):
        np.testing.assert_allclose(getattr(weighted, name), getattr(rows, name))


def test_rows_that_no_split_tests_train_in_all():
    x, y, folds, _ = study(t=8)
    folds[:20] = -1
    ridge = RidgeCV(ALPHAS, cv=PredefinedSplit(folds)).fit(x, y)
    for t in range(8):
        errors = []
        for alpha in ALPHAS:
            error = 0.0
            for k in range(4):
                fit, held = folds != k, folds == k
                coef, intercept = closed_form(
                    x[fit], y[fit, t], np.ones(fit.sum()), alpha, np.ones(12)
                )
                error += ((y[held, t] - x[held] @ coef - intercept) ** 2).sum()
            errors.append(error)
        assert ridge.alpha_[t] == ALPHAS[np.argmin(errors)]
        assert ridge.best_score_[t] == pytest.approx(-min(errors) / 40)


def test_an_integer_a_splitter_and_its_splits_are_the_same():
    x, y, folds, _ = study()
    want = RidgeCV(ALPHAS, cv=3).fit(x, y).coef_
    for cv in (KFold(3), list(KFold(3).split(x))):
        np.testing.assert_array_equal(RidgeCV(ALPHAS, cv=cv).fit(x, y).coef_, want)
    grouped = list(GroupKFold(4).split(x, groups=folds))
    np.testing.assert_allclose(
        RidgeCV(ALPHAS, cv=grouped).fit(x, y).best_score_,
        RidgeCV(ALPHAS, cv=PredefinedSplit(folds)).fit(x, y).best_score_,
    )


def test_bad_input_is_named():
    x, y, folds, w = study()
    late = [(np.arange(30), np.arange(30, 50))]
    cases = [
        (lambda: RidgeCV((-1.0,)).fit(x, y), "alphas is"),
        (lambda: RidgeCV(cv="best").fit(x, y), "cv is 'best'; give a number of folds"),
        (
            lambda: RidgeCV(cv=ShuffleSplit(3, test_size=0.6, random_state=0)).fit(x, y),
            "split 1 tests stimuli that an earlier",
        ),
        (lambda: RidgeCV(cv=late).fit(x, y), "split 0 tests .* or does not train on all others"),
        (lambda: RidgeCV(bands=(9, 4)).fit(x, y), r"bands is \(9, 4\); .* 12 features"),
        (lambda: RidgeCV(bands=(9, 3), band_ratios=(1.0,)).fit(x, y), "ratios is"),
        (lambda: RidgeCV(cv="gcv").fit(x, y * 1e160), "5 targets have squares beyond float64"),
        (lambda: RidgeCV().fit(x, y, sample_weight=-w), "Negative values"),
        (
            lambda: RidgeCV(cv=PredefinedSplit(folds)).fit(x, y, sample_weight=w * (folds == 1)),
            r"\d+ stimuli of positive weight are in 1 fold\(s\) of cv",
        ),
    ]
    for call, message in cases:
        with np.errstate(over="ignore"), pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize("cv", [3, "loo", "gcv"])
def test_a_single_stimulus_with_weight_is_refused(cv):
    x, y = np.eye(4), np.arange(4.0)
    with pytest.raises(ValueError, match="n_samples=1 of weight above 0; give at least"):
        RidgeCV(cv=cv).fit(x, y, sample_weight=[1, 0, 0, 0])


def test_importing_it_imports_no_torch():
    code = "import sys; import gradenc_core.ridge.estimator; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
