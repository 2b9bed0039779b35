from itertools import permutations

import numpy as np
import pytest

from gradenc_core.compare.agreement import agreement, contrast, paired
from gradenc_core.compare.regions import Points
from gradenc_core.compare.space import Brain, target_points

REGION = np.arange(6)
FORWARD = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
GRADIENT = np.array([0.2, 0.1, 0.4, 0.3, 0.5, 0.6])


def of(depth: np.ndarray, place: np.ndarray | None = None) -> list[Points]:
    return [Points(depth, 10.0 * REGION if place is None else place, REGION)]


def test_agreement_permutes_the_gradients_depths_and_knows_no_position() -> None:
    nowhere = np.full(6, np.nan)
    score = agreement(of(GRADIENT, nowhere), of(FORWARD, nowhere))
    observed = np.corrcoef(GRADIENT, FORWARD)[0, 1]
    null = [np.corrcoef(GRADIENT[list(o)], FORWARD)[0, 1] for o in permutations(range(6))]
    assert score.mean == pytest.approx(observed)
    assert score.combined_p == pytest.approx(np.mean(np.array(null) >= observed - 1e-9))
    assert score.low < observed < score.high


def test_the_contrast_is_the_difference_of_slopes_with_its_permutation_p() -> None:
    found = contrast(of(GRADIENT), of(FORWARD), 0.5)
    place = 10.0 * REGION

    def slope(depth: np.ndarray) -> float:
        return float(np.polyfit(place, depth, 1)[0])

    assert found.mean == pytest.approx(slope(GRADIENT) - 0.5 * slope(FORWARD))
    d = GRADIENT - 0.5 * FORWARD
    null = np.array([slope(d[list(order)]) for order in permutations(range(6))])
    assert found.p == pytest.approx(np.mean(null <= null[0] + 1e-12))


def test_the_contrast_holds_its_level_at_the_least_favourable_slope() -> None:
    """The gradient rises at exactly half the forward rate, and both carry noise."""
    rng = np.random.default_rng(0)
    rejected = 0
    for _ in range(300):
        common = rng.normal(0, 0.1, 6)
        people = []
        for _ in range(3):
            forward = FORWARD + common + rng.normal(0, 0.05, 6)
            people.append((0.5 * FORWARD + rng.normal(0, 0.2, 6) + 0.5 * common, forward))
        gradient = [of(g)[0] for g, _ in people]
        rejected += contrast(gradient, [of(f)[0] for _, f in people], 0.5).p <= 0.05
    assert 4 <= rejected <= 29  # 15 expected; 99.8 % limits


def test_the_contrast_finds_a_gradient_without_an_order() -> None:
    rng = np.random.default_rng(0)
    gradient = [of(0.5 + rng.normal(0, 0.02, 6))[0] for _ in range(3)]
    found = contrast(gradient, of(FORWARD) * 3, 0.5)
    assert found.mean < 0
    assert found.p < 0.05


def test_pairs_have_the_targets_and_layers_of_both() -> None:
    names = np.array(["V1", "V2", "V3"], dtype=object)
    side = np.array(["L", "L", "L"], dtype=object)
    place = np.arange(3.0)
    gradient = Brain(np.eye(2, 3), np.array([True, True, False]), place, names, side)
    forward = Brain(np.eye(3), np.array([True, False, True]), place, names, side)
    own, other = paired(gradient, forward, np.array([True, False, True]))
    assert own.selected.tolist() == other.selected.tolist() == [True, False, False]
    assert other.profile.tolist() == [[1, 0, 0], [0, 0, 1]]
    depth = np.array([0.3, 1.0])
    points = [target_points(brain, depth, "argmax", ["V1", "V2", "V3"]) for brain in (own, other)]
    assert points[0].region.tolist() == points[1].region.tolist() == [0]


def test_points_without_a_depth_in_one_signal_leave_both() -> None:
    unknown = GRADIENT.copy()
    unknown[0] = np.nan
    score = agreement(of(unknown), of(FORWARD))
    assert score.mean == pytest.approx(np.corrcoef(GRADIENT[1:], FORWARD[1:])[0, 1])
    assert np.isnan(score.combined_p)
    assert np.isnan(contrast(of(unknown), of(FORWARD), 0.5).p)
