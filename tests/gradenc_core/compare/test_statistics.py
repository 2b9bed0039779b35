from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from gradenc_core.compare import statistics


def test_false_discovery_rate_is_benjamini_hochbergs_and_passes_over_nan() -> None:
    p = np.array([0.001, 0.02, np.nan, 0.04, 0.9])
    # Step-up by hand: .001 <= .0125, .02 <= .025, .04 > .0375.
    assert statistics.significant(p, 0.05).tolist() == [True, True, False, False, False]
    assert not statistics.significant(np.full(3, np.nan), 0.05).any()


def test_max_statistic_p_counts_permutations_at_or_above() -> None:
    scores = np.array([[0.5, 0.1], [0.4, 0.6], [0.1, 0.2], [0.5, 0.0]])
    assert statistics.max_statistic_p(scores) == 3 / 4
    scores[:, 1] = np.nan
    assert statistics.max_statistic_p(scores) == 2 / 4
    assert np.isnan(statistics.max_statistic_p(np.full((4, 2), np.nan)))
    assert np.isnan(statistics.max_statistic_p(scores[:1]))


def test_max_statistic_p_is_uniform_without_a_signal() -> None:
    rng = np.random.default_rng(0)
    p = [statistics.max_statistic_p(rng.standard_normal((100, 3, 4))) for _ in range(400)]
    # Levels of a p in hundredths: uniform on {1/100, ..., 1}, so shift by half a step.
    assert stats.kstest(np.array(p) - 0.005, "uniform").pvalue > 0.01


def test_the_mean_over_subjects_of_their_maxima_is_ranked_within_permutations() -> None:
    first = np.array([[0.5, 0.1], [0.4, 0.6], [0.1, 0.2], [0.4, 0.0]])
    second = np.array([[0.3], [0.1], [0.1], [0.4]])
    # Means of the maxima: 0.4 observed, then 0.35, 0.15, 0.4.
    assert statistics.common_max_p([first, second]) == 2 / 4
    unknown = np.full((4, 2), np.nan)
    assert statistics.common_max_p([first, unknown]) == statistics.max_statistic_p(first)
    assert np.isnan(statistics.common_max_p([unknown]))
    assert np.isnan(statistics.common_max_p([]))
    with pytest.raises(ValueError, match="given 2 and 3"):
        statistics.common_max_p([first, second[:3]])


@pytest.mark.parametrize("share", [0.0, 0.95])
def test_p_over_subjects_holds_its_level_whether_or_not_they_share_their_noise(
    share: float,
) -> None:
    """Eight subjects with common noise, as people have who saw the same stimuli."""
    rng = np.random.default_rng(0)
    rejected = 0
    for _ in range(400):
        common, own = rng.standard_normal((60, 5)), rng.standard_normal((8, 60, 5))
        scores = list(np.sqrt(share) * common + np.sqrt(1 - share) * own)
        rejected += statistics.common_max_p(scores) <= 0.05
    assert 7 <= rejected <= 35  # 20 expected; 99.8 % limits


def test_a_p_at_the_level_is_selected() -> None:
    """With 19 permutations the smallest p is 1/20: a level of .05 must be within reach."""
    assert statistics.significant(np.array([1 / 20]), 0.05).all()


def test_pooled_null_p() -> None:
    p = statistics.pooled_null_p(np.array([0.5, 2.0, np.nan]), np.array([0.1, 0.5, 1.0, np.nan]))
    assert p[:2] == pytest.approx([3 / 4, 1 / 4])
    assert np.isnan(p[2])


def test_all_orders_of_few_regions_are_enumerated() -> None:
    orders = statistics.region_permutations(6, seed=0)
    assert sorted(map(tuple, orders)) == sorted(permutations(range(6)))
    assert orders[0].tolist() == list(range(6))
    many = statistics.region_permutations(9, seed=0)
    assert many.shape == (statistics.N_PERMUTATIONS, 9)
    assert (np.sort(many, axis=1) == np.arange(9)).all()


@given(st.integers(3, 30), st.integers(0, 100), st.sampled_from(["pearson", "spearman"]))
def test_correlation_is_scipys(n: int, seed: int, method: str) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.integers(0, 6, (2, n)).astype(float)
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        assert np.isnan(statistics.correlation(x, y, method))
        return
    test = stats.pearsonr if method == "pearson" else stats.spearmanr
    assert statistics.correlation(x, y, method) == pytest.approx(test(x, y).statistic, abs=1e-12)


@given(st.floats(0.001, 1000), st.integers(3, 12))
def test_values_that_are_constant_but_for_rounding_have_no_correlation(c: float, n: int) -> None:
    assert np.isnan(statistics.correlation(np.full(n, c), np.arange(n) ** 2.0, "pearson"))


def test_correlation_leaves_out_unknown_entries() -> None:
    x = np.array([1.0, 2.0, np.nan, 4.0])
    y = np.array([2.0, 4.0, 9.0, 8.0])
    assert statistics.correlation(x, y, "pearson") == pytest.approx(1)
    assert np.isnan(statistics.correlation(x[:2], y[:2], "pearson"))


def test_bootstrap_null_p_is_two_sided() -> None:
    assert statistics.bootstrap_null_p(-0.5, np.array([0.6, -0.1, 0.2, np.nan])) == 2 / 4
    assert np.isnan(statistics.bootstrap_null_p(np.nan, np.zeros(3)))


def test_percentile_interval() -> None:
    low, high = statistics.percentile_interval(np.arange(101.0))
    assert (low, high) == pytest.approx((2.5, 97.5))
    assert np.isnan(statistics.percentile_interval(np.array([1.0, np.nan, np.nan]))).all()


def test_a_control_is_exceeded_by_the_difference_of_best_scores() -> None:
    """Observed .3; by chance -.1, .1 and 0 of the two best columns, of mean 0."""
    own = np.array([[0.5, 0.1], [0.0, -0.1], [0.1, 0.0], [0.0, -0.2]])
    control = np.array([[0.2], [0.1], [0.0], [0.0]])
    found = statistics.best_difference(own, control)
    np.testing.assert_allclose(found, [0.3, -0.1, 0.1, 0.0], atol=1e-12)
    # The best of two is ahead of one by .15 in mean: signals of one strength show that much.
    ahead = np.array([[0.5, 0.1], [0.0, 0.3], [0.1, 0.0], [0.0, 0.2]])
    found = statistics.best_difference(ahead, control)
    np.testing.assert_allclose(found, [0.3, -0.1 + 0.5 / 3, 0.1 + 0.5 / 3, 0.5 / 3], atol=1e-12)
    # The best of a control that has more scores is ahead by nothing that would help the signal.
    np.testing.assert_allclose(statistics.best_difference(control, ahead)[0], -0.3)
    assert statistics.best_difference(control, ahead)[1:].mean() == pytest.approx(0)
    assert statistics.exceeds_p([own], [control]) == 1 / 4
    assert statistics.exceeds_p([control], [own]) == 1
    # Of a control that has fewer permutations the first; subjects without scores are left aside.
    assert statistics.exceeds_p([own], [control[:3]]) == 1 / 3
    unknown = np.full((4, 2), np.nan)
    assert statistics.exceeds_p([own, unknown], [control, control]) == 1 / 4
    assert np.isnan(statistics.exceeds_p([unknown], [control]))


@pytest.mark.parametrize("n_alike", [1, 24])
def test_signals_of_one_strength_seldom_exceed_each_other(n_alike: int) -> None:
    """Largest of 24 columns against the larger of 2; one of each, or all, are far above chance."""
    rng = np.random.default_rng(0)
    exceeded = 0
    for _ in range(400):
        wide, narrow = 0.05 * rng.standard_normal((100, 24)), 0.05 * rng.standard_normal((100, 2))
        wide[0, :n_alike] += 0.6
        narrow[0, :n_alike] += 0.6
        exceeded += statistics.exceeds_p([wide], [narrow]) <= 0.05
    assert exceeded <= 30  # 20 are expected at most; their standard deviation is 4.4
