import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradenc_core.ridge.basis import Basis, Scaler, band_scale, root, solve
from gradenc_core.ridge.moments import Coordinates, FeatureMoments, RowGroups, feature_moments
from gradenc_core.ridge.scores import Centred, HeldOut, score


def gram(p, rank, seed=0):
    x = np.random.default_rng(seed).standard_normal((rank, p))
    return x.T @ x


def sums(x, weights=None, shift=None) -> FeatureMoments:
    weights = np.ones(len(x)) if weights is None else weights
    shift = np.zeros(x.shape[1]) if shift is None else shift
    groups = RowGroups.of(np.zeros(len(x), int), weights)
    return feature_moments(Coordinates(groups, x, shift)).per_fold().part(0)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 30), st.integers(3, 40), st.integers(1, 9), st.integers(0, 99))
def test_basis_and_solver_meet_the_normal_equations(p, n, n_targets, seed):
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((n, p)) + 3, rng.standard_normal((n, n_targets))
    scale, alphas = rng.uniform(0.1, 3, p), rng.choice([1e-1, 1.0, 50.0], n_targets)
    moments = sums(x, shift=x[0])
    scaler = Scaler.of(moments, True)
    matrix = scaler.gram(moments)
    z, y = (x - x.mean(axis=0)) / x.std(axis=0), y - y.mean(axis=0)
    basis = Basis.of(scaler, matrix, scale)
    assert len(basis.values) == min(p, n - 1)
    c = basis.project(np.column_stack([np.ones(n), x - x[0]]).T @ y)
    weights = basis.vectors[1:] @ basis.predict(c, alphas)
    for beta in (solve(matrix, z.T @ y, scale, alphas), weights / scaler.unit[:, None]):
        # Scaling columns by s is a penalty of alpha / s^2 on the weights.
        left = matrix @ beta + alphas * beta / scale[:, None] ** 2
        np.testing.assert_allclose(left, z.T @ y, atol=1e-8 * n)


@pytest.mark.parametrize("distance", [0.0, 1e3, 1e5])
def test_the_rank_is_below_the_number_of_rows_wherever_the_shift_is(distance):
    x = np.random.default_rng(0).standard_normal((9, 10))
    moments = sums(x, shift=np.full(10, distance))
    scaler = Scaler.of(moments, True)
    assert len(Basis.of(scaler, scaler.gram(moments), np.ones(10)).values) == 8


def test_solve_drops_the_columns_without_a_scale():
    matrix, xy = gram(6, 20), np.ones((6, 2))
    beta = solve(matrix, xy, np.ones(4), np.array([1.0, 2.0]))
    want = np.linalg.solve(matrix[:4, :4] + np.eye(4), xy[:4, 0])
    np.testing.assert_allclose(beta[:, 0], want)


def test_band_scale_leaves_a_band_that_is_off_out():
    assert band_scale(3, None, 1.0).tolist() == [1, 1, 1]
    assert band_scale(3, (2, 1), 4.0).tolist() == [1, 1, 2]
    assert band_scale(3, (2, 1), 0.0).tolist() == [1, 1]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12))
def test_root_multiplies_back(p, rank):
    matrix = gram(p, rank)
    factor = root(matrix)
    assert factor.shape == (p, min(p, rank))
    np.testing.assert_allclose(factor @ factor.T, matrix, atol=1e-12 * np.abs(matrix).max())


@pytest.mark.parametrize("unit", [1e-20, 1.0, 1e15])
def test_zero_variance_is_relative(unit):
    rng = np.random.default_rng(0)
    z = rng.standard_normal(50)
    columns = [z, z * 1e-9, 100 + z, 1e4 + z, 1e8 + z, 0 * z + 0.1, np.r_[z[:40], [0] * 10]]
    x = np.column_stack(columns) * unit
    scaler = Scaler.of(sums(x, shift=x[:7].mean(axis=0)), True)
    assert (scaler.unit > 0).tolist() == [True, True, True, True, False, False, True]
    np.testing.assert_allclose(scaler.unit[[0, 3]] * x.std(axis=0)[[0, 3]], 1, rtol=1e-7)


def test_gcv_of_an_interpolating_fit_is_not_rounding():
    """With n <= p the errors at tiny alphas tend to a limit; cancellation would scatter them."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((20, 40)), rng.standard_normal((20, 5))
    y -= y.mean(axis=0)
    moments = sums(x)
    scaler = Scaler.of(moments, True)
    basis = Basis.of(scaler, scaler.gram(moments), np.ones(40))
    c, yy = basis.project(np.column_stack([np.ones(20), x]).T @ y), (y * y).sum(axis=0)
    alphas = np.array([1e-4, 1e-6, 1e-8, 1e-12])
    errors = basis.residuals(c, yy, alphas, 20.0) / basis.freedom(20.0, alphas) ** 2
    np.testing.assert_allclose(errors[1:], np.tile(errors[0], (3, 1)), rtol=1e-4)


def held_out(x, y):
    """Held-out rows of a scaler that is the identity."""
    identity = Scaler(1.0, 1.0, np.zeros(x.shape[1]), np.ones(x.shape[1]))
    own = y - y.mean(axis=0)
    rows = HeldOut.standardised(identity, sums(x), x.shape[1])
    centred = Centred(y.mean(axis=0), (own**2).sum(axis=0))
    return rows, (x - x.mean(axis=0)).T @ own, centred


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 30), st.integers(1, 10), st.integers(0, 99))
def test_scores_from_moments_are_those_of_predicted_rows(n, p, seed):
    rng = np.random.default_rng(seed)
    x, y, beta = (
        rng.standard_normal((n, p)),
        rng.standard_normal((n, 3)),
        rng.standard_normal((p, 3)),
    )
    rows, d, held = held_out(x, y)
    scores = score(beta, rows, d, held, held.mean - 0.5)
    guess = 0.5 + x @ beta
    np.testing.assert_allclose(scores.sse, ((y - guess) ** 2).sum(axis=0), rtol=1e-7)
    np.testing.assert_allclose(scores.sst, ((y - y.mean(axis=0)) ** 2).sum(axis=0), rtol=1e-10)
    want = [np.corrcoef(a, b)[0, 1] for a, b in zip(guess.T, y.T, strict=True)]
    np.testing.assert_allclose(scores.r, want, atol=1e-7)


def test_flat_predictions_score_zero_and_constant_targets_nothing():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((20, 2)), rng.standard_normal((20, 4))
    y[:, 3] = 1.0
    sd = y.std(axis=0).clip(0.1)
    beta = np.array([[0, 9e-7, 1.1e-6, 1], [0, 0, 0, 0]]) * sd / x[:, 0].std()
    rows, d, held = held_out(x, y)
    scores = score(beta, rows, d, held, held.mean)
    assert scores.flat.tolist() == [True, True, False, False]
    assert scores.r[:2].tolist() == [0, 0]
    assert scores.r[2] != 0
    assert np.isnan(scores.r[3])
