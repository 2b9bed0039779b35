"""Dead leaves: images of occluding discs, whose statistics resemble those of natural images.

After Lee, Mumford and Huang (2001, International Journal of Computer Vision 41).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

N_DISCS = 300
RADII = (0.035, 0.45)
"""Smallest and largest radius in units of the image's side."""


def dead_leaves(rng: np.random.Generator, size: int = 64) -> NDArray[np.uint8]:
    """Draw an image of discs that occlude each other, with power-law radii, colours and textures.

    Parameters
    ----------
    rng : Generator
    size : int
        Side in pixels.

    Returns
    -------
    array of uint8, (size, size, 3)
    """
    leaf = _nearest_disc(rng, size)
    n = N_DISCS + 1  # the last is the background
    colour = _colours(rng, n)
    texture = _pink_noise(rng, size)
    # Every disc shows its own patch of the same texture, at its own contrast.
    shift = rng.integers(size, size=(2, n))
    y, x = np.indices((size, size))
    patch = texture[(y + shift[0][leaf]) % size, (x + shift[1][leaf]) % size]
    shading = (rng.normal(0, 0.15, (n, 2))[leaf] * (np.stack([y, x], -1) / size - 0.5)).sum(-1)
    luminance = patch * rng.uniform(0.0, 0.15, n)[leaf] + shading
    image = colour[leaf] + luminance[..., None]
    return np.round(255 * np.clip(image, 0.0, 1.0)).astype(np.uint8)


def numbered_image(number: int, size: int, seed: int) -> Image.Image:
    """Draw one image of `size` pixels a side, determined by the three numbers alone."""
    return Image.fromarray(dead_leaves(np.random.default_rng([seed, number]), size))


def write_images(folder: Path, n: int, size: int, seed: int) -> list[str]:
    """Write PNG images `image_00000.png`, …; the same seed gives the same files.

    Returns
    -------
    list of str, (n,)
        File names; an image depends on its number and the seed, not on `n`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"image_{i:05d}.png" for i in range(n)]
    for i, name in enumerate(names):
        numbered_image(i, size, seed).save(folder / name, format="PNG")
    return names


def _nearest_disc(rng: np.random.Generator, size: int) -> NDArray[np.int64]:
    """Return which disc each pixel shows, (size, size); `N_DISCS` where none covers it."""
    # Density r^-3, the scale-invariant one, by inversion of its distribution.
    low, high = (bound * size for bound in RADII)
    u = rng.uniform(size=N_DISCS)
    radius = (low**-2 + u * (high**-2 - low**-2)) ** -0.5
    centre = rng.uniform(-0.1 * size, 1.1 * size, (2, N_DISCS))
    start, stop = np.ceil(centre - radius), np.floor(centre + radius) + 1
    spans = np.clip([start, stop], 0, size).astype(np.int64)
    width = (spans[1] - spans[0]).max(axis=0)
    sizes = np.ceil(4 * np.log2(np.maximum(width, 1)))
    nearest = np.full(size * size, -1)
    # Discs of one size are looked at together: one by one, images of 64 pixels take twice as long.
    for alike in (np.flatnonzero(sizes == each) for each in np.unique(sizes)):
        y, x, discs = _covered(alike, spans[..., alike], centre[:, alike], radius[alike])
        np.maximum.at(nearest, y * size + x, discs)  # each falls on top of those before
    return np.where(nearest < 0, N_DISCS, nearest).reshape(size, size)


def _covered(
    discs: NDArray[np.int64],
    spans: NDArray[np.int64],
    centre: NDArray[np.float64],
    radius: NDArray[np.float64],
) -> tuple[NDArray[np.int64], ...]:
    """Return every pixel that a disc of about one size covers, once per disc: y, x, disc."""
    start, stop = spans[..., None]
    at = start + np.arange((stop - start).max())
    squares = np.where(at < stop, (at - centre[..., None]) ** 2, np.inf)
    inside = squares[0][:, :, None] + squares[1][:, None] <= radius[:, None, None] ** 2
    labels = (at[0][:, :, None], at[1][:, None], discs[:, None, None])
    y, x, disc = (np.broadcast_to(label, inside.shape)[inside] for label in labels)
    return y, x, disc


def _colours(rng: np.random.Generator, n: int) -> NDArray[np.float64]:
    """Draw colours, (n, 3), that vary most in luminance and least from red to green."""
    luminance, blue_yellow, red_green = rng.normal(size=(3, n, 1)) * [[[0.22]], [[0.08]], [[0.04]]]
    colours: NDArray[np.float64] = (
        0.45
        + luminance
        + blue_yellow * np.array([0.5, 0.5, -1.0])
        + red_green * np.array([1.0, -1.0, 0.0])
    )
    return colours


def _pink_noise(rng: np.random.Generator, size: int) -> NDArray[np.float64]:
    """Draw periodic noise of amplitude 1/f, (size, size), with mean 0 and variance 1."""
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None])
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.normal(size=(size, size))) / frequency
    noise = np.fft.irfft2(spectrum, s=(size, size))
    return noise / noise.std()
