"""Sizes of banks, batches and features.

Planning and specifications read them, so this module imports nothing slow.
"""

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
Scale = Literal["unit", "raw", "norm_only"]


def scaled_width(width: int, source: str, scale: Scale) -> int:
    """Return how many features a layer of `width` features has with its gradient's norm."""
    if source == "forward" or scale == "raw":
        return width
    return width + 1 if scale == "unit" else 1
