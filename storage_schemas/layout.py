"""Arrays of a store, units of work, and which unit owns which shard file.

Two writers of one shard file lose data silently, so every file has exactly one owner; that is
checked once, when a store is created.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import xarray as xr  # slow to import, and most of what looks at a layout opens no dataset

Region = Sequence[tuple[int, int]]
"""(start, stop) along each dimension of an array."""


@dataclass(frozen=True)
class ArrayLayout:
    """An array of a store, as it is created before any unit runs."""

    name: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    chunks: tuple[int, ...]
    shards: tuple[int, ...] | None
    """Elements per file along each dimension; None: one file per chunk."""
    units: str
    long_name: str
    attrs: Mapping[str, Any] = field(default_factory=dict)
    """More CF attributes, e.g. ``flag_values`` and ``flag_meanings``."""
    compressed: bool = True
    """Whether chunks are compressed (zstd, lossless)."""

    @property
    def file_shape(self) -> tuple[int, ...]:
        """Elements per file along each dimension."""
        return self.shards or self.chunks

    @property
    def grid(self) -> tuple[int, ...]:
        """Number of files along each dimension; a clipped last one counts as whole."""
        return tuple(-(-n // size) for n, size in zip(self.shape, self.file_shape, strict=True))

    @property
    def fill_value(self) -> float | int | bool:
        """What unwritten elements read as: NaN, or the least likely value of an integer type."""
        dtype = np.dtype(self.dtype)
        if dtype.kind == "f":
            return float("nan")
        if dtype.kind == "b":
            return False
        limits = np.iinfo(dtype)
        return int(limits.min if dtype.kind == "i" else limits.max)

    def file_names(self, region: Region) -> Iterator[str]:
        """Yield the files, relative to the zarr group, that hold a region."""
        for position in product(*self.file_ranges(region)):
            yield "/".join([self.name, "c", *map(str, position)])

    def file_ranges(self, region: Region) -> list[range]:
        """Return the positions of a region's files in the grid, per dimension."""
        return [
            range(start // size, -(-stop // size))
            for (start, stop), size in zip(region, self.file_shape, strict=True)
        ]


@dataclass(frozen=True)
class Unit:
    """The smallest thing that is run, retried and committed."""

    index: int
    label: str
    key: dict[str, int]
    """What it computes, e.g. ``{"layer": 3}`` or ``{"start": 0, "stop": 512}``."""
    regions: dict[str, list[tuple[int, int]]]
    """Array name -> (start, stop) per dimension; whole files only."""


@dataclass(frozen=True)
class Layout:
    """What a store holds, before it exists.

    It creates a store and, without creating anything, counts its units, bytes and files.
    """

    arrays: tuple[ArrayLayout, ...]
    coords: xr.Dataset
    units: tuple[Unit, ...]

    @property
    def n_bytes(self) -> int:
        """Size of all arrays, uncompressed."""
        return sum(
            int(np.prod(array.shape)) * np.dtype(array.dtype).itemsize for array in self.arrays
        )

    @property
    def n_files(self) -> int:
        """Shard files and commit records of all units."""
        return sum(len(unit.regions) + 1 for unit in self.units)


def check_layouts(layouts: Sequence[ArrayLayout], sizes: Mapping[Hashable, int]) -> None:
    """Refuse arrays whose shapes do not fit together, before they are created.

    Parameters
    ----------
    sizes : mapping
        Length of every dimension that has coordinates.

    Raises
    ------
    ValueError
        Naming the array and the shapes.
    """
    lengths = dict(sizes)
    for layout in layouts:
        _check_shapes(layout)
        for dim, n in zip(layout.dims, layout.shape, strict=True):
            if lengths.setdefault(dim, n) != n:
                raise ValueError(
                    f"array {layout.name}: {n} elements along {dim}, which has {lengths[dim]} in "
                    "another array or in the coordinates"
                )


def _check_shapes(layout: ArrayLayout) -> None:
    lengths = {len(layout.dims), len(layout.shape), len(layout.chunks), len(layout.file_shape)}
    sizes = (*layout.shape, *layout.chunks, *layout.file_shape)
    if len(lengths) != 1 or not layout.shape or min(sizes) < 1:
        raise ValueError(
            f"array {layout.name}: dims {layout.dims}, shape {layout.shape}, chunks "
            f"{layout.chunks} and shards {layout.shards} must have one positive entry per dimension"
        )
    if any(size % chunk for size, chunk in zip(layout.file_shape, layout.chunks, strict=True)):
        raise ValueError(
            f"array {layout.name}: shards {layout.shards} are not multiples of chunks "
            f"{layout.chunks}"
        )


def check_ownership(layouts: Sequence[ArrayLayout], units: Sequence[Unit]) -> None:
    """Check that every file of every array is owned by exactly one unit.

    Raises
    ------
    ValueError
        Naming the array and the units whose regions cut a file, overlap or leave a gap.
    """
    names = {layout.name for layout in layouts}
    for position, unit in enumerate(units):
        if unit.index != position:
            raise ValueError(f"unit {unit.label} has index {unit.index}, not its place {position}")
        if unknown := set(unit.regions) - names:
            raise ValueError(f"unit {unit.index} has regions of unknown arrays {sorted(unknown)}")
    for layout in layouts:
        _check_array_ownership(layout, units)


def _check_array_ownership(layout: ArrayLayout, units: Sequence[Unit]) -> None:
    owner: NDArray[np.int64] = np.full(layout.grid, -1)
    for unit in units:
        region = unit.regions.get(layout.name)
        if region is None:
            continue
        _check_alignment(layout, unit.index, region)
        owned = owner[tuple(slice(r.start, r.stop) for r in layout.file_ranges(region))]
        if (taken := owned.max()) >= 0:
            raise ValueError(f"array {layout.name}: units {taken} and {unit.index} share a file")
        owned[...] = unit.index
    if (owner < 0).any():
        gap = np.argwhere(owner < 0)[0].tolist()
        raise ValueError(f"array {layout.name}: no unit owns the file at grid position {gap}")


def _check_alignment(layout: ArrayLayout, index: int, region: Region) -> None:
    if len(region) != len(layout.shape):
        raise ValueError(f"array {layout.name}: unit {index} has region {region} of wrong length")
    for (start, stop), n, size in zip(region, layout.shape, layout.file_shape, strict=True):
        whole = start % size == 0 and (stop % size == 0 or stop == n)
        if not (whole and 0 <= start < stop <= n):
            raise ValueError(
                f"array {layout.name}: unit {index} has region ({start}, {stop}) along a dimension "
                f"of {n} elements in files of {size}; a unit owns whole files"
            )
