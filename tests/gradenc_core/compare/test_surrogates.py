import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradenc_core.compare.regions import Points, order_p
from gradenc_core.compare.surrogates import moran_basis, moran_p, moran_surrogates

XYZ = np.array(
    [[38, 16, 2], [1, 49, 55], [36, 44, 33], [56, 49, 0], [51, 2, 44], [11, 52, 32], [18, 25, 2.0]]
)
VALUES = np.array([0.12, 0.67, 0.65, 0.62, 0.38, 1.0, 0.98])


def distances(xyz: np.ndarray) -> np.ndarray:
    return np.asarray(np.linalg.norm(xyz[:, None] - xyz[None], axis=-1))


def test_surrogates_are_those_of_brainspace() -> None:
    """BrainSpace 0.3.0: moran_randomization(VALUES, compute_mem(1 / distance), random_state=0)."""
    signs = np.random.RandomState(0).choice([-1.0, 1.0], size=(2, 6))
    found = moran_surrogates(VALUES, moran_basis(distances(XYZ)), signs)
    expected = [
        [0.46113, 0.40832, 0.36518, 0.86018, 0.46354, 0.63534, 1.22631],
        [0.58882, 0.52882, 0.5083, 0.58618, 0.36316, 1.31814, 0.52658],
    ]
    np.testing.assert_allclose(found, expected, atol=2e-5)


@given(st.integers(0, 200), st.integers(3, 20))
def test_surrogates_keep_mean_variance_and_morans_i(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    distance = distances(rng.uniform(0, 60, (n, 3)))
    values = rng.standard_normal(n)
    signs = rng.choice([-1.0, 1.0], (4, n - 1))
    weights = np.divide(1, distance, out=np.zeros_like(distance), where=distance > 0)

    def moran(x: np.ndarray) -> float:
        c = x - x.mean()
        return float(c @ weights @ c / (c @ c))

    for surrogate in moran_surrogates(values, moran_basis(distance), signs):
        assert surrogate.mean() == pytest.approx(values.mean(), abs=1e-9)
        assert surrogate.std() == pytest.approx(values.std())
        assert moran(surrogate) == pytest.approx(moran(values), abs=1e-9)
    same = moran_surrogates(values, moran_basis(distance), np.ones((1, n - 1)))
    np.testing.assert_allclose(same[0], values, atol=1e-9)


def test_too_few_places_and_flat_maps_have_no_p() -> None:
    distance = distances(XYZ)
    position = distance[0]
    assert np.isnan(moran_p([VALUES[:5]], [position[:5]], distance[:5, :5], 0))
    assert np.isnan(moran_p([np.ones(7)], [position], distance, 0))
    alone = moran_p([VALUES], [position], distance, 0)
    assert moran_p([VALUES, np.ones(7)], [position, position], distance, 0) == alone


def test_smooth_maps_are_taken_for_orders_less_often_than_by_permutation_of_regions() -> None:
    """Maps without an order, as smooth as k* is on the cortex, of 30 regions."""
    rng = np.random.default_rng(0)
    moran, permuted = 0, 0
    for _ in range(100):
        distance = distances(rng.uniform(0, 60, (30, 3)))
        root = np.linalg.cholesky(np.exp(-distance / 40) + 1e-9 * np.eye(30))
        depth, position = root @ rng.standard_normal(30), distance[0]
        moran += moran_p([depth], [position], distance, 0) <= 0.05
        permuted += order_p([Points(depth, position, np.arange(30))], "pearson", 0) <= 0.05
    assert permuted >= 13
    assert moran <= 13  # 99.9 % limit of 5
