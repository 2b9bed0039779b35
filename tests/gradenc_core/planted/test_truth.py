import numpy as np
import pytest

from gradenc_core.planted.brain import SCENARIOS, Features
from gradenc_core.planted.truth import (
    REGIONS,
    Planted,
    Sizes,
    driving_features,
    plant,
    residual_gradients,
)

DEPTH = np.arange(1, 9) / 8
SIZES = Sizes(voxel_noise=0.5, sensor_noise=0.5)


def layers(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    forward = rng.standard_normal((8, 300, 20))
    # Gradients are partly linear in the activations, which gamma must not be.
    gradient = 0.5 * forward + rng.standard_normal((8, 300, 20))
    return forward, gradient


def features(seed: int) -> Features:
    forward, gradient = layers(seed)
    aside = np.random.default_rng(seed + 100).standard_normal(forward.shape)
    return driving_features(forward, gradient, aside, DEPTH)


def study(scenario: str) -> Planted:
    return plant(scenario, features(0), 1, SIZES)


def explained(features: np.ndarray, responses: np.ndarray) -> np.ndarray:
    """Return the share of variance that least squares explains, (n_targets,)."""
    x = features - features.mean(axis=0)
    y = responses - responses.mean(axis=0)
    residual = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
    return 1 - (residual**2).sum(axis=0) / (y**2).sum(axis=0)


def mean_response(planted: Planted) -> np.ndarray:
    subject = planted.fmri[0]
    total = np.zeros((300, len(subject.rois)))
    for data, order in subject.sessions:
        total[order] += data
    return total / len(subject.sessions)


def test_gamma_is_free_of_what_is_linear_in_leading_activations() -> None:
    forward, gradient = layers(0)
    gamma = np.hstack(residual_gradients(forward, gradient))
    for layer in forward:
        left = np.linalg.svd(layer - layer.mean(axis=0), full_matrices=False)[0]
        assert np.abs(left.T @ gamma).max() < 1e-8


def test_regions_lie_10_mm_apart_in_both_hemispheres() -> None:
    subject = study("null_noise").fmri[0]
    xyz = subject.ijk @ subject.affine[:3, :3].T + subject.affine[:3, 3]
    rois, sides = np.array(subject.rois), np.array(subject.hemispheres)
    for side in "LR":
        centres = [xyz[(rois == name) & (sides == side)].mean(axis=0) for name in REGIONS]
        distance = np.linalg.norm(np.array(centres) - centres[0], axis=1)
        assert distance == pytest.approx(10 * np.arange(8))
    assert min(np.sum((rois == name) & (sides == "L")) for name in REGIONS) >= 30
    assert (subject.ijk < subject.shape).all()
    assert len(np.unique(subject.ijk, axis=0)) == len(subject.ijk)


def test_forward_layers_rise_along_the_cortex() -> None:
    y = mean_response(study("forward_only"))
    rois = np.array(study("forward_only").fmri[0].rois)
    best = np.argmax([explained(layer, y) for layer in features(0).forward], axis=0)
    means = [best[rois == name].mean() for name in REGIONS]
    assert np.corrcoef(np.arange(8), means)[0, 1] > 0.95
    # Voxels now and then follow a neighbouring layer: the planted score is not 1.
    assert len(np.unique(best[rois == "V4"])) > 1


def test_gradients_drive_only_the_scenarios_that_say_so() -> None:
    gamma = features(0).gradient
    upper = np.isin(study("misaligned").fmri[0].rois, REGIONS[4:])

    def unique(scenario: str) -> np.ndarray:
        return np.max([explained(layer, mean_response(study(scenario))) for layer in gamma], axis=0)

    assert np.median(unique("plausible_backprop")) > 0.3
    assert np.median(unique("forward_only")) < 0.15
    assert np.median(unique("misaligned")[upper]) > 0.3
    assert np.median(unique("misaligned")[~upper]) < 0.15


def test_latencies_fall_with_depth_only_where_backpropagation_is_planted() -> None:
    assert np.all(np.diff(study("plausible_backprop").truth["gradient_latency_s"]) < 0)
    assert len(set(study("misaligned").truth["gradient_latency_s"])) == 1
    assert study("forward_only").truth["gradient_latency_s"] is None
    rising = np.array(study("null_order").truth["forward_latency_s"])
    assert not (np.diff(rising) > 0).all()


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_same_seed_plants_the_same_study(scenario: str) -> None:
    a, b = study(scenario), study(scenario)
    assert all(
        np.array_equal(x[0], y[0])
        for x, y in zip(a.fmri[0].sessions, b.fmri[0].sessions, strict=True)
    )
    assert np.array_equal(a.meg[0].data, b.meg[0].data)


def test_an_unknown_scenario_is_refused() -> None:
    with pytest.raises(ValueError, match="choose one of null_noise"):
        study("aligned")
