"""Layouts of stores from the schemas of their kinds and from sizes."""

from collections.abc import Mapping, Sequence
from typing import Any

from storage_schemas.kinds.schema import Schema
from storage_schemas.layout import ArrayLayout, Layout, Unit


def layout_of(
    arrays: Sequence[ArrayLayout],
    coords: Mapping[str, Any],
    units: Sequence[Unit],
    attrs: Mapping[Any, Any] | None = None,
) -> Layout:
    """Return the layout of arrays, coordinates (as xarray takes them) and units."""
    import xarray as xr  # slow to import, and most of what knows a kind lays out no store

    return Layout(tuple(arrays), xr.Dataset(coords=coords, attrs=attrs), tuple(units))


def array_layout(
    schema: Schema,
    name: str,
    shape: tuple[int, ...],
    chunks: tuple[int, ...] | None = None,
    shards: tuple[int, ...] | None = None,
    compressed: bool = True,
) -> ArrayLayout:
    """Return a schema's array in this shape; without `chunks` it is one chunk, hence one file."""
    array = schema.arrays[name]
    return ArrayLayout(
        name=name,
        dims=array.dims,
        shape=shape,
        dtype=array.dtype,
        chunks=chunks or shape,
        shards=shards,
        units=array.units,
        long_name=array.long_name,
        attrs=array.attrs,
        compressed=compressed,
    )


def whole_arrays(schema: Schema, sizes: Mapping[str, int]) -> list[ArrayLayout]:
    """Return every array of a schema, one file each."""
    return [
        array_layout(schema, name, tuple(sizes[dim] for dim in array.dims))
        for name, array in schema.arrays.items()
    ]


def one_unit(
    arrays: Sequence[ArrayLayout],
    coords: Mapping[str, Any],
    attrs: Mapping[Any, Any] | None = None,
    key: dict[str, int] | None = None,
) -> Layout:
    """Return a layout whose single unit owns every array whole."""
    regions = {array.name: [(0, size) for size in array.shape] for array in arrays}
    return layout_of(arrays, coords, [Unit(0, "all", key or {}, regions)], attrs)
