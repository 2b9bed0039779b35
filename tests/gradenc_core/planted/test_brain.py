"""Each scenario drives the brain by what it says, in the shares and orders that it says."""

import numpy as np
import pytest

from gradenc_core.planted.brain import (
    BACKPROP,
    FORWARD,
    SCENARIOS,
    SPECIFIC,
    Brain,
    Features,
    region_signals,
    scaled,
    sensor_signals,
)

N_LAYERS, N_STIMULI, N_DIMS, N_REGIONS = 6, 2000, 5, 8
TIMES = np.arange(0.0, 0.9, 0.01)


@pytest.fixture(scope="module")
def features() -> Features:
    """Features of which no two layers or signals are correlated, so that shares can be read off."""
    n_all = 3 * N_LAYERS * N_DIMS + N_DIMS
    rows = np.random.default_rng(0).standard_normal((N_STIMULI, n_all))
    columns = np.linalg.qr(rows - rows.mean(axis=0))[0]
    blocks = [scaled(block) for block in np.split(columns, 3 * N_LAYERS + 1, axis=1)]
    forward, gradient, aside = (blocks[i : i + N_LAYERS] for i in range(0, 3 * N_LAYERS, N_LAYERS))
    depth = np.arange(1, N_LAYERS + 1) / N_LAYERS
    return Features(forward, gradient, aside, blocks[-1], depth)


def brain(scenario: str, features: Features, share: float = 0.3, seed: int = 1) -> Brain:
    return Brain(scenario, features, share, np.random.default_rng(seed))


def voxels(one: Brain, n: int = 40) -> np.ndarray:
    """Return voxels of all regions, (n_stimuli, n_regions * n)."""
    return np.hstack(region_signals(one, one.assignment(N_REGIONS), n))


def explained(blocks: list[np.ndarray], y: np.ndarray) -> np.ndarray:
    """Return the share of each response's variance that each block explains, (n_blocks, n)."""
    parts = [np.linalg.qr(block)[0] for block in blocks]
    return np.stack([((part.T @ y) ** 2).sum(axis=0) for part in parts]) / (y**2).sum(axis=0)


@pytest.mark.parametrize("scenario", [*BACKPROP, "misaligned", "null_order"])
@pytest.mark.parametrize("share", [0.02, 0.4])
def test_gradients_hold_their_share_of_the_variance(
    features: Features, scenario: str, share: float
) -> None:
    y = voxels(brain(scenario, features, share))
    driven = y[:, y.shape[1] // 2 :]  # in `misaligned` the upper regions alone
    found = explained([*features.gradient, features.common], driven).sum(axis=0)
    np.testing.assert_allclose(found, share, atol=1e-6)
    np.testing.assert_allclose(driven.var(axis=0), 1, atol=1e-6)


@pytest.mark.parametrize("scenario", [*FORWARD, "meg_only", "null_noise"])
def test_voxels_of_other_scenarios_hold_no_gradient(features: Features, scenario: str) -> None:
    y = voxels(brain(scenario, features))
    assert explained([*features.gradient, features.common], y + 1e-9).sum() < 0.03 * y.shape[1]


def test_sensors_alone_hold_gradients_where_only_meg_has_them(features: Features) -> None:
    one = brain("meg_only", features)
    y = sensor_signals(one, one.latencies(), TIMES, 3).reshape(N_STIMULI, -1)
    late = y[:, y.var(axis=0) > 0.05]
    assert explained(list(features.gradient), late).sum(axis=0).max() > 0.5


def test_backprop_draws_a_voxels_gradient_from_the_layer_of_its_activations(
    features: Features,
) -> None:
    y = voxels(brain("plausible_backprop", features))
    forward, gradient = explained(list(features.forward), y), explained(list(features.gradient), y)
    np.testing.assert_array_equal(forward.argmax(axis=0), gradient.argmax(axis=0))


def test_collinear_gradients_are_mostly_what_the_layers_share(features: Features) -> None:
    y = voxels(brain("collinear_backprop", features, share=0.4))
    own = explained(list(features.gradient), y)
    np.testing.assert_allclose(own.sum(axis=0), 0.4 * SPECIFIC, atol=1e-6)
    np.testing.assert_allclose(explained([features.common], y)[0], 0.4 * (1 - SPECIFIC), atol=1e-6)
    forward = explained(list(features.forward), y)
    np.testing.assert_array_equal(own.argmax(axis=0), forward.argmax(axis=0))


@pytest.mark.parametrize("scenario", ["plausible_backprop", "forward_only", "meg_only"])
def test_forward_layers_rise_along_the_cortex(features: Features, scenario: str) -> None:
    y = voxels(brain(scenario, features))
    best = explained(list(features.forward), y).argmax(axis=0).reshape(N_REGIONS, -1).mean(axis=1)
    assert np.corrcoef(best, np.arange(N_REGIONS))[0, 1] > 0.95


def test_misaligned_gradients_come_from_layers_without_regard_to_position(
    features: Features,
) -> None:
    orders = []
    for seed in range(60):
        assignment = brain("misaligned", features, seed=seed).assignment(N_REGIONS)
        upper = [layers.mean() for layers in assignment.gradient[N_REGIONS // 2 :]]
        assert not any(len(layers) for layers in assignment.gradient[: N_REGIONS // 2])
        orders.append(np.corrcoef(upper, np.arange(len(upper)))[0, 1])
    assert abs(np.mean(orders)) < 3 * np.std(orders) / np.sqrt(len(orders))


def test_null_order_has_activations_and_gradients_in_no_order(features: Features) -> None:
    forward = [
        np.corrcoef(
            brain("null_order", features, seed=seed).assignment(N_REGIONS).forward, range(N_REGIONS)
        )[0, 1]
        for seed in range(60)
    ]
    assert abs(np.mean(forward)) < 3 * np.std(forward) / np.sqrt(len(forward))
    latencies = brain("null_order", features).latencies()
    assert not (np.diff(latencies[0]) > 0).all()
    assert latencies[1] is not None


@pytest.mark.parametrize("rectified", [False, True])
def test_non_linear_responses_are_no_linear_function_of_activations(
    features: Features, rectified: bool
) -> None:
    rng = np.random.default_rng(3)
    one = Brain("forward_nonlinear", features, 0.3, rng, rectified)
    linear = explained(list(features.forward), voxels(one)).sum(axis=0).mean()
    # The positive part of a Gaussian is linear in it to pi / (2 pi - 2) = .73, its square not.
    assert linear == pytest.approx(0.73 if rectified else 0.0, abs=0.06)


def test_class_tokens_drive_what_means_of_patches_lack(features: Features) -> None:
    y = voxels(brain("cls_only", features))
    np.testing.assert_allclose(explained(list(features.aside), y).sum(axis=0), 1)


def test_deep_responses_come_from_the_last_layer_and_are_stronger_upstream(
    features: Features,
) -> None:
    y = voxels(brain("deep_only", features))
    np.testing.assert_allclose(explained([features.forward[-1]], y)[0], 1)
    halves = y.std(axis=0).reshape(2, -1)
    np.testing.assert_allclose(halves, [[0.5], [1.0]] * np.ones_like(halves))


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_each_layer_speaks_at_its_latency(features: Features, scenario: str) -> None:
    one = brain(scenario, features, share=0.4)
    latencies = one.latencies()
    y = sensor_signals(one, latencies, TIMES, 2)
    if scenario == "null_noise":
        assert not y.any()
        return
    if scenario not in ("forward_nonlinear", "cls_only"):
        last = explained([features.forward[-1]], y.reshape(N_STIMULI, -1))[0]
        power = (last * (y**2).sum(axis=0).ravel()).reshape(2, -1).mean(axis=0)
        assert TIMES[power.argmax()] == pytest.approx(latencies[0][-1], abs=0.01)
    if scenario in BACKPROP:
        assert (np.diff(latencies[1]) < 0).all()
    if scenario == "misaligned":
        assert len(set(latencies[1])) == 1
    if scenario in FORWARD:
        assert latencies[1] is None
