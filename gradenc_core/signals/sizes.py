"""Sizes that planning asks for; imports nothing slow."""

from typing import Literal

N_ITEMS = 1024
"""Images of the default bank."""
N_PROTOTYPES = 256
Scale = Literal["unit", "raw", "norm_only"]


def scaled_width(width: int, source: str, scale: Scale) -> int:
    """Return how many features a layer of `width` features has with its gradient's norm."""
    if source == "forward" or scale == "raw":
        return width
    return width + 1 if scale == "unit" else 1
