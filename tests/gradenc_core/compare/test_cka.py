from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradenc_core.compare import cka as similarity
from gradenc_core.compare.cka import linear_cka


def naive(x, y):
    n = len(x)
    h = np.eye(n) - 1 / n
    k, g = h @ x @ x.T @ h, h @ y @ y.T @ h
    return (k * g).sum() / np.sqrt((k * k).sum() * (g * g).sum())


@settings(max_examples=30, deadline=None)
@given(
    st.integers(3, 20),
    st.lists(st.integers(1, 40), min_size=1, max_size=4),
    st.integers(0, 9),
    st.integers(1, 25),
)
def test_equals_the_definition_however_it_is_read(n, widths, seed, chunk):
    rng = np.random.default_rng(seed)
    layers = [rng.standard_normal((n, p)) + 3 for p in widths]
    with mock.patch.object(similarity, "CHUNK", chunk):
        got = linear_cka(layers)
    want = np.array([[naive(x, y) for y in layers] for x in layers])
    np.testing.assert_allclose(got, want, atol=1e-10)


def test_invariant_to_rotation_scale_and_shift():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((30, 6))
    rotation = np.linalg.qr(rng.standard_normal((6, 6)))[0]
    cka = linear_cka([x, x @ rotation * 1e-30 + 1e-30, (x * 1e30 + 1e32).astype(np.float32)])
    np.testing.assert_allclose(cka, 1, atol=1e-5)


def test_a_layer_without_variance_is_nan():
    cka = linear_cka([np.random.default_rng(0).standard_normal((9, 3)), np.full((9, 2), 0.1)])
    assert np.isfinite(cka[0, 0])
    assert np.isnan(cka[[0, 1, 1], [1, 0, 1]]).all()


def test_different_stimuli_are_refused():
    with pytest.raises(ValueError, match=r"layers have \[4, 5\] stimuli"):
        linear_cka([np.ones((4, 2)), np.ones((5, 2))])
