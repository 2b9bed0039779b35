"""Items side by side: in order, of one BLAS thread each, with the same result."""

import threading

import numpy as np
import pytest
from threadpoolctl import ThreadpoolController, threadpool_limits

from gradenc_core.arrays import in_threads
from gradenc_core.ridge.encode import encode


def blas_threads():
    return {lib["num_threads"] for lib in ThreadpoolController().select(user_api="blas").info()}


@pytest.mark.parametrize("n_threads", [1, 2, 3])
def test_items_run_side_by_side_with_one_blas_thread_each(n_threads):
    together = threading.Barrier(n_threads, timeout=30)

    def look(item):
        together.wait()
        return item, blas_threads()

    with threadpool_limits(n_threads, user_api="blas"):
        found = in_threads(look, range(2 * n_threads * 3))
        assert blas_threads() == {n_threads}
    assert found == [(item, {1}) for item in range(2 * n_threads * 3)]


def test_an_error_is_raised_and_threads_are_as_before():
    def fail(item):
        raise ValueError(f"item {item}")

    with threadpool_limits(2, user_api="blas"):
        with pytest.raises(ValueError, match="item 0"):
            in_threads(fail, range(3))
        assert blas_threads() == {2}


def test_scores_do_not_depend_on_threads():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((300, 40))
    y = x @ rng.standard_normal((40, 30)) + 5 * rng.standard_normal((300, 30))
    scores = []
    for n_threads in (1, 3):
        with threadpool_limits(n_threads, user_api="blas"):
            scores.append(encode(x, y, np.arange(300) % 5))
    np.testing.assert_array_equal(scores[0].alpha, scores[1].alpha)
    np.testing.assert_allclose(scores[0].r, scores[1].r, atol=1e-6)
