"""From an image to a network's input.

Specifications hold a `Preprocessing`, and commands that compute nothing read specifications, so
torch is imported only where an image is transformed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from PIL import Image


@dataclass(frozen=True)
class Preprocessing:
    """From an image to the network's input: resize, centre crop, scale to [0, 1], normalise.

    Attributes
    ----------
    image_size, resize_size : int
        Side of the crop, and of the resized image (its shorter side, or both for `squash`), pixels.
    squash : bool
        Whether the resize ignores the aspect ratio.
    interpolation : str
        Name of a torchvision `InterpolationMode`.
    mean, std : tuple of float
        Per channel, of values in [0, 1].
    """

    image_size: int
    resize_size: int
    squash: bool
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def resized(self, image_size: int | None) -> Preprocessing:
        """Return the same steps for another crop size, the resize scaled in proportion."""
        if image_size is None or image_size == self.image_size:
            return self
        resize_size = round(self.resize_size * image_size / self.image_size)
        return replace(self, image_size=image_size, resize_size=resize_size)

    def apply(self, image: Image.Image) -> torch.Tensor:
        """Return the network's input for an image, (3, image_size, image_size) float32."""
        from torchvision.transforms import InterpolationMode
        from torchvision.transforms import functional as transforms

        size = [self.resize_size, self.resize_size] if self.squash else [self.resize_size]
        resized = transforms.resize(
            image.convert("RGB"), size, InterpolationMode(self.interpolation)
        )
        cropped = transforms.center_crop(resized, [self.image_size, self.image_size])
        return transforms.normalize(transforms.to_tensor(cropped), self.mean, self.std)
