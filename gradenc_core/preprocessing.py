"""From an image to a network's input."""

from dataclasses import asdict, dataclass


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

    def resized(self, image_size: int | None) -> "Preprocessing":
        """Return the same steps for another crop size, the resize scaled in proportion."""
        if image_size is None or image_size == self.image_size:
            return self
        resize_size = round(self.resize_size * image_size / self.image_size)
        return Preprocessing(
            **{**asdict(self), "image_size": image_size, "resize_size": resize_size}
        )
