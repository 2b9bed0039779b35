"""Products in float32 change no answer, whatever the data; what they would change is not theirs."""

import numpy as np
import pytest

from gradenc_core import device, float32
from gradenc_core.design import read, train
from gradenc_core.fitting import TARGET_WIDTH
from gradenc_core.float32 import Float32
from gradenc_core.ridge import RidgeOptions
from gradenc_core.ridge_fit import fit_ridge
from gradenc_core.selection import Block, gcv_errors

ALPHAS = tuple(np.logspace(-1, 7, 20).tolist())
OPTIONS = RidgeOptions(ALPHAS, "gcv")
FEATURES = ("plain", "huge stimulus", "distant means", "steep", "condition 1e6", "binary", "copies")
TARGETS = ("noisy", "labels", "rare events", "far means", "nearly explained")

pytestmark = pytest.mark.filterwarnings("error")


def study(features="plain", targets="noisy", n=900, p=120, t=200):
    """Return float32 features and targets, and weights."""
    rng = np.random.default_rng(len(features) + len(targets))
    x = rng.standard_t(4, (n, p))
    if features == "huge stimulus":
        x[n // 2] *= 1e4
    elif features == "distant means":
        x += 100 * x.std(axis=0)
    elif features == "steep":
        x = (x / np.arange(1, p + 1)) @ np.linalg.qr(rng.standard_normal((p, p)))[0]
    elif features == "condition 1e6":
        u, _, v = np.linalg.svd(x, full_matrices=False)
        x = u * np.logspace(3, -3, p) @ v
    elif features == "binary":
        x = (x > 0).astype(float)
    elif features == "copies":
        x[:, p // 2 :] = x[:, :1] > 0
    y = (x - x.mean(axis=0)) @ rng.standard_normal((p, t))
    y *= rng.uniform(0.1, 1, t) / y.std(axis=0)
    y += rng.standard_normal((n, t)) * (0.003 if targets == "nearly explained" else 1)
    if targets == "labels":
        y = 0.7 * (y > -0.5)
    elif targets == "rare events":
        y = 1.3 * (1 + (y > 2))
    elif targets == "far means":
        y += 9 * y.std(axis=0)
    return x.astype(np.float32), y.astype(np.float32), rng.integers(1, 4, n).astype(float)


def both(x, y, w=None, options=OPTIONS):
    """Fits of targets in float32 and, the same values, in float64."""
    ours = fit_ridge(x, y, weights=w, options=options)
    return ours, fit_ridge(x, y.astype(np.float64), weights=w, options=options)


def apart(x, y, ours, want):
    """Largest root mean square of differences of predictions, over the sd of varying targets."""
    weights = ours.weights - want.weights
    difference = x.astype(np.float64) @ weights + ours.intercept - want.intercept
    sd = y.astype(np.float64).std(axis=0)
    return (np.sqrt((difference**2).mean(axis=0))[sd > 0] / sd[sd > 0]).max()


def factorised(x, w=None):
    (whole,) = train(read(x, np.zeros(len(x), dtype=int), w), [()], OPTIONS, None)
    return whole


@pytest.mark.parametrize("standardise", [True, False])
@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.parametrize("targets", TARGETS)
def test_a_fit_of_float32_is_that_of_float64(features, targets, standardise):
    x, y, w = study(features, targets)
    ours, want = both(x, y, w, RidgeOptions(ALPHAS, "gcv", standardise=standardise))
    np.testing.assert_array_equal(ours.alpha, want.alpha)
    assert (ours.lowest_alpha, ours.highest_alpha) == (want.lowest_alpha, want.highest_alpha)
    assert ours.constant == want.constant == 0
    assert apart(x, y, ours, want) < float32.TOLERANCE


@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.parametrize("targets", TARGETS[:3])
def test_errors_are_off_by_no_more_than_was_measured(features, targets):
    x, y, w = study(features, targets)
    whole = factorised(x, w)
    fast = Float32(whole, OPTIONS.alpha_grid)
    sums, wrong = fast.moments(y)
    errors, margin = fast.errors(Block.of_sums(fast.factor.coordinates, sums), wrong)
    exact = gcv_errors(whole, Block(y.astype(np.float64)), OPTIONS.alpha_grid)[0]
    difference = np.abs(errors - exact)
    assert (difference <= margin).all()
    assert (difference > margin / 1e5).any()


def test_most_noisy_targets_are_decided_in_float32():
    x, y, w = study()
    _, _, is_decided = Float32(factorised(x, w), OPTIONS.alpha_grid).choose(y)
    assert is_decided.mean() > 0.9
    ours, want = both(x, y, w)
    assert (ours.weights != want.weights).any(axis=0)[is_decided].all()


def test_targets_that_float32_would_give_another_alpha_are_left_to_float64():
    x, y, w = study("huge stimulus", "nearly explained", p=300, t=1000)
    _, alpha, is_decided = Float32(factorised(x, w), OPTIONS.alpha_grid).choose(y)
    ours, want = both(x, y, w)
    assert (alpha != want.alpha).any()
    assert not is_decided[alpha != want.alpha].any()
    np.testing.assert_array_equal(ours.alpha, want.alpha)


def test_alphas_too_close_for_float32_are_chosen_in_float64():
    """The fit is exact enough at either of two neighbours, of which float32 may take the wrong."""
    x, y, w = study("huge stimulus", "far means", p=20, t=300)
    options = RidgeOptions(tuple(np.logspace(0, 5, 5000).tolist()), "gcv")
    fast = Float32(factorised(x, w), options.alpha_grid)
    _, alpha, is_decided = fast.choose(y)
    ours, want = both(x, y, w, options)
    assert (alpha != want.alpha).any()
    assert not is_decided[alpha != want.alpha].any()
    np.testing.assert_array_equal(ours.alpha, want.alpha)


def test_a_fit_that_float32_blurs_is_left_to_float64():
    """One alpha is no choice, but at so small a one the fit of steep features is all digits."""
    x, y, w = study("steep", "nearly explained")
    x = x / np.arange(1, 121, dtype=np.float32) ** 3
    options = RidgeOptions((1e-9,), "gcv")
    known, alpha, is_decided = Float32(factorised(x, w), options.alpha_grid).choose(y)
    assert known.y.shape == (0, 200)
    assert not is_decided.any()
    np.testing.assert_array_equal(alpha, 1e-9)
    ours, want = both(x, y, w, options)
    np.testing.assert_array_equal(ours.weights, want.weights)


def test_blocks_of_targets_and_chunks_of_rows():
    """Targets of both kinds in a second block, rows beyond what is added at once."""
    x, y, w = study(n=5000, p=20, t=TARGET_WIDTH + 300)
    y[:, ::7] = (x @ np.ones((20, 1), dtype=np.float32)) * (1 + np.arange(y[:, ::7].shape[1]))
    y[:, 5] = y[:, TARGET_WIDTH + 5] = 2.0
    ours, want = both(x, y, w)
    np.testing.assert_array_equal(ours.alpha, want.alpha)
    assert apart(x, y, ours, want) < float32.TOLERANCE
    assert ours.constant == want.constant == 2
    assert not ours.weights[:, [5, TARGET_WIDTH + 5]].any()


@pytest.mark.parametrize(
    ("x_unit", "y_unit"), [(1e-30, 1.0), (1e30, 1.0), (1.0, 1e-42), (1.0, 1e37), (1e8, 1e30)]
)
def test_units_at_and_beyond_the_range_of_float32(x_unit, y_unit):
    x, y, w = study(n=300, p=20)
    x, y = x.astype(float) * x_unit, (y.astype(float) * y_unit).astype(np.float32)
    ours, want = both(x, y, w)
    np.testing.assert_array_equal(ours.alpha, want.alpha)
    assert apart(x, y, ours, want) < float32.TOLERANCE


@pytest.mark.parametrize("shape", [(100, 120), (40, 1)])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_features_without_variance_and_more_features_than_stimuli(shape, value):
    _, y, _ = study(n=shape[0], t=20)
    for x in (np.full(shape, value, dtype=np.float32), study(n=shape[0], p=shape[1])[0]):
        ours, want = both(x, y)
        np.testing.assert_array_equal(ours.alpha, want.alpha)
        assert apart(x, y, ours, want) < float32.TOLERANCE


@pytest.mark.parametrize("selection", ["kfold", "loo"])
def test_other_selections_are_in_float64(selection):
    x, y, w = study(n=200, p=20, t=10)
    folds, options = np.arange(200) % 4, RidgeOptions(ALPHAS, selection)
    ours = fit_ridge(x, y, folds, w, options)
    want = fit_ridge(x, y.astype(np.float64), folds, w, options)
    np.testing.assert_array_equal(ours.weights, want.weights)


def test_tensors_are_fitted_as_arrays(monkeypatch):
    x, y, w = study()
    want = fit_ridge(x, y, weights=w, options=OPTIONS)
    monkeypatch.setattr(device, "uses_tensors", lambda: True)
    ours = fit_ridge(x, y, weights=w, options=OPTIONS)
    np.testing.assert_array_equal(ours.alpha, want.alpha)
    assert apart(x, y, ours, want) < float32.TOLERANCE
