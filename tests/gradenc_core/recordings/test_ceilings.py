import numpy as np
import pytest

from gradenc_core.recordings.ceilings import ncsnr


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


def test_errors_name_the_remedy():
    with pytest.raises(ValueError, match="one count per stimulus"):
        ncsnr(np.zeros((3, 2)), np.zeros((3, 2)), np.ones(2, int))
