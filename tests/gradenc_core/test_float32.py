"""Products in float32: how wrong they are, what they decide, and that no answer changes."""

import numpy as np
import pytest

from gradenc_core import device, float32, selection
from gradenc_core.design import read, train
from gradenc_core.ridge import RidgeOptions
from gradenc_core.ridge_fit import fit_ridge
from gradenc_core.selection import Block

ALPHAS = tuple(np.logspace(-1, 7, 20).tolist())
OPTIONS = RidgeOptions(ALPHAS, "gcv")
KINDS = ("plain", "huge stimulus", "distant means", "steep", "condition 1e6", "positive")


def study(kind="plain", n=900, p=120, t=200, noise=1.0):
    """Return float32 features and targets, and weights."""
    rng = np.random.default_rng(len(kind))
    x = rng.standard_t(4, (n, p))
    if kind == "huge stimulus":
        x[n // 2] *= 1e4
    elif kind == "distant means":
        x += 100 * x.std(axis=0)
    elif kind == "steep":
        x = (x / np.arange(1, p + 1)) @ np.linalg.qr(rng.standard_normal((p, p)))[0]
    elif kind == "condition 1e6":
        u, _, v = np.linalg.svd(x, full_matrices=False)
        x = u * np.logspace(3, -3, p) @ v
    elif kind == "positive":
        x = np.abs(x)
    y = (x - x.mean(axis=0)) @ rng.standard_normal((p, t))
    y *= rng.uniform(0.1, 1, t) / y.std(axis=0)
    y += noise * rng.standard_normal((n, t)) + (3.0 if kind == "positive" else 0.0)
    return x.astype(np.float32), y.astype(np.float32), rng.integers(1, 4, n).astype(float)


def errors_of_both(x, y, w):
    """Errors in float32 and float64, how far they may differ, and which targets are decided."""
    coordinates = read(x, np.zeros(len(x), dtype=int), w)
    (whole,) = train(coordinates, [()], OPTIONS, None)
    grid = OPTIONS.alpha_grid
    error = float32.residual_error(whole, grid)
    errors, margin = float32.gcv_errors(whole, Block(y, in_float32=True), grid, error)
    exact = selection.gcv_errors(whole, Block(y.astype(np.float64)), grid)
    return errors[0], exact[0], margin[0], float32.are_decided(errors, margin, error)


@pytest.mark.parametrize("kind", KINDS)
def test_rounding_stays_within_its_bound_and_decides_no_alpha_otherwise(kind):
    errors, exact, margin, is_decided = errors_of_both(*study(kind))
    assert (np.abs(errors - exact) <= margin).all()
    assert (np.abs(errors - exact) > 0).any()
    np.testing.assert_array_equal(errors.argmin(0)[is_decided], exact.argmin(0)[is_decided])
    assert is_decided.mean() > 0.5


@pytest.mark.parametrize("kind", ["huge stimulus", "positive"])
def test_targets_with_little_noise_are_left_to_float64(kind):
    """Float32 would choose other alphas for some of them."""
    errors, exact, _, is_decided = errors_of_both(*study(kind, p=300, t=1000, noise=0.01))
    assert (errors.argmin(0) != exact.argmin(0)).any()
    assert not is_decided.any()


@pytest.mark.parametrize("noise", [1.0, 1e-6])
@pytest.mark.parametrize("standardise", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_fit_of_float32_is_that_of_float64(kind, standardise, noise):
    x, y, w = study(kind, noise=noise)
    y[:, ::7] = study(kind, noise=1.0)[1][:, ::7]  # so that a block holds targets of both kinds
    options = RidgeOptions(ALPHAS, "gcv", standardise=standardise)
    ours = fit_ridge(x, y, weights=w, options=options)
    want = fit_ridge(x.astype(float), y.astype(float), weights=w, options=options)
    np.testing.assert_array_equal(ours.alpha, want.alpha)
    x, sd = x.astype(float), y.astype(float).std(axis=0)
    apart = (x @ ours.weights + ours.intercept - x @ want.weights - want.intercept) / sd
    assert np.sqrt((apart**2).mean(axis=0)).max() < float32.TOLERANCE


@pytest.mark.parametrize(
    ("x_unit", "y_unit", "mean", "n"),
    [
        (1e-20, 1.0, 0.0, 300),
        (1e20, 1.0, 0.0, 300),
        (1.0, 1e-20, 0.0, 300),
        (1.0, 1e20, 0.0, 300),
        (1.0, 1.0, 1e3, 300),
        (1.0, 1.0, 0.0, 100),
    ],
)
def test_what_float32_cannot_hold_is_fitted_in_float64(x_unit, y_unit, mean, n):
    """Far units, far means, and no free dimension: to the last bit as if given in float64."""
    x, y, w = study(n=n)
    x, y = (x * x_unit).astype(np.float32), ((y + mean) * y_unit).astype(np.float32)
    y[:, 3] = y_unit
    ours = fit_ridge(x, y, weights=w, options=OPTIONS)
    want = fit_ridge(x.astype(float), y.astype(float), weights=w, options=OPTIONS)
    assert ours.constant == want.constant == 1
    for name in ("alpha", "weights", "intercept"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(want, name))


def test_tensors_are_fitted_as_arrays(monkeypatch):
    x, y, w = study()
    want = fit_ridge(x, y, weights=w, options=OPTIONS)
    monkeypatch.setattr(device, "uses_tensors", lambda: True)
    ours = fit_ridge(x, y, weights=w, options=OPTIONS)
    np.testing.assert_array_equal(ours.alpha, want.alpha)
    np.testing.assert_allclose(ours.weights, want.weights, atol=1e-6)
