import numpy as np
import pytest

from gradenc_core.recordings.ceilings import ncsnr, ncsnr_of_repetitions, recipe_of


def trials(snr, n_stimuli=400, n_repeats=3, n_targets=50, seed=0):
    rng = np.random.default_rng(seed)
    signal = rng.standard_normal((n_stimuli, 1, n_targets)) * snr
    values = signal + rng.standard_normal((n_stimuli, n_repeats, n_targets))
    return (values - values.mean(axis=(0, 1))) / values.std(axis=(0, 1))


def ratio(values):
    """Ncsnr of trials (n_stimuli, n_repeats, n_targets)."""
    counts = np.full(len(values), values.shape[1])
    return ncsnr(values.sum(axis=1), (values**2).sum(axis=1), counts)


def test_ncsnr_recovers_the_planted_ratio():
    for snr in (0.3, 1.0):
        assert ratio(trials(snr)).mean() == pytest.approx(snr, rel=0.05)


def test_ncsnr_is_the_formula_on_unit_variance_data():
    values = trials(1.0, n_stimuli=30)
    v = np.sqrt(values.var(axis=1, ddof=1).mean(axis=0))
    np.testing.assert_allclose(ratio(values), np.sqrt(np.maximum(0, 1 - v**2)) / v, rtol=1e-10)


def test_single_trials_count_in_the_total_but_not_in_the_noise():
    sums, squares = np.array([[2.0], [-3.0]]), np.array([[4.0], [9.0]])
    counts = np.array([2, 1])  # trials (0, 2) or (1, 1): squares say 0 and 2; then -3
    assert ncsnr(sums, squares, counts)[0] == pytest.approx(np.sqrt((13 / 3 - 1 / 9 - 2) / 2))
    assert np.isnan(ncsnr(sums, squares, np.array([1, 1]))).all()


def test_edges_of_the_ratio():
    values = np.zeros((5, 2, 3))
    values[:, :, 1] = np.arange(5)[:, None]  # repeats agree exactly
    values[:, :, 2] = [1.0, -1.0]  # all noise
    nothing, perfect, noise = ratio(values)
    assert np.isnan(nothing)
    assert perfect == np.inf
    assert noise == 0


def test_ncsnr_over_images_with_just_so_many_trials():
    """As NSD takes the noise from images with exactly three trials."""
    values = trials(1.0, n_stimuli=90)
    counts = np.repeat([1, 2, 3], 30)
    used = values * (np.arange(3) < counts[:, None])[:, :, None]
    sums, squares = used.sum(axis=1), (used**2).sum(axis=1)
    found = ncsnr(sums, squares, counts, exactly=3)
    noise = values[60:].var(axis=1, ddof=1).mean(axis=0)
    shown = np.concatenate([values[i, :n] for i, n in enumerate(counts)])
    expected = np.sqrt(np.maximum(shown.var(axis=0) - noise, 0) / noise)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert not np.allclose(found, ncsnr(sums, squares, counts))


def test_ncsnr_of_repetitions_is_the_formula_of_their_owners():
    """As THINGS does: z-score over images in each repetition, then NSD's formula."""
    values = trials(0.8, n_stimuli=200, n_repeats=12)
    scored = (values - values.mean(axis=0)) / values.std(axis=0)
    v = np.sqrt(scored.var(axis=1, ddof=1).mean(axis=0))
    expected = np.sqrt(np.maximum(0, 1 - v**2)) / v
    np.testing.assert_allclose(ncsnr_of_repetitions(values), expected, rtol=1e-6)


@pytest.mark.filterwarnings("error")
def test_edges_of_repetitions():
    values = np.random.default_rng(0).normal(size=(5, 2, 5))
    values[:, :, 1] = np.arange(5)[:, None]  # repeats agree exactly
    values[:, 1, 2] = -values[:, 0, 2]  # nothing in common
    values[:, 1, 3] = 0.5  # a repetition that does not vary
    values[:, 1, 4] = np.nan  # a repetition without data
    found = ncsnr_of_repetitions(values)
    assert np.isfinite(found[0])
    assert found[1] > 1e7
    assert found[2] == 0
    assert np.isnan(found[3:]).all()


def test_recipes_for_images_that_were_not_shown_are_refused():
    assert recipe_of(None, np.array([1, 2])) is None
    fields = {"images": 3, "pool": "session"}
    assert recipe_of(fields, np.array([1, 3])).images == 3
    with pytest.raises(ValueError, match=r"ceiling\.images is 3, .*images have 1, 2"):
        recipe_of(fields, np.array([1.0, 2.0, 1.0]))


def test_errors_name_the_remedy():
    with pytest.raises(ValueError, match="one count per stimulus"):
        ncsnr(np.zeros((3, 2)), np.zeros((3, 2)), np.ones(2, int))
