import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradenc_core.compare.peaks import Sensors, onset_latency, peak_latency, timing
from gradenc_core.compare.time import temporal_score


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
    curves = np.array([np.full(5, -1.0), np.zeros(5), np.full(5, np.nan), np.eye(5)[2]])
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


@pytest.mark.parametrize("latency", [peak_latency, onset_latency])
def test_a_maximum_at_the_edge_of_the_search_window_is_no_peak(latency) -> None:
    times = np.arange(6) / 10
    falling, rising = np.linspace(1, 0.1, 6), np.linspace(0.1, 1, 6)
    inside = np.array([0.1, 0.2, 1.0, 0.2, 0.1, 0.1])
    found = latency(np.stack([falling, rising, inside]), times, (0.0, 0.5))
    assert np.isnan(found).tolist() == [True, True, False]
    # The same maximum lies at an edge of a shorter window.
    assert np.isnan(latency(inside, times, (0.2, 0.5)))


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
    assert found.latencies.observed == pytest.approx(latencies, abs=0.03)
    assert not found.at_edge.any()
    score = temporal_score([found.latencies] * 2, np.arange(1, 7) / 6, "pearson")
    assert score.mean > 0.95
    assert score.low > 0.8
    assert score.p[0] <= 0.05


def test_layers_without_a_peak_are_left_out_and_few_layers_have_no_score() -> None:
    scores = planted_sensors(np.array([0.2, 0.3, 0.4, 0.5, 0.6]), 0)
    scores.bootstrap[:, 2] = 0.0
    scores.permutation[0, 2] = 0.0
    found = timing(scores, np.arange(20) / 20, (0.0, 1.0), 0.05)
    assert np.isnan(found.latencies.observed[2])
    score = temporal_score([found.latencies], np.arange(1, 6) / 5, "pearson")
    assert np.isnan(score.values[0])
    assert np.isnan(score.mean)


def test_layers_that_are_highest_at_an_edge_are_counted_and_have_no_latency() -> None:
    latencies = np.array([-0.02, 0.3, 0.4, 0.5, 0.6, 0.97])
    found = timing(planted_sensors(latencies, 0), np.arange(20) / 20, (0.0, 1.0), 0.05)
    assert found.at_edge.tolist() == [True, False, False, False, False, True]
    for of_layers in (found.latencies.observed, found.onset):
        assert np.isnan(of_layers).tolist() == found.at_edge.tolist()


def test_no_significant_sensor_gives_no_latency() -> None:
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((61, 5, 6, 20))
    found = timing(Sensors(noise, noise[::-1]), np.arange(20) / 20, (0.0, 1.0), 0.05)
    assert not found.sensors.any()
    assert np.isnan(found.latencies.observed).all()
