"""Worlds: the truth does not depend on the sample, and no image is both seen and unseen."""

from collections.abc import Sequence

import numpy as np
import pytest

from gradenc_core.planted.worlds import NETWORKS, World, WorldSizes, make_worlds

SIZES = WorldSizes(recorded=120, unrecorded=150, further=600, layers=4, projection=16)


@pytest.fixture(scope="module", params=NETWORKS)
def worlds(request: pytest.FixtureRequest) -> list[World]:
    return make_worlds(request.param, ["energy", "classification"], 0, SIZES)


def fitted(x: np.ndarray, y: np.ndarray) -> float:
    """Return the share of variance that ridge explains in sample: dimensions are not counted."""
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    gram = x.T @ x
    gram[np.diag_indices_from(gram)] += 0.1 * np.trace(gram) / len(gram)
    return float(1 - ((y - x @ np.linalg.solve(gram, x.T @ y)) ** 2).sum() / (y**2).sum())


def joined(layers: Sequence[np.ndarray]) -> np.ndarray:
    return np.hstack(list(layers))


def test_features_have_a_row_per_image_and_a_layer_each(worlds: list[World]) -> None:
    for world in worlds:
        assert world.n_stimuli == SIZES.recorded
        assert len(world.recorded.baseline) == SIZES.layers + 1  # and the readout
        assert len(world.recorded.gradient) == len(world.features.gradient) == SIZES.layers
        assert {len(x) for x in world.recorded.gradient} == {SIZES.recorded}
        assert {len(x) for x in world.unrecorded.baseline} == {SIZES.unrecorded}
        assert {x.shape[1] for x in world.recorded.gradient} == {SIZES.projection + 1}
        assert (np.diff(world.features.depth) > 0).all()


def test_worlds_of_one_network_differ_in_gradients_alone(worlds: list[World]) -> None:
    one, other = worlds
    np.testing.assert_array_equal(one.recorded.forward[-1], other.recorded.forward[-1])
    assert not np.array_equal(one.recorded.gradient[-1], other.recorded.gradient[-1])


def test_what_the_pipeline_sees_is_finite(worlds: list[World]) -> None:
    for world in worlds:
        for images in (world.recorded, world.unrecorded):
            for layer in (*images.baseline, *images.forward, *images.gradient):
                assert np.isfinite(layer).all()


def test_the_truths_gradients_are_less_linear_in_activations_than_gradients_are(
    worlds: list[World],
) -> None:
    world = worlds[0]
    activations = joined(world.features.forward)
    truth = fitted(activations, joined(world.features.gradient))
    raw = fitted(activations, joined([layer[:, :-1] for layer in world.recorded.gradient]))
    assert truth < raw


def test_a_seed_makes_the_same_world_and_another_seed_another(worlds: list[World]) -> None:
    sizes = WorldSizes(recorded=20, unrecorded=20, further=40, layers=3, projection=8)
    first, again, other = (make_worlds("vit", ["energy"], seed, sizes)[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.recorded.gradient[1], again.recorded.gradient[1])
    assert not np.allclose(first.recorded.gradient[1], other.recorded.gradient[1])
    assert not np.isin(first.recorded.forward[0][:, 0], first.unrecorded.forward[0][:, 0]).any()


def test_a_layer_whose_gradient_is_the_same_for_all_images_is_left_out() -> None:
    world = make_worlds("vit", ["random.0"], 0, SIZES)[0]
    assert len(world.features.depth) < SIZES.layers
    assert len(world.recorded.forward) == len(world.recorded.gradient) == len(world.features.depth)
    assert len(world.recorded.baseline) == SIZES.layers + 1
    assert all(layer.any() for layer in world.features.gradient)
