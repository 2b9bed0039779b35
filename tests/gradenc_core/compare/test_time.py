import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from gradenc_core.compare.time import Latencies, slope, temporal_score

DEPTH = np.arange(1, 9) / 8


@given(st.integers(0, 100), st.integers(5, 9))
def test_slope_is_least_squares_over_the_layers_with_a_latency(seed: int, n_known: int) -> None:
    rng = np.random.default_rng(seed)
    depth = np.sort(rng.uniform(0, 1, 9))
    latency = rng.standard_normal((2, 3, 9))
    latency[..., rng.permutation(9)[n_known:]] = np.nan
    known = np.isfinite(latency[0, 0])
    expected = [np.polyfit(depth[known], row[known], 1)[0] for row in latency.reshape(-1, 9)]
    np.testing.assert_allclose(slope(latency, depth), np.reshape(expected, (2, 3)), rtol=1e-6)


def test_slope_needs_five_layers_of_different_depth() -> None:
    latency = np.array([[0.1, 0.2, 0.3, 0.4, np.nan], [0.1, 0.2, 0.3, 0.4, 0.5]])
    assert np.isnan(slope(latency, np.arange(5.0))).tolist() == [True, False]
    assert np.isnan(slope(latency, np.ones(5))).all()


def test_jitter_pulls_the_correlation_towards_zero_and_not_the_slope() -> None:
    rng = np.random.default_rng(0)
    depth = np.arange(1, 9) / 8
    latency = 0.4 - 0.2 * depth + rng.normal(0, 0.12, (4000, 8))
    assert slope(latency, depth).mean() == pytest.approx(-0.2, abs=0.01)
    correlations = [np.corrcoef(row, depth)[0, 1] for row in latency]
    assert np.mean(correlations) > -0.6


@given(st.integers(0, 100), st.integers(4, 7), st.sampled_from(["pearson", "spearman", "mean"]))
def test_orders_are_those_of_the_layers_with_a_latency(seed: int, n_known: int, order: str) -> None:
    rng = np.random.default_rng(seed)
    latency = rng.integers(0, 9, (3, 7)).astype(float)
    latency[:, rng.permutation(7)[n_known:]] = np.nan
    depth = np.arange(1, 8) / 7
    found = temporal_score([Latencies(row, latency) for row in latency], depth, order)
    for value, row in zip(found.values, latency, strict=True):
        known = np.isfinite(row)
        if n_known < 5 or (order != "mean" and np.ptp(row[known]) == 0):
            assert np.isnan(value)
            continue
        expected = {
            "pearson": lambda x, y: stats.pearsonr(x, y).statistic,
            "spearman": lambda x, y: stats.spearmanr(x, y).statistic,
            "mean": lambda x, y: x.mean(),
        }[order](row[known], depth[known])
        assert value == pytest.approx(expected, abs=1e-12)


def test_another_order_is_refused() -> None:
    with pytest.raises(ValueError, match="pearson, spearman, slope, mean; given 'kendall'"):
        temporal_score([Latencies(DEPTH, DEPTH[None])], DEPTH, "kendall")


def drawn(rng: np.random.Generator, centre: np.ndarray, jitter: float, shared: float) -> list:
    """Return latencies of four subjects; `shared` is the share of the jitter that is common."""
    common, own = rng.standard_normal((101, 8)), rng.standard_normal((4, 101, 8))
    noise = jitter * (np.sqrt(shared) * common + np.sqrt(1 - shared) * own)
    return [Latencies(centre + e[0], centre + e[0] + e[1:]) for e in noise]


@pytest.mark.parametrize("order", ["pearson", "slope"])
@pytest.mark.parametrize("shared", [0.0, 0.9])
def test_flat_latencies_hold_the_level_over_subjects(order: str, shared: float) -> None:
    """Subjects who saw the same stimuli share noise; combining their p took them as independent."""
    rng = np.random.default_rng(0)
    scores = [temporal_score(drawn(rng, 0 * DEPTH, 0.02, shared), DEPTH, order) for _ in range(300)]
    combined = sum(score.combined_p <= 0.05 for score in scores)
    alone = sum(score.p[0] <= 0.05 for score in scores)
    # 15 expected of each; 99.9 % limits. The old rule rejects far more often where noise is shared.
    assert 3 <= combined <= 30
    assert 3 <= alone <= 30
    if shared:
        assert sum(_stouffer(score) <= 0.05 for score in scores) > 45


def _stouffer(score) -> float:
    """Return what used to be reported: the signed combination of the subjects' p."""
    z = np.sign(score.values) @ stats.norm.isf(score.p / 2) / np.sqrt(len(score.p))
    return float(2 * stats.norm.sf(abs(z)))


@pytest.mark.parametrize("jitter", [0.03, 0.12])
def test_the_interval_of_a_slope_covers_the_true_one_and_that_of_a_correlation_does_not(
    jitter: float,
) -> None:
    rng = np.random.default_rng(0)
    covered = np.zeros(2)
    for _ in range(200):
        subjects = drawn(rng, 0.6 - 0.2 * DEPTH, jitter, 0)
        for i, (order, truth) in enumerate([("slope", -0.2), ("pearson", -1)]):
            score = temporal_score(subjects, DEPTH, order)
            covered[i] += score.low <= truth <= score.high
    assert covered[0] >= 178  # 190 expected; 99.9 % limit
    assert covered[1] <= 20


def test_a_slow_backward_sweep_is_seldom_taken_for_a_departure() -> None:
    """Noise of the peaks makes a perfect order's correlation small, and its contrast only wide.

    Deep layers first, 200 ms over the depth of the network, against half of a forward sweep of
    250 ms, at a jitter of 120 ms. A departure is a slope_g + slope_f / 2 above 0 (one-sided .025).
    """
    rng = np.random.default_rng(0)
    departures, old = 0, 0
    for _ in range(200):
        gradient = drawn(rng, 0.6 - 0.2 * DEPTH, 0.12, 0)
        forward = drawn(rng, 0.1 + 0.25 * DEPTH, 0.01, 0)
        sums = [g.plus(f, 0.5) for g, f in zip(gradient, forward, strict=True)]
        departures += temporal_score(sums, DEPTH, "slope").low > 0
        g, f = (temporal_score(own, DEPTH, "pearson") for own in (gradient, forward))
        old += g.low > -0.5 * f.mean
    assert departures <= 12  # 5 expected at most; 99.8 % limit
    assert old >= 25


def test_lags_are_of_layers_that_both_signals_have() -> None:
    nothing = np.array([[0.0, np.nan, 0.0]])
    forward = Latencies(np.array([0.1, np.nan, 0.3]), np.array([[0.1, 0.2, np.nan]]))
    gradient = Latencies(np.array([0.5, 0.4, 0.4]), np.array([[0.6, 0.4, 0.4]]) + nothing)
    lag = gradient.plus(forward, -1)
    np.testing.assert_allclose(lag.observed, [0.4, np.nan, 0.1])
    np.testing.assert_allclose(lag.replicates, [[0.5, np.nan, np.nan]])
    kept = lag.of_layers(np.array([True, False, True]))
    np.testing.assert_allclose(kept.observed, [0.4, 0.1])
    assert kept.replicates.shape == (1, 2)


def test_replicates_with_too_few_peaks_are_dropped_and_counted() -> None:
    depth = np.arange(1, 7) / 6
    rng = np.random.default_rng(0)
    replicates = depth + rng.normal(0, 0.05, (40, 6))
    replicates[:3, 0] = np.nan  # five layers left: kept
    replicates[3:7, :2] = np.nan  # four left: dropped
    for method in ("pearson", "spearman"):
        score = temporal_score([Latencies(depth, replicates)], depth, method)
        assert score.dropped.tolist() == [4]
        assert score.values[0] == pytest.approx(1)
        assert 0.8 < score.low <= score.high <= 1 + 1e-12


def test_subjects_without_a_score_do_not_enter_the_mean() -> None:
    depth = np.arange(1, 7) / 6
    replicates = depth + np.random.default_rng(0).normal(0, 0.05, (40, 6))
    good = Latencies(depth, replicates)
    alone = temporal_score([good], depth, "pearson")
    both = temporal_score([good, Latencies(depth * np.nan, replicates * np.nan)], depth, "pearson")
    assert (both.mean, both.low, both.high) == (alone.mean, alone.low, alone.high)
    assert both.combined_p == alone.combined_p == alone.p[0]
    assert np.isnan(both.values[1])
    assert both.dropped.tolist() == [0, 40]
