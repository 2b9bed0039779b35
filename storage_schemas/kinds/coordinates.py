"""Coordinates that several kinds of stores share: each one's schema beside what makes it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage_schemas.kinds.schema import CoordSchema

Layers = Sequence[tuple[str, float]]
"""Module names with their relative depth, in network order."""

Window = tuple[str, float, float]
"""Name, start and stop (s) of a window of MEG."""

Dims = str | tuple[str, ...]
Coord = tuple[Dims, NDArray[Any]] | tuple[Dims, NDArray[Any], Mapping[str, str]]
"""A coordinate as xarray takes it: its dimensions, values and attributes."""

Coords = dict[str, Coord]

LAYER = {
    "layer": CoordSchema(("layer",), "text"),
    "layer_depth": CoordSchema(("layer",), "float"),
}
STIMULUS = {
    "stimulus": CoordSchema(("stimulus",), "text"),
    "stimulus_digest": CoordSchema(("stimulus",), "text"),
}


def window_schema(dim: str, prefix: str = "") -> dict[str, CoordSchema]:
    """Return name and edges of windows along a dimension, which studies without MEG lack."""
    return {
        f"{prefix}window": CoordSchema((dim,), "text", optional=True),
        f"{prefix}window_start": CoordSchema((dim,), "float", "s", optional=True),
        f"{prefix}window_stop": CoordSchema((dim,), "float", "s", optional=True),
    }


def text_coord(dim: str, names: Sequence[str]) -> tuple[str, NDArray[Any]]:
    """Return a coordinate of text along a dimension."""
    return dim, np.array(names, dtype=object)


def layer_coords(layers: Layers) -> Coords:
    """Return the coordinates `LAYER`."""
    return {
        "layer": text_coord("layer", [name for name, _ in layers]),
        "layer_depth": ("layer", np.array([depth for _, depth in layers], dtype="float64")),
    }


def stimulus_coords(stimuli: Sequence[str], digests: Sequence[str]) -> Coords:
    """Return the coordinates `STIMULUS`."""
    return {
        "stimulus": text_coord("stimulus", stimuli),
        "stimulus_digest": text_coord("stimulus", digests),
    }


def window_coords(dim: str, windows: Sequence[Window | None], prefix: str = "") -> Coords:
    """Return name, start and stop (s) of the window of every entry of `dim`; "" and NaN: none."""
    rows = [window or ("", np.nan, np.nan) for window in windows]
    edges: Coords = {
        f"{prefix}window_{edge}": (
            dim,
            np.array([row[place] for row in rows], dtype="float64"),
            {"units": "s"},
        )
        for place, edge in ((1, "start"), (2, "stop"))
    }
    return {f"{prefix}window": text_coord(dim, [name for name, _, _ in rows]), **edges}
