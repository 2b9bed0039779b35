import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradenc_core.compare.time import (
    Sensors,
    Timing,
    onset_latency,
    peak_latency,
    slope,
    temporal_score,
    timing,
)


def test_peak_is_the_mean_of_the_run_around_the_maximum() -> None:
    times = np.arange(8) / 10
    #                 two high samples, a gap, then another high one outside the run
    curve = np.array([0.0, 0.1, 0.96, 1.0, 0.2, 0.97, 0.0, 5.0])
    assert peak_latency(curve, times, (0.0, 0.6)) == pytest.approx(0.25)
    assert np.isnan(peak_latency(-curve, times, (0.0, 0.6)))


def test_onset_is_the_start_of_the_last_rise_above_half() -> None:
    times = np.arange(6) / 10
    curve = np.array([0.0, 0.6, 0.1, 0.5, 1.0, 0.2])
    assert onset_latency(curve, times, (0.0, 0.5)) == pytest.approx(0.3)
    assert onset_latency(curve[::-1], times, (0.0, 0.5)) == pytest.approx(0.1)


@pytest.mark.parametrize("latency", [peak_latency, onset_latency])
@pytest.mark.filterwarnings("error")
def test_latency_of_curves_without_a_positive_maximum(latency) -> None:
    times = np.arange(5) / 10
    curves = np.array([np.full(5, -1.0), np.zeros(5), np.full(5, np.nan), np.ones(5)])
    assert np.isnan(latency(curves, times, (0.0, 0.4))).tolist() == [True, True, True, False]
    with pytest.raises(ValueError, match="no sample between 2"):
        latency(curves, times, (2.0, 3.0))


@given(st.floats(-0.3, 0.3), st.floats(0.1, 10))
def test_peaks_shift_with_time_and_ignore_scale(shift: float, scale: float) -> None:
    times = np.arange(20) / 20
    curve = np.exp(-((times - 0.4) ** 2) / 0.02)
    base = peak_latency(curve, times, (0.0, 1.0))
    moved = peak_latency(scale * curve, times + shift, (shift, 1.0 + shift))
    assert moved == pytest.approx(base + shift)
    onset = onset_latency(curve, times, (0.0, 1.0))
    assert onset_latency(scale * curve, times + shift, (-1.0, 2.0)) == pytest.approx(onset + shift)


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


def planted_sensors(latencies: np.ndarray, seed: int, noise: float = 0.02) -> Sensors:
    """Return scores of 6 sensors, of which 4 carry bumps at the latencies."""
    rng = np.random.default_rng(seed)
    times = np.arange(20) / 20
    bumps = np.exp(-0.5 * ((times - latencies[:, None]) / 0.08) ** 2)
    signal = np.zeros((len(latencies), 6, 20))
    signal[:, :4] = 0.3 * bumps[:, None]
    draw = lambda n: noise * rng.standard_normal((n, *signal.shape))  # noqa: E731
    return Sensors(signal + draw(61), np.concatenate([(signal + draw(1)), draw(60)]))


def test_timing_finds_sensors_and_latencies() -> None:
    latencies = np.array([0.2, 0.3, 0.4, 0.5, 0.6, 0.7])
    found = timing(planted_sensors(latencies, 0), np.arange(20) / 20, (0.0, 1.0), 0.05)
    assert found.sensors.tolist() == [True] * 4 + [False] * 2
    assert found.latency == pytest.approx(latencies, abs=0.03)
    depth = np.arange(1, 7) / 6
    score = temporal_score([found, found], depth, "pearson")
    assert score.mean > 0.95
    assert score.low > 0.8
    assert score.p[0] < 0.05


def test_layers_without_a_peak_are_left_out_and_few_layers_have_no_score() -> None:
    scores = planted_sensors(np.array([0.2, 0.3, 0.4, 0.5, 0.6]), 0)
    scores.bootstrap[:, 2] = 0.0
    scores.permutation[0, 2] = 0.0
    found = timing(scores, np.arange(20) / 20, (0.0, 1.0), 0.05)
    assert np.isnan(found.latency[2])
    score = temporal_score([found], np.arange(1, 6) / 5, "pearson")
    assert np.isnan(score.values[0])
    assert np.isnan(score.mean)


def test_no_significant_sensor_gives_no_latency() -> None:
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((61, 5, 6, 20))
    found = timing(Sensors(noise, noise[::-1]), np.arange(20) / 20, (0.0, 1.0), 0.05)
    assert not found.sensors.any()
    assert np.isnan(found.latency).all()


def test_flat_latencies_are_rarely_called_ordered() -> None:
    """Null-centred p over flat studies: near its level, where naive correlation tests are not."""
    rng = np.random.default_rng(0)
    depth = np.arange(1, 9) / 8
    rejections = 0
    for _ in range(200):
        noise = 0.02 * rng.standard_normal((101, 8))
        found = Timing(
            np.ones(1, bool), np.zeros((8, 1)), 0.3 + noise[0], noise[0], 0.3 + noise[0] + noise[1:]
        )
        rejections += temporal_score([found], depth, "pearson").p[0] < 0.05
    assert rejections <= 20


def test_replicates_with_too_few_peaks_are_dropped_and_counted() -> None:
    depth = np.arange(1, 7) / 6
    rng = np.random.default_rng(0)
    replicates = depth + rng.normal(0, 0.05, (40, 6))
    replicates[:3, 0] = np.nan  # five layers left: kept
    replicates[3:7, :2] = np.nan  # four left: dropped
    found = Timing(np.ones(1, bool), np.zeros((6, 1)), depth, depth, replicates)
    for method in ("pearson", "spearman"):
        score = temporal_score([found], depth, method)
        assert score.dropped.tolist() == [4]
        assert score.values[0] == pytest.approx(1)
        assert 0.8 < score.low <= score.high <= 1 + 1e-12


def test_subjects_without_a_score_do_not_enter_the_mean() -> None:
    depth = np.arange(1, 7) / 6
    replicates = depth + np.random.default_rng(0).normal(0, 0.05, (40, 6))
    good = Timing(np.ones(1, bool), np.zeros((6, 1)), depth, depth, replicates)
    nothing = Timing(
        np.zeros(1, bool), np.zeros((6, 1)), depth * np.nan, depth * np.nan, replicates * np.nan
    )
    alone = temporal_score([good], depth, "pearson")
    both = temporal_score([good, nothing], depth, "pearson")
    assert (both.mean, both.low, both.high) == (alone.mean, alone.low, alone.high)
    assert both.combined_p == alone.combined_p
    assert np.isnan(both.values[1])
    assert both.dropped.tolist() == [0, 40]
