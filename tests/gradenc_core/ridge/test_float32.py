"""Products in float32 change no answer, whatever the data; what they would change is not theirs."""

import numpy as np
import pytest

from gradenc_core import arrays as device
from gradenc_core.ridge import float32
from gradenc_core.ridge.basis import RidgeOptions
from gradenc_core.ridge.choose import Block, gcv_errors
from gradenc_core.ridge.estimator import fit_ridge
from gradenc_core.ridge.factorise import read, train
from gradenc_core.ridge.fitting import TARGET_WIDTH
from gradenc_core.ridge.float32 import Float32

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


def coarse(bits):
    """Return a stand-in for float32 with fewer bits, which fails where float32 might."""

    def single(values):
        fraction, exponent = np.frexp(np.asarray(values, dtype=np.float64))
        return np.ldexp(np.round(fraction * 2**bits) / 2**bits, exponent).astype(np.float32)

    return single


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
@pytest.mark.parametrize("n_alphas", [1, 3, 20])
def test_errors_are_off_by_no_more_than_was_measured(features, targets, n_alphas):
    x, y, w = study(features, targets)
    whole, grid = factorised(x, w), OPTIONS.alpha_grid[-n_alphas:]
    fast = Float32(whole, grid)
    sums, off = fast.moments(y)
    block, exact = Block.of_sums(fast.factor.coordinates, sums), Block(y.astype(np.float64))
    errors, margin = fast.errors(block, off)
    assert (np.abs(errors - gcv_errors(whole, exact, grid)[0]) <= margin).all()
    (known,), (true,) = block.problems(whole), exact.problems(whole)
    share = np.sqrt(known.factor.basis.shrink(grid) ** 2 @ (known.c - true.c) ** 2) / off
    assert share.max() < 1
    assert np.median(share[-1]) > 0.02


@pytest.mark.parametrize("features", FEATURES)
def test_noisy_targets_are_decided_in_float32(features):
    x, y, w = study(features)
    _, _, is_decided = Float32(factorised(x, w), OPTIONS.alpha_grid).choose(y)
    assert is_decided.mean() > {"huge stimulus": 0.1, "steep": 0.4}.get(features, 0.9)
    ours, want = both(x, y, w)
    assert (ours.weights != want.weights).any(axis=0)[is_decided].all()


def test_targets_that_rounding_would_give_another_alpha_are_left_to_float64(monkeypatch):
    monkeypatch.setattr(float32, "single", coarse(10))
    x, y, w = study("huge stimulus", "nearly explained")
    _, alpha, is_decided = Float32(factorised(x, w), OPTIONS.alpha_grid).choose(y)
    ours, want = both(x, y, w)
    assert (alpha != want.alpha).any()
    assert not is_decided.any()
    np.testing.assert_array_equal(ours.weights, want.weights)


def test_alphas_too_close_to_tell_are_left_to_float64(monkeypatch):
    """The fit is exact enough at either of two neighbours, of which rounding may take the wrong."""
    monkeypatch.setattr(float32, "single", coarse(18))
    x, y, w = study("huge stimulus", "far means", p=20)
    options = RidgeOptions(tuple(np.logspace(0, 5, 5000).tolist()), "gcv")
    _, alpha, is_decided = Float32(factorised(x, w), options.alpha_grid).choose(y)
    ours, want = both(x, y, w, options)
    assert (alpha != want.alpha).any()
    assert not is_decided[alpha != want.alpha].any()
    np.testing.assert_array_equal(ours.alpha, want.alpha)


def test_a_fit_that_rounding_blurs_is_left_to_float64(monkeypatch):
    """One alpha is no choice, but predictions would be off."""
    monkeypatch.setattr(float32, "single", coarse(12))
    x, y, w = study()
    options = RidgeOptions((1.0,), "gcv")
    known, alpha, is_decided = Float32(factorised(x, w), options.alpha_grid).choose(y)
    assert known.y.shape == (0, 200)
    assert not is_decided.any()
    np.testing.assert_array_equal(alpha, 1.0)
    ours, want = both(x, y, w, options)
    np.testing.assert_array_equal(ours.weights, want.weights)


def test_blocks_of_targets_and_chunks_of_rows():
    """Targets of both kinds in a second block, rows beyond what is added at once."""
    x, y, w = study(n=5000, p=20, t=TARGET_WIDTH + 300)
    y[:, ::7] = (x @ np.ones((20, 1), dtype=np.float32)) * (1 + np.arange(y[:, ::7].shape[1]))
    y[:, 5] = y[:, TARGET_WIDTH + 5] = 2.0
    _, _, is_decided = Float32(factorised(x, w), OPTIONS.alpha_grid).choose(y)
    for block in (is_decided[:TARGET_WIDTH], is_decided[TARGET_WIDTH:]):
        assert 0.1 < block.mean() < 0.9
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


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_features_without_variance_predict_nothing(value):
    _, y, _ = study(n=100, t=20)
    ours, want = both(np.full((100, 3), value, dtype=np.float32), y)
    np.testing.assert_array_equal(ours.alpha, want.alpha)
    assert not ours.weights.any()
    np.testing.assert_allclose(ours.intercept, want.intercept, rtol=1e-12)


@pytest.mark.parametrize("n", [120, 121])
def test_a_basis_that_fills_all_dimensions(n):
    x, y, w = study(n=n)
    ours, want = both(x, y, w)
    np.testing.assert_array_equal(ours.alpha, want.alpha)
    assert apart(x, y, ours, want) < float32.TOLERANCE


def test_more_features_than_stimuli_stay_in_float64():
    rng = np.random.default_rng(3)
    x = rng.standard_normal((60, 65))
    x[0] *= 1e5
    y = (rng.standard_normal((60, 50)) + 9).astype(np.float32)
    options = RidgeOptions(tuple(np.logspace(-2.5, 4, 10).tolist()), "gcv", standardise=False)
    ours, want = both(x.astype(np.float32), y, options=options)
    np.testing.assert_array_equal(ours.weights, want.weights)


def test_rows_in_any_order_of_folds():
    x, y, w = study()
    folds = np.random.default_rng(0).permutation(len(x)) % 4
    ours = fit_ridge(x, y, folds, w, OPTIONS)
    _, want = both(x, y, w)
    np.testing.assert_array_equal(ours.alpha, want.alpha)
    assert (ours.weights != want.weights).any()
    assert apart(x, y, ours, want) < float32.TOLERANCE


@pytest.mark.parametrize("selection", ["kfold", "loo"])
def test_other_selections_are_in_float64(selection):
    x, y, w = study(n=200, p=20, t=10)
    folds, options = np.arange(200) % 4, RidgeOptions(ALPHAS, selection)
    ours = fit_ridge(x, y, folds, w, options)
    want = fit_ridge(x, y.astype(np.float64), folds, w, options)
    np.testing.assert_array_equal(ours.weights, want.weights)


def test_tensors_are_fitted_as_arrays(monkeypatch):
    """Also of targets that may not be written to."""
    x, y, _ = study()
    want = fit_ridge(x, y, options=OPTIONS)
    monkeypatch.setattr(device, "uses_tensors", lambda: True)
    y.setflags(write=False)
    ours = fit_ridge(x, y, options=OPTIONS)
    np.testing.assert_array_equal(ours.alpha, want.alpha)
    assert apart(x, y, ours, want) < float32.TOLERANCE
    assert (ours.weights != both(x, y)[1].weights).any()
