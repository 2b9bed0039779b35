"""Sizes of banks, batches and features.

Planning and specifications read them, so this module imports nothing slow.
"""

from dataclasses import dataclass
from typing import Literal

MICRO_BATCH = 32
"""Stimuli per pass, unless a profile or a caller says otherwise."""
N_ITEMS = 1024
"""Images of the default reference bank, which the shipped generator draws."""
BANK_IMAGE_SIZE = 128
"""Side of the default bank's images (pixels)."""
BANK_SEED = 20260528
"""Seed of the default bank's images."""
UNRECORDED_SEED = 20260914
"""Seed of generated images without recordings: no image of a bank or of the demo is among them."""
N_PROTOTYPES = 256
"""Prototypes of a reference bank."""
N_RANDOM_DRAWS = 10
"""Linear functionals that the objective `random` offers."""
N_SCALE_IMAGES = 128
"""First images of a bank, over which the standard deviation of every channel is taken."""
N_SPATIAL = 4
"""Seeded spatial patterns onto which every channel is projected in the baseline."""
BASELINE = "baseline"
"""Source of all that a forward pass makes, by which gradients are judged."""
READOUT = "readout"
"""What the baseline calls its last entry, which is read off the network's outputs."""
Scale = Literal["unit", "raw", "norm_only"]


@dataclass(frozen=True)
class Parts:
    """Columns of one layer of the baseline.

    Attributes
    ----------
    wide : tuple of int
        Widths of its parts; those wider than the study's `baseline_width` are projected.
    n_scalars : int
        Single values, which are kept as they are.
    """

    wide: tuple[int, ...]
    n_scalars: int

    def width(self, most: int | None = None) -> int:
        """Return the number of columns where no part is wider than `most`."""
        return sum(min(n, most or n) for n in self.wide) + self.n_scalars


def readout_parts(n_classes: int, n_prototypes: int, n_head: int, n_losses: int) -> Parts:
    """Return the columns that are read off a network's outputs.

    Logits and their softmax, softmax over prototypes and over a head's logits, as far as there are
    any; the losses, the confidence of a classifier and the image's contrast.
    """
    wide = (n_classes, n_classes, n_prototypes, n_head)
    return Parts(tuple(n for n in wide if n), n_losses + bool(n_classes) + 1)


def scaled_width(width: int, source: str, scale: Scale) -> int:
    """Return how many features a layer of `width` features has with its gradient's norm."""
    if source == "forward" or scale == "raw":
        return width
    return width + 1 if scale == "unit" else 1
