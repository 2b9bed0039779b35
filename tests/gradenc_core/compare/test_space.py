from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from gradenc_core.compare import regions, space
from gradenc_core.compare.regions import Points
from gradenc_core.compare.space import Brain

DEPTH = np.array([0.25, 0.5, 0.75, 1.0])


def test_kstar_by_hand() -> None:
    profile = np.array([[0.1, 0.3, -1], [0.2, 0.1, -1], [0.4, 0.1, -1], [0.1, 0.1, -1]])
    assert space.kstar(profile, DEPTH, "argmax")[:2].tolist() == [0.75, 0.25]
    centre = space.kstar(profile, DEPTH, "centre_of_mass")
    # Weights of the first target: 0, .1, .3, 0.
    assert centre[0] == pytest.approx((0.1 * 0.5 + 0.3 * 0.75) / 0.4)
    assert centre[1] == pytest.approx(0.25)
    assert np.isnan(centre[2])


def test_kstar_of_unknown_or_flat_profiles_is_nan() -> None:
    profile = np.array([[np.nan, 0.2], [0.1, 0.2], [0.1, 0.2], [0.1, 0.2]])
    for how in ("argmax", "centre_of_mass"):
        assert np.isnan(space.kstar(profile, DEPTH, how)).all()


def test_distance_is_to_the_seed_of_the_same_hemisphere() -> None:
    xyz = np.array([[-10.0, 0, 0], [-10, 2, 0], [-10, 11, 0], [10, 0, 0], [10, 7, 0], [0, 0, 0]])
    roi = np.array(["V1", "V1", "V2", "V1", "V2", "V2"], dtype=object)
    side = np.array(["L", "L", "L", "R", "R", "X"], dtype=object)
    distance = space.distance_to_seed(xyz, roi, side, "V1")
    assert distance[:5].tolist() == [1, 1, 10, 0, 7]
    assert np.isnan(distance[5])


def test_ladder_position() -> None:
    place = space.ladder_position(np.array(["V2", "V1", "IT"], dtype=object), ["V1", "V2"])
    assert place[:2].tolist() == [1, 0]
    assert np.isnan(place[2])


def test_layers_that_are_too_alike_are_not_identifiable() -> None:
    cka = np.eye(3)
    assert space.identifiable(cka)
    cka[0, 2] = cka[2, 0] = 0.96
    assert not space.identifiable(cka)
    cka[0, 2] = 0.5
    cka[1, 2] = 0.995
    assert not space.identifiable(cka)


def points(depth: list[float], position: list[float], region: list[int]) -> Points:
    return Points(np.array(depth, float), np.array(position, float), np.array(region))


def test_position_p_is_exact_over_regions() -> None:
    rng = np.random.default_rng(0)
    depth, position = rng.standard_normal((2, 6))
    score = space.spatial_score(
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
    score = space.spatial_score(
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
    score = space.spatial_score([points([1, 2, 3, 4], [1, 2, 3, 4], [0, 1, 2, 3])], "pearson", 0)
    assert np.isnan(score.p[0])
    assert score.values[0] == pytest.approx(1)


@given(st.integers(0, 30))
def test_rank_scores_ignore_monotone_maps(seed: int) -> None:
    rng = np.random.default_rng(seed)
    depth, position = rng.standard_normal((2, 7))
    plain = points(depth.tolist(), position.tolist(), list(range(7)))
    mapped = points(np.exp(depth).tolist(), (position**3).tolist(), list(range(7)))
    a = space.spatial_score([plain], "spearman", 0)
    b = space.spatial_score([mapped], "spearman", 0)
    assert a.values == pytest.approx(b.values)
    assert a.p == pytest.approx(b.p)


def test_the_interval_of_a_perfect_order_is_above_zero_and_of_no_order_is_not() -> None:
    region = np.repeat(np.arange(8), 20)
    rng = np.random.default_rng(0)
    ordered = points((region + rng.normal(0, 1, 160)).tolist(), region.tolist(), region.tolist())
    shuffled = points(rng.normal(0, 1, 160).tolist(), region.tolist(), region.tolist())
    assert space.spatial_score([ordered, ordered], "pearson", 0).low > 0.5
    nothing = space.spatial_score([shuffled], "pearson", 0)
    assert nothing.low < 0 < nothing.high


@pytest.mark.parametrize("method", ["pearson", "spearman"])
def test_a_resample_of_regions_scores_like_its_points_written_out(method: str) -> None:
    rng = np.random.default_rng(0)
    region = rng.integers(0, 5, 60)
    depth, position = rng.integers(0, 6, (2, 60)) + 0.1 * region
    counts = rng.integers(0, 3, (20, 5)).astype(float)
    counts[:, :3] += 1
    subject = points(depth.tolist(), position.tolist(), region.tolist())
    drawn = regions.drawn_scores(subject, range(5), counts, method)
    test = stats.pearsonr if method == "pearson" else stats.spearmanr
    for score, times in zip(drawn, counts[:, region].astype(int), strict=True):
        written_out = test(np.repeat(depth, times), np.repeat(position, times)).statistic
        assert score == pytest.approx(written_out)


def test_a_resample_with_two_of_a_subjects_regions_has_no_score() -> None:
    subject = points([1, 2, 3], [1, 2, 3], [0, 1, 3])
    counts = np.array([[1, 1, 2, 0], [1, 1, 1, 1]], float)
    drawn = regions.drawn_scores(subject, range(4), counts, "pearson")
    assert np.isnan(drawn[0])
    assert drawn[1] == pytest.approx(1)


@pytest.mark.parametrize("method", ["pearson", "spearman"])
def test_equal_depths_have_neither_score_nor_p(method: str) -> None:
    score = space.spatial_score([points([0.1] * 7, list(range(7)), list(range(7)))], method, seed=0)
    assert np.isnan([score.values[0], score.p[0], score.mean, score.low, score.combined_p]).all()


@pytest.mark.parametrize("method", ["pearson", "spearman"])
def test_p_of_random_assignments_is_uniform(method: str) -> None:
    """Voxels inside a region agree: what fools a test over voxels or stimuli."""
    rng = np.random.default_rng(0)
    region = np.repeat(np.arange(6), 10)
    p = []
    for _ in range(300):
        depth = rng.standard_normal(6)[region] + rng.normal(0, 0.3, 60)
        position = 10.0 * region + rng.uniform(-2, 2, 60)
        subject = points(depth.tolist(), position.tolist(), region.tolist())
        p.append(float(regions.position_p(subject, method, 0)))
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
    a, b = (space.spatial_score([s], "pearson", 0) for s in (plain, moved))
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
    found = space.region_points(brain, np.array([0.5, 1.0]), "argmax", ["V1", "V2"])
    assert found.depth.tolist() == [1.0, 1.0]
    assert found.position.tolist() == [2.0, 8.0]
    assert space.region_profile(brain, ["V1", "V2"])[:, 0].tolist() == [0.0, 0.4]
