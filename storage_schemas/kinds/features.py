"""Features: the pooled signals of all layers for every stimulus, projected or as they are; scales.

With a projection all layers have one width and share one array; without it every layer has an
array of its own, as wide as the layer. Scales are what channels are divided by before that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from storage_schemas.kinds.coordinates import (
    LAYER,
    STIMULUS,
    Layers,
    layer_coords,
    stimulus_coords,
)
from storage_schemas.kinds.layouts import array_layout, layout_of, one_unit
from storage_schemas.kinds.schema import ArraySchema, Kind, Schema
from storage_schemas.layout import ArrayLayout, Layout, Unit

if TYPE_CHECKING:
    import xarray as xr

MOST_LAYERS = 1000
"""Layers that a store without projection can have."""

STIMULI_PER_CHUNK = 512

IMAGES = "images"
"""Attribute of features of images that no subject was shown; its value names the set."""


def layer_array(index: int) -> str:
    """Return the name of a layer's array of unprojected features."""
    return f"features_{index:03d}"


def _schema(arrays: Mapping[str, ArraySchema]) -> Schema:
    return Schema(arrays, {**LAYER, **STIMULUS}, ("model", "source"))


_PROJECTED = _schema(
    {
        "features": ArraySchema(
            ("layer", "stimulus", "feature"), "float32", "pooled and projected signal"
        )
    }
)
_UNPROJECTED = _schema(
    {
        layer_array(index): ArraySchema(
            ("stimulus", f"feature_{index:03d}"),
            "float32",
            "pooled signal of a layer",
            optional=True,
        )
        for index in range(MOST_LAYERS)
    }
)
FEATURES = Kind("features", 1, {1: (_PROJECTED, _UNPROJECTED)}, None, unit_dim="stimulus")


def scale_array(index: int) -> str:
    """Return the name of the scales of a layer's channels."""
    return f"scale_{index:03d}"


_SCALES = Schema(
    {
        scale_array(index): ArraySchema(
            (f"feature_{index:03d}",),
            "float32",
            "standard deviation of a layer's channels over the bank",
            optional=True,
        )
        for index in range(MOST_LAYERS)
    },
    LAYER,
    ("model", "source"),
)
SCALES = Kind("scales", 1, {1: (_SCALES,)}, None)


def scales_layout(layers: Layers, widths: Sequence[int]) -> Layout:
    """Return the scale of every channel of every layer, (width of the layer,) float32 each."""
    arrays = [
        array_layout(_SCALES, scale_array(index), (width,)) for index, width in enumerate(widths)
    ]
    return one_unit(arrays, layer_coords(layers))


def features_layout(
    layers: Layers,
    stimuli: Sequence[str],
    digests: Sequence[str],
    n_features: int | Sequence[int],
    stimuli_per_shard: int,
) -> Layout:
    """Return features(layer, stimulus, feature); a unit is one shard of stimuli, all layers.

    Where `n_features` is a sequence, one number per layer, every layer has an array of its own,
    `layer_array(index)` (stimulus, feature_<index>).
    """
    n, rows = len(stimuli), _divisor(stimuli_per_shard, STIMULI_PER_CHUNK)
    if isinstance(n_features, int):
        arrays = [_projected(len(layers), n, n_features, stimuli_per_shard, rows)]
    else:
        arrays = [
            array_layout(
                _UNPROJECTED,
                layer_array(index),
                (n, width),
                chunks=(rows, width),
                shards=(stimuli_per_shard, width),
                compressed=False,
            )
            for index, width in enumerate(n_features)
        ]
    units = []
    for index, start in enumerate(range(0, n, stimuli_per_shard)):
        stop = min(start + stimuli_per_shard, n)
        regions = {array.name: _rows(array, start, stop) for array in arrays}
        key = {"start": start, "stop": stop}
        units.append(Unit(index, f"stimuli {start}-{stop}", key, regions))
    return layout_of(arrays, layer_coords(layers) | stimulus_coords(stimuli, digests), units)


def layer_features(data: xr.Dataset, layer: int) -> xr.DataArray:
    """Return one layer's features, (stimulus, feature), from a dataset of this kind."""
    if "features" in data:
        return data["features"].isel(layer=layer)
    return data[layer_array(layer)]


def _projected(n_layers: int, n: int, width: int, per_shard: int, rows: int) -> ArrayLayout:
    return array_layout(
        _PROJECTED,
        "features",
        (n_layers, n, width),
        chunks=(1, rows, width),
        shards=(n_layers, per_shard, width),
        compressed=False,
    )


def _rows(array: ArrayLayout, start: int, stop: int) -> list[tuple[int, int]]:
    return [
        (start, stop) if dim == "stimulus" else (0, size)
        for dim, size in zip(array.dims, array.shape, strict=True)
    ]


def _divisor(n: int, most: int) -> int:
    """Return the largest divisor of `n` that is at most `most`: chunks must fill a shard."""
    return next(size for size in range(min(n, most), 0, -1) if n % size == 0)
