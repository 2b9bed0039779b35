from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from gradenc_core.compare import regions, space, statistics
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


def people(rng: np.random.Generator, n: int, shared: bool, n_regions: int = 8) -> list[Points]:
    """Return subjects whose regions are assigned to layers at random: all alike, or each anew.

    A region has ten voxels, which agree up to noise; positions differ a little between subjects.
    """
    region = np.repeat(np.arange(n_regions), 10)
    common = rng.standard_normal(n_regions)
    found = []
    for _ in range(n):
        assigned = common if shared else rng.standard_normal(n_regions)
        depth = assigned[region] + rng.normal(0, 0.3, len(region))
        position = 10.0 * region + rng.uniform(-2, 2, len(region))
        found.append(Points(depth, position, region))
    return found


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("method", ["pearson", "spearman", "slope"])
def test_p_over_subjects_holds_its_level_whether_or_not_they_share_an_assignment(
    shared: bool, method: str
) -> None:
    rng = np.random.default_rng(0)
    studies = [people(rng, 4, shared, n_regions=6) for _ in range(200)]
    p = [regions.order_p(subjects, method, 0) for subjects in studies]
    assert 2 <= sum(value <= 0.05 for value in p) <= 21  # 10 expected; 99.9 % limits
    if shared:
        # What used to be reported takes subjects for independent.
        own = [[regions.order_p([s], method, 0) for s in subjects] for subjects in studies]
        combined = [stats.combine_pvalues(np.clip(v, 0, 0.9999), "stouffer").pvalue for v in own]
        assert sum(value <= 0.05 for value in combined) > 30


@pytest.mark.parametrize("statistic", ["pearson", "slope"])
@pytest.mark.parametrize("seed", [0, 1])
def test_p_over_subjects_permutes_the_regions_that_all_have_in_all_of_them(
    seed: int, statistic: str
) -> None:
    rng = np.random.default_rng(seed)
    first, second = people(rng, 2, False, n_regions=7)
    second = second.without(2)
    common = np.array([0, 1, 3, 4, 5, 6])

    def moved(subject: Points, order: np.ndarray) -> Points:
        here = np.unique(subject.region)
        centre = {r: subject.position[subject.region == r].mean() for r in here}
        to = dict(zip(common, common[order], strict=True))
        shift = np.array([centre[to.get(r, r)] - centre[r] for r in subject.region])
        return Points(subject.depth, subject.position + shift, subject.region)

    scores = np.array(
        [
            sum(regions.order_statistic(moved(s, order), statistic) for s in (first, second))
            for order in statistics.region_permutations(6, 0)
        ]
    )
    p = regions.order_p([first, second], statistic, 0)
    assert p == pytest.approx(np.mean(scores >= scores[0] - 1e-9), abs=1 / 720)


def test_too_few_common_regions_have_no_p_over_subjects() -> None:
    first, second = people(np.random.default_rng(0), 2, False, n_regions=6)
    score = space.spatial_score([first, second.without(0)])
    assert np.isfinite(score.p[0])
    assert np.isnan(score.p[1])
    assert np.isnan(score.combined_p)


def test_one_subject_and_copies_of_it_have_the_same_p_and_interval() -> None:
    (subject,) = people(np.random.default_rng(3), 1, False)
    alone, thrice = space.spatial_score([subject]), space.spatial_score([subject] * 3)
    assert thrice.combined_p == alone.combined_p == alone.p[0]
    assert (thrice.low, thrice.high) == pytest.approx((alone.low, alone.high))


def test_the_interval_is_the_jackknife_over_regions_in_fishers_z() -> None:
    subjects = people(np.random.default_rng(1), 2, False, n_regions=5)
    subjects[1] = subjects[1].without(4)
    score = space.spatial_score(subjects)

    def z(left_out: int) -> float:
        kept = [s.without(left_out) for s in subjects]
        return float(
            np.arctanh(np.mean([stats.pearsonr(s.depth, s.position).statistic for s in kept]))
        )

    left_out = np.array([z(r) for r in range(5)])
    se = np.sqrt(4 / 5 * ((left_out - left_out.mean()) ** 2).sum())
    reach = stats.t.ppf(0.975, 4) * se
    expected = np.tanh([np.arctanh(score.mean) - reach, np.arctanh(score.mean) + reach])
    assert (score.low, score.high) == pytest.approx(tuple(expected))


def test_a_subject_with_three_regions_leaves_no_interval() -> None:
    subjects = people(np.random.default_rng(1), 2, False, n_regions=4)
    assert np.isfinite(space.spatial_score(subjects).low)
    subjects[1] = subjects[1].without(0)
    assert np.isnan(space.spatial_score(subjects).low)


def test_an_order_that_rests_on_one_region_has_a_wide_interval() -> None:
    subject = points([0.2, *[0.9] * 7], list(range(8)), list(range(8)))
    score = space.spatial_score([subject])
    assert score.mean > 0.5
    assert score.low < 0


def test_the_interval_of_a_perfect_order_is_above_zero_and_holds_the_score() -> None:
    region = np.repeat(np.arange(8), 20)
    rng = np.random.default_rng(0)
    ordered = points((region + rng.normal(0, 1, 160)).tolist(), region.tolist(), region.tolist())
    assert space.spatial_score([ordered, ordered]).low > 0.5
    perfect = space.spatial_score([points([1, 2, 3, 4], [1, 2, 3, 4], [0, 1, 2, 3])])
    assert perfect.low <= perfect.mean <= perfect.high


def test_the_interval_of_no_order_excludes_zero_as_seldom_as_it_says() -> None:
    """The percentile bootstrap over 8 regions, which this replaces, excludes 0 in 10 %."""
    rng = np.random.default_rng(0)
    excluded = 0
    for _ in range(600):
        low, high = regions.jackknife_interval(people(rng, 1, False), "pearson")
        excluded += not low <= 0 <= high
    assert 14 <= excluded <= 48  # 30 expected; 99.9 % limits


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
        p.append(float(regions.order_p([subject], method, 0)))
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
