import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradenc_core.compare.halves import best_layers, halves, over_ceiling, reliability


def test_halves_take_every_other_fold() -> None:
    first, second = halves(np.arange(5.0)[:, None])
    assert (first.item(), second.item()) == (2.0, 2.0)
    first, second = halves(np.arange(4.0)[:, None])
    assert (first.item(), second.item()) == (1.0, 2.0)
    assert np.isnan(halves(np.ones((1, 3)))).all()


@given(st.floats(0.2, 5))
def test_reliability_is_the_share_of_variance_that_repeats_in_the_mean(ratio: float) -> None:
    """Noise of variance v in each half leaves 1 / (1 + v / 2) of the variance of their mean."""
    rng = np.random.default_rng(0)
    true, noise = rng.standard_normal(20_000), rng.standard_normal((2, 20_000))
    first, second = true + np.sqrt(ratio) * noise
    assert reliability(first, second) == pytest.approx(1 / (1 + ratio / 2), abs=0.03)


def test_no_reliability_is_not_stepped_up() -> None:
    values = np.array([1.0, 2.0, 3.0])
    assert reliability(values, -values) == pytest.approx(-1)
    assert np.isnan(reliability(values, np.ones(3)))
    assert np.isnan(reliability(values, np.array([1.0, 2.0, np.nan])))


def test_an_order_over_its_ceiling_is_the_true_one() -> None:
    rng = np.random.default_rng(1)
    position = rng.standard_normal(50_000)
    true = 0.6 * position + 0.8 * rng.standard_normal(50_000)
    first, second = true + rng.standard_normal((2, 50_000))
    score = np.corrcoef((first + second) / 2, position)[0, 1]
    assert score < 0.55
    found = over_ceiling(np.array(score), np.array(reliability(first, second)))
    assert found == pytest.approx(0.6, abs=0.02)


def test_nothing_is_divided_by_a_low_or_unknown_reliability() -> None:
    score = np.full(4, 0.3)
    own, other = np.array([0.25, 0.24, np.nan, 1.0]), np.array([1.0, 1.0, 1.0, 0.2])
    found = over_ceiling(score, own, other)
    np.testing.assert_allclose(found, [0.6, np.nan, np.nan, np.nan])


def test_layers_within_a_standard_error_of_the_best_may_be_the_best() -> None:
    best = np.array([0.5, 0.3])  # mean .4, standard error .1
    near, far = np.array([0.31, 0.31]), np.array([0.29, 0.29])
    folds = np.stack([far, best, near], axis=1)[..., None]
    assert best_layers(folds)[:, 0].tolist() == [False, True, True]
    assert not best_layers(-folds).any()
    folds[0, 0] = np.nan
    assert not best_layers(folds).any()


def test_a_single_fold_has_no_error_and_leaves_the_best_layer_alone() -> None:
    assert best_layers(np.array([[[0.2], [0.4]]]))[:, 0].tolist() == [False, True]
