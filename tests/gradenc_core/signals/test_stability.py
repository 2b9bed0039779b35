import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from gradenc_core.signals.stability import (
    PERTURBATIONS,
    cosines,
    perturbed,
    retest_reliability,
    split_half_reliability,
)


@pytest.fixture
def image():
    rng = np.random.default_rng(0)
    smooth = np.cumsum(rng.integers(0, 3, (40, 50, 3)), axis=1) + 60
    return Image.fromarray(smooth.astype(np.uint8))


def changed(image, name, digest="a", seed=0):
    return np.asarray(perturbed(image, name, digest, seed)).astype(int)


def test_perturbations_are_what_they_are_called(image):
    pixels = np.asarray(image).astype(int)
    shifted = changed(image, "shift")
    np.testing.assert_array_equal(shifted[:, 1:], pixels[:, :-1])
    np.testing.assert_array_equal(shifted[:, 0], pixels[:, 0])
    noise = changed(image, "noise") - pixels
    # rounding to grey levels adds 1/12 to the variance of 1
    assert noise.std() == pytest.approx(np.sqrt(13 / 12), rel=0.03)
    assert abs(noise.mean()) < 0.05
    assert 0 < np.abs(changed(image, "jpeg") - pixels).mean() < 5


def test_perturbations_depend_on_seed_and_content_alone(image):
    for name in PERTURBATIONS:
        np.testing.assert_array_equal(changed(image, name), changed(image, name))
    for digest, seed in (("b", 0), ("a", 1)):
        assert (changed(image, "noise") != changed(image, "noise", digest, seed)).any()


@given(st.integers(0, 99), st.floats(1e-30, 1e30), st.floats(-1, 1))
def test_cosine_is_that_of_the_angle_at_any_scale(seed, scale, cosine):
    rng = np.random.default_rng(seed)
    x, y = np.linalg.qr(rng.standard_normal((6, 2)))[0].T
    turned = cosine * x + np.sqrt(1 - cosine**2) * y
    found = cosines(torch.from_numpy(x * scale)[None], torch.from_numpy(turned)[None])
    assert found[0] == pytest.approx(cosine, abs=1e-12)


def test_cosine_of_nothing_is_nan():
    assert np.isnan(cosines(torch.zeros(1, 3), torch.ones(1, 3))).all()


def test_reliability_is_that_of_the_mean_of_both_halves():
    rng = np.random.default_rng(0)
    signal = rng.standard_normal((200, 300))
    first, second = (torch.from_numpy(signal + rng.standard_normal(signal.shape)) for _ in range(2))
    assert retest_reliability(first, second) == pytest.approx(1 / 2, abs=0.01)
    # r = 1/2 between halves; the mean of both has two parts of signal to one of noise
    assert split_half_reliability(first, second) == pytest.approx(2 / 3, abs=0.01)
    assert split_half_reliability(first, first) == pytest.approx(1)
    assert np.isnan(split_half_reliability(torch.ones(4, 3), first[:4, :3]))
