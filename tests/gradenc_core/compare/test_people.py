from itertools import product

import numpy as np
import pytest

from gradenc_core.compare.people import rise, untestable
from gradenc_core.compare.regions import Points


def two_regions(differences: np.ndarray) -> list[Points]:
    """Return people who prefer depth 0.2 in a region at 0 mm and 0.2 + difference at 40 mm."""
    place, region = np.array([0.0, 40.0]), np.array([0, 1])
    return [Points(np.array([0.2, 0.2 + d]), place, region) for d in differences]


def test_p_of_two_regions_is_over_all_signs_of_people() -> None:
    differences = np.array([0.4, 0.3, 0.2, 0.5, -0.1, 0.2, 0.6])
    found = rise(two_regions(differences))
    np.testing.assert_allclose(found.values, differences / 40)
    assert found.mean == pytest.approx(differences.mean() / 40)
    flipped = np.array(list(product([1, -1], repeat=7))) @ differences
    assert found.p == pytest.approx(np.mean(flipped >= differences.sum() - 1e-9))


def test_fourteen_of_fifteen_people_who_agree_are_found() -> None:
    """As in real recordings of 15 people, of whom 14 showed IT deeper than the early areas."""
    assert rise(two_regions(np.array([0.1] * 14 + [-0.1]))).p == pytest.approx(16 / 2**15)


def test_few_people_have_no_p() -> None:
    found = rise(two_regions(np.full(5, 0.1)))
    assert found.mean == pytest.approx(0.1 / 40)
    assert np.isnan(found.p)


def test_people_with_one_position_do_not_count() -> None:
    people = two_regions(np.full(6, 0.1))
    one = Points(np.array([0.2, 0.3]), np.array([5.0, 5.0]), np.array([0, 1]))
    unknown = Points(np.array([0.2, np.nan]), np.array([5.0, 9.0]), np.array([0, 1]))
    found = rise([*people, one, unknown])
    assert np.isnan(found.values[6:]).all()
    assert found.p == rise(people).p == 1 / 2**6


def test_what_cannot_be_decided_is_said_with_what_would_be_needed() -> None:
    assert untestable(6, 1) == ""
    few = untestable(2, 15)
    assert few.startswith("2 regions: their order cannot be tested over regions (it needs 6)")
    assert few.endswith("no interval (it needs 4); with 15 people it is tested over people")
    said = untestable(5, 2)
    assert "interval" not in said
    assert said.endswith("a test over people needs 6, and 2 were recorded")


@pytest.mark.parametrize("n", [8, 20])
def test_people_without_an_order_are_seldom_called_ordered(n: int) -> None:
    rng = np.random.default_rng(0)
    p = [rise(two_regions(rng.normal(0, 0.2, n))).p for _ in range(200)]
    assert 2 <= sum(value <= 0.05 for value in p) <= 21  # 10 expected; 99.9 % limits
