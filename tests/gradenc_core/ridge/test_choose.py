"""Which alphas are chosen, against every error computed in float64; the same on tensors."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import PredefinedSplit

from gradenc_core import arrays
from gradenc_core.ridge import choose as selection
from gradenc_core.ridge import moments
from gradenc_core.ridge.encode import encode, score_targets
from gradenc_core.ridge.estimator import RidgeCV
from gradenc_core.ridge.factorise import factorise, train
from gradenc_core.ridge.leave_one_out import loo_errors
from gradenc_core.ridge.moments import Coordinates, RowGroups
from gradenc_core.ridge.options import RidgeOptions
from gradenc_core.ridge.quadratic import squared_predictions
from gradenc_core.ridge.resample import bootstrap_scores, permutation_scores
from gradenc_core.ridge.targets import TargetBlock

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
    want = np.array(sorted(ALPHAS, reverse=True))[errors.argmin(axis=0)]
    np.testing.assert_allclose(chosen(x, y, folds, w, selection)[clear], want[clear])


def chosen(x, y, folds, w, selection):
    cv = PredefinedSplit(folds) if selection == "kfold" else selection
    return RidgeCV(ALPHAS, cv=cv).fit(x, y, sample_weight=w / w.mean()).alpha_


def all_rows(x, w):
    """Standardised features, factorised without leaving out a fold."""
    groups = RowGroups.of(np.zeros(len(x), int), w)
    (whole,) = train(Coordinates(groups, x, x[0]), [()], [np.ones(x.shape[1])], standardise=True)
    return whole


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
    whole = all_rows(x, w)
    for alpha in (1e-8, 1e-11, 1e-13):
        errors = loo_errors(whole, TargetBlock(y), np.array([alpha]))[0, 0]
        np.testing.assert_allclose(errors, want, rtol=1e-4)


def test_a_huge_stimulus_leaves_its_own_leverage_its_digits():
    """With more features than stimuli its 1 - h is as small as 1e-8.

    What stays is rounding of the kernel's small eigenvalues, which a large alpha hides.
    """
    x, y, _, w = study(90, 120, 70, 1123, "huge stimulus")
    y -= y.mean(axis=0)
    want = reference(x, y, None, w / w.mean(), "loo")
    whole = all_rows(x, w / w.mean())
    for i, alpha in enumerate(sorted(ALPHAS, reverse=True)):
        errors = loo_errors(whole, TargetBlock(y), np.array([alpha]))[0, 0]
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


def test_condition_1e6_changes_no_choice():
    x, y, folds, w = study(90, 20, 70, 0, "condition 1e6")
    errors = reference(x, y, folds, w / w.mean(), "kfold")
    want = np.sort(ALPHAS)[::-1][errors.argmin(axis=0)]
    np.testing.assert_allclose(chosen(x, y, folds, w, "kfold"), want)


@pytest.mark.parametrize("selection", ["kfold", "loo", "gcv"])
@pytest.mark.parametrize(("n", "bands"), [(60, (7, 5)), (60, None), (10, None)])
def test_rows_read_a_few_at_a_time_change_no_score(monkeypatch, selection, n, bands):
    x, y, folds, w = study(n, 12, 6, 2, "plain")
    options = RidgeOptions(ALPHAS, selection, (0.0, 1.0))
    whole = encode(x, y, folds, w, options, bands)
    monkeypatch.setattr(moments, "ROWS", 7)
    monkeypatch.setattr("gradenc_core.ridge.leave_one_out.ROWS", 7)
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
    monkeypatch.setattr(arrays, "uses_tensors", lambda: True)
    scores, null, spread = everything()
    assert np.array_equal(scores.alpha, want.alpha)
    np.testing.assert_allclose(scores.r, want.r, atol=1e-6)
    np.testing.assert_allclose(null, want_null, atol=1e-6)
    np.testing.assert_allclose(spread, want_spread, atol=1e-6)


def test_ties_go_to_the_larger_alpha_then_to_the_smaller_ratio():
    errors = np.ones((2, 3, 4))  # ratios rising, alphas falling
    errors[1, 2, 1] = 0.5
    errors[0, 1, 2] = errors[1, 0, 2] = 0.5
    errors[1, 1, 3] = errors[0, 1, 3] = 0.5
    alpha, ratio = selection.least_error(errors)
    assert alpha.tolist() == [0, 2, 0, 1]
    assert ratio.tolist() == [0, 1, 1, 0]
