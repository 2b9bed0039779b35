from pathlib import Path

import numpy as np
import pytest

from gradenc_core.stimuli.generated import N_DISCS, RADII, _nearest_disc, dead_leaves, write_images
from gradenc_core.stimuli.images import read_image, read_manifest


def test_images_are_determined_by_seed_and_number(tmp_path: Path) -> None:
    names = write_images(tmp_path / "a", 6, 32, seed=1)
    assert write_images(tmp_path / "b", 4, 32, seed=1) == names[:4]
    write_images(tmp_path / "c", 4, 32, seed=2)
    for name in names[:4]:
        first = (tmp_path / "a" / name).read_bytes()
        assert first == (tmp_path / "b" / name).read_bytes()
        assert first != (tmp_path / "c" / name).read_bytes()
    assert read_manifest(tmp_path / "a").ids == tuple(names)
    assert read_image(tmp_path / "a" / names[0]).size == (32, 32)


def test_every_size_is_filled() -> None:
    for size in (2, 33, 128):
        image = dead_leaves(np.random.default_rng(0), size)
        assert (image.shape, image.dtype) == ((size, size, 3), np.uint8)
    assert image.std() > 20


@pytest.mark.parametrize("size", [1, 7, 64, 100])
def test_each_pixel_shows_the_last_disc_that_covers_it(size: int) -> None:
    rng = np.random.default_rng(size)
    low, high = (bound * size for bound in RADII)
    radius = (low**-2 + rng.uniform(size=N_DISCS) * (high**-2 - low**-2)) ** -0.5
    y, x = rng.uniform(-0.1 * size, 1.1 * size, (2, N_DISCS))
    expected = np.full((size, size), N_DISCS)
    rows, columns = np.indices((size, size))
    for disc in range(N_DISCS):
        inside = (rows - y[disc]) ** 2 + (columns - x[disc]) ** 2 <= radius[disc] ** 2
        expected[inside] = disc
    np.testing.assert_array_equal(_nearest_disc(np.random.default_rng(size), size), expected)


def test_spectrum_falls_as_in_natural_images() -> None:
    """The power spectrum falls about as 1 / f^2 (slopes of -1.5 to -3 in photographs)."""
    size, power = 64, 0.0
    for i in range(40):
        grey = dead_leaves(np.random.default_rng(i), size).mean(axis=2)
        window = np.outer(np.hanning(size), np.hanning(size))
        power = power + np.abs(np.fft.fft2((grey - grey.mean()) * window)) ** 2
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size)[None]) * size
    bins = np.arange(3, 24)
    radial = [power[np.round(frequency) == f].mean() for f in bins]
    slope = np.polyfit(np.log(bins), np.log(radial), 1)[0]
    assert -3 < slope < -1.5
