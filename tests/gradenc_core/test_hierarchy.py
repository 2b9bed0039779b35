from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from gradenc_core import hierarchy
from gradenc_core.hierarchy import Brain, Points, Sensors, Timing

DEPTH = np.array([0.25, 0.5, 0.75, 1.0])


def test_kstar_by_hand() -> None:
    profile = np.array([[0.1, 0.3, -1], [0.2, 0.1, -1], [0.4, 0.1, -1], [0.1, 0.1, -1]])
    assert hierarchy.kstar(profile, DEPTH, "argmax")[:2].tolist() == [0.75, 0.25]
    centre = hierarchy.kstar(profile, DEPTH, "centre_of_mass")
    # Weights of the first target: 0, .1, .3, 0.
    assert centre[0] == pytest.approx((0.1 * 0.5 + 0.3 * 0.75) / 0.4)
    assert centre[1] == pytest.approx(0.25)
    assert np.isnan(centre[2])


def test_kstar_of_unknown_or_flat_profiles_is_nan() -> None:
    profile = np.array([[np.nan, 0.2], [0.1, 0.2], [0.1, 0.2], [0.1, 0.2]])
    for how in hierarchy.KSTARS:
        assert np.isnan(hierarchy.kstar(profile, DEPTH, how)).all()


def test_distance_is_to_the_seed_of_the_same_hemisphere() -> None:
    xyz = np.array([[-10.0, 0, 0], [-10, 2, 0], [-10, 11, 0], [10, 0, 0], [10, 7, 0], [0, 0, 0]])
    roi = np.array(["V1", "V1", "V2", "V1", "V2", "V2"], dtype=object)
    side = np.array(["L", "L", "L", "R", "R", "X"], dtype=object)
    distance = hierarchy.distance_to_seed(xyz, roi, side, "V1")
    assert distance[:5].tolist() == [1, 1, 10, 0, 7]
    assert np.isnan(distance[5])


def test_ladder_position() -> None:
    place = hierarchy.ladder_position(np.array(["V2", "V1", "IT"], dtype=object), ["V1", "V2"])
    assert place[:2].tolist() == [1, 0]
    assert np.isnan(place[2])


def test_layers_that_are_too_alike_are_not_identifiable() -> None:
    cka = np.eye(3)
    assert hierarchy.identifiable(cka)
    cka[0, 2] = cka[2, 0] = 0.96
    assert not hierarchy.identifiable(cka)
    cka[0, 2] = 0.5
    cka[1, 2] = 0.995
    assert not hierarchy.identifiable(cka)


def points(depth: list[float], position: list[float], region: list[int]) -> Points:
    return Points(np.array(depth, float), np.array(position, float), np.array(region))


def test_position_p_is_exact_over_regions() -> None:
    rng = np.random.default_rng(0)
    depth, position = rng.standard_normal((2, 6))
    score = hierarchy.spatial_score(
        [points(depth.tolist(), position.tolist(), list(range(6)))], "pearson", 0
    )
    observed = np.corrcoef(depth, position)[0, 1]
    null = [np.corrcoef(depth, position[list(order)])[0, 1] for order in permutations(range(6))]
    assert score.values[0] == pytest.approx(observed)
    assert score.p[0] == pytest.approx(np.mean(np.array(null) >= observed - 1e-9))


def test_position_p_moves_voxels_with_their_region() -> None:
    rng = np.random.default_rng(1)
    region = np.repeat(np.arange(6), 4)
    position = 10.0 * region + rng.uniform(-1, 1, 24)
    depth = rng.standard_normal(24)
    score = hierarchy.spatial_score(
        [points(depth.tolist(), position.tolist(), region.tolist())], "pearson", 0
    )
    centre = np.array([position[region == r].mean() for r in range(6)])
    offset = position - centre[region]
    null = [
        np.corrcoef(depth, centre[list(order)][region] + offset)[0, 1]
        for order in permutations(range(6))
    ]
    assert score.p[0] == pytest.approx(np.mean(np.array(null) >= null[0] - 1e-9))


def test_too_few_regions_have_no_p() -> None:
    score = hierarchy.spatial_score(
        [points([1, 2, 3, 4], [1, 2, 3, 4], [0, 1, 2, 3])], "pearson", 0
    )
    assert np.isnan(score.p[0])
    assert score.values[0] == pytest.approx(1)


@given(st.integers(0, 30))
def test_rank_scores_ignore_monotone_maps(seed: int) -> None:
    rng = np.random.default_rng(seed)
    depth, position = rng.standard_normal((2, 7))
    plain = points(depth.tolist(), position.tolist(), list(range(7)))
    mapped = points(np.exp(depth).tolist(), (position**3).tolist(), list(range(7)))
    a = hierarchy.spatial_score([plain], "spearman", 0)
    b = hierarchy.spatial_score([mapped], "spearman", 0)
    assert a.values == pytest.approx(b.values)
    assert a.p == pytest.approx(b.p)


def test_the_interval_of_a_perfect_order_is_above_zero_and_of_no_order_is_not() -> None:
    region = np.repeat(np.arange(8), 20)
    rng = np.random.default_rng(0)
    ordered = points((region + rng.normal(0, 1, 160)).tolist(), region.tolist(), region.tolist())
    shuffled = points(rng.normal(0, 1, 160).tolist(), region.tolist(), region.tolist())
    assert hierarchy.spatial_score([ordered, ordered], "pearson", 0).low > 0.5
    nothing = hierarchy.spatial_score([shuffled], "pearson", 0)
    assert nothing.low < 0 < nothing.high


@pytest.mark.parametrize("method", hierarchy.CORRELATIONS)
def test_a_resample_of_regions_scores_like_its_points_written_out(method: str) -> None:
    rng = np.random.default_rng(0)
    region = rng.integers(0, 5, 60)
    depth, position = rng.integers(0, 6, (2, 60)) + 0.1 * region
    counts = rng.integers(0, 3, (20, 5)).astype(float)
    counts[:, :3] += 1
    subject = points(depth.tolist(), position.tolist(), region.tolist())
    drawn = hierarchy._drawn_scores(subject, range(5), counts, method)
    test = stats.pearsonr if method == "pearson" else stats.spearmanr
    for score, times in zip(drawn, counts[:, region].astype(int), strict=True):
        written_out = test(np.repeat(depth, times), np.repeat(position, times)).statistic
        assert score == pytest.approx(written_out)


def test_a_resample_with_two_of_a_subjects_regions_has_no_score() -> None:
    subject = points([1, 2, 3], [1, 2, 3], [0, 1, 3])
    counts = np.array([[1, 1, 2, 0], [1, 1, 1, 1]], float)
    drawn = hierarchy._drawn_scores(subject, range(4), counts, "pearson")
    assert np.isnan(drawn[0])
    assert drawn[1] == pytest.approx(1)


@pytest.mark.parametrize("method", hierarchy.CORRELATIONS)
def test_equal_depths_have_neither_score_nor_p(method: str) -> None:
    score = hierarchy.spatial_score(
        [points([0.1] * 7, list(range(7)), list(range(7)))], method, seed=0
    )
    assert np.isnan([score.values[0], score.p[0], score.mean, score.low, score.combined_p]).all()


@pytest.mark.parametrize("method", hierarchy.CORRELATIONS)
def test_p_of_random_assignments_is_uniform(method: str) -> None:
    """Voxels inside a region agree: what fools a test over voxels or stimuli."""
    rng = np.random.default_rng(0)
    region = np.repeat(np.arange(6), 10)
    p = []
    for _ in range(300):
        depth = rng.standard_normal(6)[region] + rng.normal(0, 0.3, 60)
        position = 10.0 * region + rng.uniform(-2, 2, 60)
        subject = points(depth.tolist(), position.tolist(), region.tolist())
        p.append(float(hierarchy._position_p(subject, method, 0)))
    assert stats.kstest(p, "uniform").pvalue > 0.01


@given(st.integers(0, 30), st.floats(0.1, 100), st.floats(-1e4, 1e4))
def test_scores_ignore_where_and_in_what_unit_positions_are(
    seed: int, scale: float, shift: float
) -> None:
    rng = np.random.default_rng(seed)
    region = np.repeat(np.arange(6), 3)
    depth, position = rng.standard_normal((2, 18))
    plain = points(depth.tolist(), position.tolist(), region.tolist())
    moved = points(depth.tolist(), (scale * position + shift).tolist(), region.tolist())
    a, b = (hierarchy.spatial_score([s], "pearson", 0) for s in (plain, moved))
    assert b.values == pytest.approx(a.values, abs=1e-6)
    assert b.p == pytest.approx(a.p, abs=2 / 720)
    assert (b.low, b.high) == pytest.approx((a.low, a.high), abs=1e-6)


def test_region_points_take_the_mean_profile_of_selected_voxels() -> None:
    profile = np.array([[0.9, 0.0, 0.0], [0.0, 0.4, 0.5]])
    brain = Brain(
        profile,
        np.array([False, True, True]),
        np.array([1.0, 3.0, 8.0]),
        np.array(["V1", "V1", "V2"], dtype=object),
        np.array(["L", "L", "L"], dtype=object),
    )
    found = hierarchy.region_points(brain, np.array([0.5, 1.0]), "argmax", ["V1", "V2"])
    assert found.depth.tolist() == [1.0, 1.0]
    assert found.position.tolist() == [2.0, 8.0]
    assert hierarchy.region_profile(brain, ["V1", "V2"])[:, 0].tolist() == [0.0, 0.4]


def test_peak_is_the_mean_of_the_run_around_the_maximum() -> None:
    times = np.arange(8) / 10
    #                 two high samples, a gap, then another high one outside the run
    curve = np.array([0.0, 0.1, 0.96, 1.0, 0.2, 0.97, 0.0, 5.0])
    assert hierarchy.peak_latency(curve, times, (0.0, 0.6)) == pytest.approx(0.25)
    assert np.isnan(hierarchy.peak_latency(-curve, times, (0.0, 0.6)))


def test_onset_is_the_start_of_the_last_rise_above_half() -> None:
    times = np.arange(6) / 10
    curve = np.array([0.0, 0.6, 0.1, 0.5, 1.0, 0.2])
    assert hierarchy.onset_latency(curve, times, (0.0, 0.5)) == pytest.approx(0.3)
    assert hierarchy.onset_latency(curve[::-1], times, (0.0, 0.5)) == pytest.approx(0.1)


@pytest.mark.parametrize("latency", [hierarchy.peak_latency, hierarchy.onset_latency])
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
    base = hierarchy.peak_latency(curve, times, (0.0, 1.0))
    moved = hierarchy.peak_latency(scale * curve, times + shift, (shift, 1.0 + shift))
    assert moved == pytest.approx(base + shift)
    onset = hierarchy.onset_latency(curve, times, (0.0, 1.0))
    assert hierarchy.onset_latency(scale * curve, times + shift, (-1.0, 2.0)) == pytest.approx(
        onset + shift
    )


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
    timing = hierarchy.timing(planted_sensors(latencies, 0), np.arange(20) / 20, (0.0, 1.0), 0.05)
    assert timing.sensors.tolist() == [True] * 4 + [False] * 2
    assert timing.latency == pytest.approx(latencies, abs=0.03)
    depth = np.arange(1, 7) / 6
    score = hierarchy.temporal_score([timing, timing], depth, "pearson")
    assert score.mean > 0.95
    assert score.low > 0.8
    assert score.p[0] < 0.05


def test_layers_without_a_peak_are_left_out_and_few_layers_have_no_score() -> None:
    scores = planted_sensors(np.array([0.2, 0.3, 0.4, 0.5, 0.6]), 0)
    scores.bootstrap[:, 2] = 0.0
    scores.permutation[0, 2] = 0.0
    timing = hierarchy.timing(scores, np.arange(20) / 20, (0.0, 1.0), 0.05)
    assert np.isnan(timing.latency[2])
    score = hierarchy.temporal_score([timing], np.arange(1, 6) / 5, "pearson")
    assert np.isnan(score.values[0])
    assert np.isnan(score.mean)


def test_no_significant_sensor_gives_no_latency() -> None:
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((61, 5, 6, 20))
    timing = hierarchy.timing(Sensors(noise, noise[::-1]), np.arange(20) / 20, (0.0, 1.0), 0.05)
    assert not timing.sensors.any()
    assert np.isnan(timing.latency).all()


def test_flat_latencies_are_rarely_called_ordered() -> None:
    """Null-centred p over flat studies: near its level, where naive correlation tests are not."""
    rng = np.random.default_rng(0)
    depth = np.arange(1, 9) / 8
    rejections = 0
    for _ in range(200):
        noise = 0.02 * rng.standard_normal((101, 8))
        timing = Timing(
            np.ones(1, bool), np.zeros((8, 1)), 0.3 + noise[0], noise[0], 0.3 + noise[0] + noise[1:]
        )
        rejections += hierarchy.temporal_score([timing], depth, "pearson").p[0] < 0.05
    assert rejections <= 20


def test_replicates_with_too_few_peaks_are_dropped_and_counted() -> None:
    depth = np.arange(1, 7) / 6
    rng = np.random.default_rng(0)
    replicates = depth + rng.normal(0, 0.05, (40, 6))
    replicates[:3, 0] = np.nan  # five layers left: kept
    replicates[3:7, :2] = np.nan  # four left: dropped
    timing = Timing(np.ones(1, bool), np.zeros((6, 1)), depth, depth, replicates)
    for method in hierarchy.CORRELATIONS:
        score = hierarchy.temporal_score([timing], depth, method)
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
    alone = hierarchy.temporal_score([good], depth, "pearson")
    both = hierarchy.temporal_score([good, nothing], depth, "pearson")
    assert (both.mean, both.low, both.high) == (alone.mean, alone.low, alone.high)
    assert both.combined_p == alone.combined_p
    assert np.isnan(both.values[1])
    assert both.dropped.tolist() == [0, 40]
