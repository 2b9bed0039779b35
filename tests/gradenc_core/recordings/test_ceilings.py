import numpy as np
import pytest

from gradenc_core.recordings.ceilings import RepeatMoments, ncsnr


def trials(snr, n_stimuli=400, n_repeats=3, n_targets=50, seed=0):
    rng = np.random.default_rng(seed)
    signal = rng.standard_normal((n_stimuli, 1, n_targets)) * snr
    values = signal + rng.standard_normal((n_stimuli, n_repeats, n_targets))
    values = (values - values.mean(axis=(0, 1))) / values.std(axis=(0, 1))
    return np.repeat(np.arange(n_stimuli), n_repeats), values.reshape(-1, n_targets)


def test_ncsnr_recovers_the_planted_ratio():
    for snr in (0.3, 1.0):
        stimulus, values = trials(snr)
        moments = RepeatMoments.empty(400, (50,))
        moments.add(stimulus, values)
        assert moments.ncsnr().mean() == pytest.approx(snr, rel=0.05)


def test_ncsnr_is_the_formula_on_unit_variance_data():
    stimulus, values = trials(1.0, n_stimuli=30)
    moments = RepeatMoments.empty(30, (50,))
    moments.add(stimulus, values)
    by_stimulus = values.reshape(30, 3, 50)
    v = np.sqrt(by_stimulus.var(axis=1, ddof=1).mean(axis=0))
    np.testing.assert_allclose(moments.ncsnr(), np.sqrt(np.maximum(0, 1 - v**2)) / v, rtol=1e-10)


def test_streaming_in_any_order_and_chunks_is_the_same():
    stimulus, values = trials(1.0, n_stimuli=30)
    whole, chunks = RepeatMoments.empty(30, (50,)), RepeatMoments.empty(30, (50,))
    whole.add(stimulus, values)
    for rows in np.array_split(np.random.default_rng(0).permutation(90), 7):
        chunks.add(stimulus[rows], values[rows])
    np.testing.assert_allclose(chunks.ncsnr(), whole.ncsnr(), rtol=1e-10)
    np.testing.assert_allclose(whole.mean(), values.reshape(30, 3, 50).mean(axis=1))


def test_single_trials_count_in_the_total_but_not_in_the_noise():
    sums, squares = np.array([[2.0], [-3.0]]), np.array([[4.0], [9.0]])
    counts = np.array([2, 1])  # trials (0, 2) or (1, 1): squares say 0 and 2; then -3
    assert ncsnr(sums, squares, counts)[0] == pytest.approx(np.sqrt((13 / 3 - 1 / 9 - 2) / 2))
    assert np.isnan(ncsnr(sums, squares, np.array([1, 1]))).all()


def test_edges_of_the_ratio():
    stimulus = np.repeat(np.arange(5), 2)
    moments = RepeatMoments.empty(6, (3,))
    values = np.zeros((10, 3))
    values[:, 1] = stimulus  # repeats agree exactly
    values[:, 2] = np.tile([1.0, -1.0], 5)  # all noise
    moments.add(stimulus, values)
    nothing, perfect, noise = moments.ncsnr()
    assert np.isnan(nothing)
    assert perfect == np.inf
    assert noise == 0
    assert np.isnan(moments.mean()[5]).all()


def test_errors_name_the_remedy():
    with pytest.raises(ValueError, match="one count per stimulus"):
        ncsnr(np.zeros((3, 2)), np.zeros((3, 2)), np.ones(2, int))
