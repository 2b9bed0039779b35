"""Teacher views of a stimulus: seeded crops, flips and changes of colour of the decoded image.

A view depends on the seed, the image's content and the view's number alone.
"""

import math

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from gradenc_core.keyed import keyed_generator
from gradenc_core.models.model import VisionModel

N_VIEWS = 8
AREA = (0.32, 1.0)
"""Share of the image's area that a crop covers, drawn evenly (DINOv2's global crops)."""
RATIO = (3 / 4, 4 / 3)
"""Width over height of a crop, drawn evenly in the logarithm."""
P_FLIP, P_JITTER = 0.5, 0.8
JITTER = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.2}
"""Factors are drawn evenly from 1 - x to 1 + x."""
HUE = 0.1
"""Largest shift of hue, in turns of the colour circle."""


def teacher_views(
    model: VisionModel, image: Image.Image, digest: str, seed: int, n_views: int = N_VIEWS
) -> torch.Tensor:
    """Return views of a decoded image as the network's inputs, (n_views, 3, size, size) float32.

    Each is a random crop resized to the network's input (bicubic, antialiased), flipped from left
    to right with probability .5 and, with probability .8, changed in brightness, contrast,
    saturation and hue in random order. View v is determined by (seed, digest, v) alone, so neither
    the shard nor the number of views matters. Crops, flips and jitter: Caron et al. (2021, arXiv
    2104.14294), Oquab et al. (2023, arXiv 2304.07193), without grey-scale, blur and solarisation.

    Parameters
    ----------
    image : PIL.Image.Image
        The stimulus as decoded, before the model's preprocessing.
    digest : str
        SHA-256 of the stimulus's content.
    """
    rgb = image.convert("RGB")
    return torch.stack(
        [_view(model, rgb, keyed_generator("view", seed, digest, v)) for v in range(n_views)]
    )


def _view(model: VisionModel, image: Image.Image, rng: np.random.Generator) -> torch.Tensor:
    top, left, height, width = _crop(image.height, image.width, rng)
    size = [model.image_size, model.image_size]
    view = transforms.resized_crop(
        image, top, left, height, width, size, InterpolationMode.BICUBIC, antialias=True
    )
    if rng.random() < P_FLIP:
        view = transforms.horizontal_flip(view)
    if rng.random() < P_JITTER:
        view = _jitter(view, rng)
    scaled = transforms.to_dtype(transforms.to_image(view), torch.float32, scale=True)
    return transforms.normalize(scaled, list(model.mean), list(model.std))


def _crop(height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Draw a crop (top, left, height, width) in pixels, cut to the image where it is larger."""
    area = height * width * rng.uniform(*AREA)
    ratio = math.exp(rng.uniform(math.log(RATIO[0]), math.log(RATIO[1])))
    rows = min(max(round(math.sqrt(area / ratio)), 1), height)
    columns = min(max(round(math.sqrt(area * ratio)), 1), width)
    top, left = rng.integers(height - rows + 1), rng.integers(width - columns + 1)
    return int(top), int(left), rows, columns


def _jitter(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    changes = [
        (getattr(transforms, f"adjust_{name}"), rng.uniform(1 - most, 1 + most))
        for name, most in JITTER.items()
    ]
    changes.append((transforms.adjust_hue, rng.uniform(-HUE, HUE)))
    for index in rng.permutation(len(changes)):
        adjust, amount = changes[index]
        image = adjust(image, amount)
    return image
