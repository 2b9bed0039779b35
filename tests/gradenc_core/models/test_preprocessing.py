"""From an image to a network's input: sizes follow each other, colours keep their place."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gradenc_core.models.preprocessing import Preprocessing

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def steps(size: int, resize: int, squash: bool) -> Preprocessing:
    return Preprocessing(size, resize, squash, "bilinear", *IMAGENET)


@given(st.integers(1, 600), st.booleans(), st.integers(8, 512))
def test_another_size_keeps_the_share_of_the_image_that_is_cropped(
    size: int, squash: bool, wanted: int
) -> None:
    native = steps(224, 256, squash)
    scaled = native.resized(size)
    assert scaled.image_size == size
    assert abs(scaled.resize_size / size - 256 / 224) <= 0.5 / size + 1e-12
    assert (scaled.mean, scaled.std, scaled.squash) == (native.mean, native.std, squash)
    assert native.resized(None) is native
    assert native.resized(224) is native
    assert native.resized(7 * wanted).resize_size == 8 * wanted


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.booleans(), st.integers(0, 255))
def test_a_uniform_image_of_any_shape_becomes_its_normalised_colour(
    width: int, height: int, squash: bool, red: int
) -> None:
    image = Image.new("RGB", (width, height), (red, 128, 0))
    found = steps(16, 18, squash).apply(image)
    assert (found.shape, found.dtype) == ((3, 16, 16), torch.float32)
    for channel, value, mean, std in zip(found, (red, 128, 0), *IMAGENET, strict=True):
        np.testing.assert_allclose(channel, (value / 255 - mean) / std, rtol=1e-5, atol=1e-6)


def test_squash_keeps_the_edges_that_a_crop_loses() -> None:
    pixels = np.zeros((32, 128, 3), np.uint8)
    pixels[:, :16] = 255  # a white stripe at the left edge
    image = Image.fromarray(pixels)
    squashed, cropped = (steps(32, 32, squash).apply(image) for squash in (True, False))
    assert float(squashed[0, :, 0].min()) > float(squashed[0, :, -1].max())
    assert float(cropped.std(dim=(1, 2)).max()) == 0
