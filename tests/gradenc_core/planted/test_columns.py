"""Studies as columns have the ceiling, the tuning and the subjects that were drawn for them."""

from dataclasses import replace

import numpy as np
import pytest

from gradenc_core.planted.brain import Features, scaled
from gradenc_core.planted.columns import (
    TIMES,
    WINDOW_MEMORY,
    Setting,
    draw_setting,
    plant_columns,
    plant_voxels,
    select_dimensions,
)

N_LAYERS, N_STIMULI, N_DIMS = 6, 1500, 50


@pytest.fixture(scope="module")
def features() -> Features:
    rng = np.random.default_rng(0)
    spectrum = 1 / np.arange(1, N_DIMS + 1)

    def layer() -> np.ndarray:
        left = np.linalg.qr(rng.standard_normal((N_STIMULI, N_DIMS)))[0]
        return scaled(left * spectrum)

    forward, gradient, aside = ([layer() for _ in range(N_LAYERS)] for _ in range(3))
    return Features(forward, gradient, aside, layer(), np.arange(1, N_LAYERS + 1) / N_LAYERS)


def setting(scenario: str = "plausible_backprop", **changes: object) -> Setting:
    return replace(draw_setting(scenario, np.random.default_rng(0)), **changes)


@pytest.mark.parametrize("ceiling", [0.2, 0.9])
@pytest.mark.parametrize("scenario", ["forward_only", "collinear_backprop", "deep_only"])
def test_no_prediction_can_correlate_beyond_the_ceiling(
    features: Features, ceiling: float, scenario: str
) -> None:
    study = plant_columns(
        features, setting(scenario, ceiling=ceiling, n_subjects=4), np.random.default_rng(1)
    )
    for signals, recorded in ((study.fmri_signal, study.fmri), (study.meg_signal, study.meg)):
        signal, total = (
            np.concatenate([x.reshape(N_STIMULI, -1) for x in part], 1).var(axis=0)
            for part in (signals, recorded)
        )
        assert np.sqrt(signal.mean() / total.mean()) == pytest.approx(ceiling, rel=0.05)


def test_a_study_without_signal_is_noise(features: Features) -> None:
    study = plant_columns(features, setting("null_noise"), np.random.default_rng(1))
    assert not any(signal.any() for signal in (*study.fmri_signal, *study.meg_signal))
    assert np.mean([y.var() for y in study.fmri]) == pytest.approx(1, abs=0.05)


def test_columns_share_noise_and_windows_remember(features: Features) -> None:
    study = plant_columns(
        features, setting("null_noise", common_noise=0.4, n_subjects=1), np.random.default_rng(1)
    )
    between = np.corrcoef(study.fmri[0].T)
    assert between[np.triu_indices_from(between, 1)].mean() == pytest.approx(0.4, abs=0.05)
    sensors = study.meg[0]
    lag = [np.corrcoef(sensors[:, 0, t], sensors[:, 0, t + 1])[0, 1] for t in range(len(TIMES) - 1)]
    assert np.mean(lag) == pytest.approx(WINDOW_MEMORY, abs=0.05)


@pytest.mark.parametrize("white", [False, True])
@pytest.mark.parametrize("n", [5, 30, None])
def test_tuning_has_the_dimensions_that_were_drawn(
    features: Features, n: int | None, white: bool
) -> None:
    chosen = select_dimensions(features, n, white, np.random.default_rng(2))
    for layer in (*chosen.forward, *chosen.gradient, *chosen.aside):
        assert layer.shape[1] == (n or N_DIMS)
        assert (layer**2).sum(axis=1).mean() == pytest.approx(1)
        spread = layer.std(axis=0)
        assert (spread.max() / spread.min() < 1 + 1e-6) == white


@pytest.mark.parametrize("n_subjects", [1, 4])
@pytest.mark.parametrize("n_regions", [8, 15])
def test_every_subject_has_both_hemispheres_and_all_windows(
    features: Features, n_subjects: int, n_regions: int
) -> None:
    drawn = setting(n_subjects=n_subjects, n_regions=n_regions)
    study = plant_columns(features, drawn, np.random.default_rng(1))
    assert [y.shape for y in study.fmri] == [(N_STIMULI, 2 * n_regions)] * n_subjects
    assert [y.shape[2] for y in study.meg] == [len(TIMES)] * n_subjects
    assert study.position.max() == 10 * (n_regions - 1)
    np.testing.assert_array_equal(study.region, study.position / 10)


def best_layers(features: Features, y: np.ndarray) -> np.ndarray:
    parts = [np.linalg.qr(layer)[0] for layer in features.forward]
    return np.array([((part.T @ y) ** 2).sum(axis=0) for part in parts]).argmax(axis=0)


def test_subjects_differ_only_where_assignments_are_their_own(features: Features) -> None:
    def differ(own: bool) -> float:
        drawn = setting("null_order", own=own, n_subjects=2, share=0.02, n_dims=None, white=True)
        study = plant_columns(features, drawn, np.random.default_rng(4))
        first, second = (best_layers(features, y) for y in study.fmri_signal)
        return float((first != second).mean())

    assert differ(own=False) == 0
    assert differ(own=True) > 0.5


def test_settings_range_over_what_laboratories_meet() -> None:
    rng = np.random.default_rng(0)
    drawn = [draw_setting("misaligned", rng) for _ in range(300)]
    assert {one.n_subjects for one in drawn} == {1, 2, 4}
    assert {one.n_dims for one in drawn} == {5, 10, 30, 64, None}
    assert min(one.ceiling for one in drawn) < 0.25
    assert max(one.ceiling for one in drawn) > 0.85
    fixed = draw_setting("misaligned", rng, share=0.2, ceiling=0.6)
    assert (fixed.share, fixed.ceiling) == (0.2, 0.6)


def test_the_same_seed_plants_the_same_study(features: Features) -> None:
    one, other = (plant_columns(features, setting(), np.random.default_rng(9)) for _ in range(2))
    np.testing.assert_array_equal(one.meg[0], other.meg[0])
    np.testing.assert_array_equal(one.fmri[-1], other.fmri[-1])


@pytest.mark.parametrize("scenario", ["forward_only", "deep_only", "misaligned", "null_noise"])
def test_voxels_of_many_brains_share_neither_noise_nor_layer(
    features: Features, scenario: str
) -> None:
    voxels = plant_voxels(features, scenario, 40, np.random.default_rng(5), ceiling=0.2)
    assert voxels.shape == (N_STIMULI, 40)
    between = np.corrcoef(voxels.T)[np.triu_indices(40, 1)]
    assert between.std() == pytest.approx(1 / np.sqrt(N_STIMULI), rel=0.25)


def test_a_voxel_tuned_to_gradients_follows_them_by_their_share(features: Features) -> None:
    gradients = np.linalg.qr(np.hstack(list(features.gradient)))[0]

    def explained(share: float) -> float:
        voxels = plant_voxels(
            features, "plausible_backprop", 60, np.random.default_rng(6), share, ceiling=0.999
        )
        return float(((gradients.T @ voxels) ** 2).sum() / (voxels**2).sum())

    by_chance = gradients.shape[1] / N_STIMULI
    assert explained(0.4) - explained(0.02) == pytest.approx(0.38 * (1 - by_chance), abs=0.04)
