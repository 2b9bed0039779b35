"""How much a signal changes under invisible image changes, and how reliable it is over seeds.

The changes are a shift by one pixel, noise of one grey level and recompression as JPEG. A signal
that they change much says little of the image that a person saw.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gradenc_core.keyed import keyed_generator

if TYPE_CHECKING:
    import torch

JPEG_QUALITY = 90


def shifted(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Return the image one pixel to the right, its first column repeated."""
    pixels = np.asarray(image)
    return Image.fromarray(np.concatenate([pixels[:, :1], pixels[:, :-1]], axis=1))


def noisy(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Return the image with Gaussian noise of sd 1/255 (a grey level), rounded to grey levels."""
    pixels = np.asarray(image)
    changed = np.rint(pixels + rng.standard_normal(pixels.shape)).clip(0, 255)
    return Image.fromarray(changed.astype(np.uint8))


def recompressed(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Return the image after JPEG compression of quality 90."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return Image.open(buffer).convert("RGB")


PERTURBATIONS: dict[str, Callable[[Image.Image, np.random.Generator], Image.Image]] = {
    "shift": shifted,
    "noise": noisy,
    "jpeg": recompressed,
}
"""Changes of the decoded RGB image of 8 bits, before the model's preprocessing."""


def perturbed(image: Image.Image, name: str, digest: str, seed: int) -> Image.Image:
    """Return a perturbation of an image, determined by (seed, digest of the image, name) alone."""
    return PERTURBATIONS[name](image.convert("RGB"), keyed_generator(name, seed, digest))


def cosines(first: torch.Tensor, second: torch.Tensor) -> NDArray[np.float64]:
    """Return the cosine of each row with its counterpart, (n_stimuli,); NaN for a row of zeros."""
    x, y = _unit(first), _unit(second)
    return (x * y).sum(dim=1).numpy()


def retest_reliability(first: torch.Tensor, second: torch.Tensor) -> float:
    """Return the reliability of a signal from two draws of it, (n_stimuli, n_features) each.

    The correlation of all entries, after rows are brought to norm 1 and columns centred. NaN where
    a draw is zero or constant.
    """
    draws = [_unit(draw) for draw in (first, second)]
    x, y = (draw - draw.mean(dim=0) for draw in draws)
    return float((x * y).sum() / (x.norm() * y.norm()))


def split_half_reliability(first: torch.Tensor, second: torch.Tensor) -> float:
    """Return the reliability of the whole from its two halves, (n_stimuli, n_features) each.

    The halves' `retest_reliability` r as 2r / (1 + r) (Spearman, 1910; Brown, 1910).
    """
    r = retest_reliability(first, second)
    return 2 * r / (1 + r)


def relative_difference(found: torch.Tensor, true: torch.Tensor) -> float:
    """Return the mean over rows of the difference's norm over the true row's norm."""
    x, y = found.double().cpu(), true.double().cpu()
    return float(((x - y).norm(dim=1) / y.norm(dim=1)).mean())


def _unit(rows: torch.Tensor) -> torch.Tensor:
    """Return rows of norm 1 in float64, in which no square underflows."""
    values = rows.double().cpu()
    return values / values.norm(dim=1, keepdim=True)
