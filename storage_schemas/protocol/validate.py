"""Whether a store's Zarr group is what its plan and its kind's schema say, from metadata alone."""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from storage_schemas import files
from storage_schemas.errors import DamagedStore
from storage_schemas.kinds.registry import KINDS
from storage_schemas.kinds.schema import ArraySchema, CoordSchema, Schema
from storage_schemas.layout import ArrayLayout

TYPES = {"text": ("string",), "integer": ("int64", "int32"), "float": ("float64", "float32")}
"""Type of coordinate -> what Zarr calls it."""

Metadata = Mapping[str, Any]


def check_data(data: Path, kind: str, version: int, layouts: Sequence[ArrayLayout]) -> None:
    """Refuse a Zarr group that differs from its plan or from every form of its schema.

    Parameters
    ----------
    data : Path
        The Zarr group.
    kind, version : str, int
        Key of `KINDS`, and of the kind's `schemas`.
    layouts : sequence of ArrayLayout
        The arrays that were planned.

    Raises
    ------
    DamagedStore
        Naming the group and the first difference.
    """
    path = data / "zarr.json"
    try:
        stat = path.stat()
    except FileNotFoundError:
        raise DamagedStore(f"{data} has no zarr.json") from None
    complaint = _first_complaint(
        path, (stat.st_ino, stat.st_mtime_ns), kind, version, tuple(map(_planned, layouts))
    )
    if complaint:
        raise DamagedStore(f"{data}: {complaint}; its metadata were changed or lost")


Planned = tuple[str, tuple[str, ...], tuple[int, ...], str, tuple[int, ...]]
"""Name, dims, shape, dtype and elements per file."""


def _planned(layout: ArrayLayout) -> Planned:
    return layout.name, layout.dims, layout.shape, layout.dtype, layout.file_shape


@lru_cache(maxsize=256)
def _first_complaint(
    path: Path, _stamp: tuple[int, int], kind: str, version: int, planned: tuple[Planned, ...]
) -> str | None:
    """Check each version of a group's metadata once per process."""
    group = files.read_json(path) or {}
    members = (group.get("consolidated_metadata") or {}).get("metadata")
    if not isinstance(members, dict):
        return "zarr.json is damaged or lists no arrays"
    for entry in planned:
        if complaint := _differs_from_plan(members.get(entry[0]), entry):
            return complaint
    attributes = group.get("attributes", {})
    # Where a kind has several forms, the complaint about the nearest one helps most.
    forms = KINDS[kind].schemas[version]
    found = [list(_differs_from(form, members, attributes)) for form in forms]
    nearest = min(found, key=len)
    return nearest[0] if nearest else None


def _differs_from_plan(member: Metadata | None, planned: Planned) -> str | None:
    name, dims, shape, dtype, file_shape = planned
    if member is None:
        return f"array {name} is missing"
    found = (
        name,
        tuple(member["dimension_names"]),
        tuple(member["shape"]),
        member["data_type"],
        tuple(member["chunk_grid"]["configuration"]["chunk_shape"]),
    )
    if found == (name, dims, shape, dtype, file_shape):
        return None
    return f"array {name} is {found[1:]}, its plan says {planned[1:]}"


def _differs_from(schema: Schema, members: Metadata, attributes: Metadata) -> Iterator[str]:
    for name in members:
        if name not in schema.arrays and name not in schema.coords:
            yield f"array {name} is not in the schema"
    for name, array in schema.arrays.items():
        yield from _array_problems(name, array, members.get(name))
    for name, coord in schema.coords.items():
        yield from _coord_problems(name, coord, members.get(name))
    for name in schema.attrs:
        if name not in attributes:
            yield f"attribute {name} is missing"


def _array_problems(name: str, array: ArraySchema, member: Metadata | None) -> Iterator[str]:
    if member is None:
        if not array.optional:
            yield f"array {name} is missing"
        return
    expected = (array.dims, array.dtype, array.units)
    units = member["attributes"].get("units")
    found = (tuple(member["dimension_names"]), member["data_type"], units)
    if found != expected:
        yield f"array {name} has dims, dtype and units {found}, the schema says {expected}"


def _coord_problems(name: str, coord: CoordSchema, member: Metadata | None) -> Iterator[str]:
    if member is None:
        if not coord.optional:
            yield f"coordinate {name} is missing"
        return
    if tuple(member["dimension_names"]) != coord.dims:
        yield f"coordinate {name} has dims {member['dimension_names']}, not {coord.dims}"
    if member["data_type"] not in TYPES[coord.type]:
        yield f"coordinate {name} is {member['data_type']}, not {coord.type}"
    units = member["attributes"].get("units")
    if coord.units is not None and units != coord.units:
        yield f"coordinate {name} has units {units}, not {coord.units}"
