"""Windows of MEG: means of their samples, whatever the sampling and the edges."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradenc_core.recordings.windows import samples_in, window_means


@st.composite
def recordings(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, list[tuple[float, float]]]:
    """Return responses, times on a grid, and windows whose edges are on half steps of it."""
    n_times = draw(st.integers(1, 12))
    step, first = draw(st.sampled_from([0.005, 0.05, 0.1])), draw(st.integers(-3, 3))
    edges = draw(
        st.lists(st.tuples(st.integers(0, 2 * n_times - 1), st.integers(1, 9)), min_size=1)
    )
    responses = np.random.default_rng(draw(st.integers(0, 99))).standard_normal((3, 2, n_times))
    times = (first + np.arange(n_times)) * step
    windows = [((first + (a - 0.5) / 2) * step, (first + (a + n) / 2) * step) for a, n in edges]
    held = [w for w in windows if any(w[0] <= t < w[1] for t in times)]
    return responses, times, held


@given(recordings())
def test_a_window_mean_is_the_mean_of_its_samples(recording) -> None:
    responses, times, windows = recording
    if not windows:
        return
    means = window_means(responses, times, windows)
    assert means.shape == (3, 2, len(windows))
    for w, (start, stop) in enumerate(windows):
        inside = [i for i, t in enumerate(times) if start - 1e-9 <= t < stop - 1e-9]
        expected = sum(responses[..., i] for i in inside) / len(inside)
        np.testing.assert_allclose(means[..., w], expected, atol=1e-12)


@given(st.integers(1, 10), st.integers(1, 30), st.sampled_from([0.001, 0.005, 0.0075, 0.1]))
def test_windows_side_by_side_hold_every_sample_once(width: int, n: int, step: float) -> None:
    times = np.cumsum(np.full(n * width, step)) - step  # with the rounding of sums
    windows = [(i * width * step, (i + 1) * width * step) for i in range(n)]
    held = np.array([samples_in(times, start, stop) for start, stop in windows])
    np.testing.assert_array_equal(held.sum(axis=1), width)
    np.testing.assert_array_equal(held.sum(axis=0), 1)


def test_a_missing_sample_is_missing_in_its_windows_alone() -> None:
    responses = np.ones((2, 1, 4))
    responses[0, 0, 1] = np.nan
    means = window_means(responses, np.arange(4) / 10, [(0.0, 0.2), (0.2, 0.4)])
    np.testing.assert_array_equal(np.isnan(means[:, 0]), [[True, False], [False, False]])


def test_what_has_no_mean_is_refused() -> None:
    times = np.array([0.0, 0.1])
    with pytest.raises(
        ValueError, match=r"window 0.02 to 0.08 s holds no sample of times from 0 to"
    ):
        window_means(np.zeros((1, 1, 2)), times, [(0.02, 0.08)])
    with pytest.raises(ValueError, match=r"shape \(1, 1, 3\) but there are 2 times"):
        window_means(np.zeros((1, 1, 3)), times, [(0.0, 0.1)])
