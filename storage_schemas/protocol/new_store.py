"""A store before it exists, and how its folder is made: whole, or not at all."""

from __future__ import annotations

import re
import shutil
import uuid
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

from storage_schemas import files
from storage_schemas.identity import identity_of
from storage_schemas.kinds.registry import KINDS
from storage_schemas.layout import ArrayLayout, Layout
from storage_schemas.protocol.frame import keep_copy
from storage_schemas.protocol.records import Plan

if TYPE_CHECKING:
    import xarray as xr

LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:+=,@-]{0,149}")


@dataclass(frozen=True)
class NewStore:
    """A store before it exists.

    Attributes
    ----------
    stage, kind, label : str
        Subfolder of the root; key of `KINDS`; readable end of the folder's name.
    spec : mapping
        JSON; everything that determines the bytes. With kind and versions it makes the identity.
    layout : Layout
        Arrays and coordinates that ``data.zarr`` has from the beginning, and the units, in order of
        index, which own every file of every array exactly once.
    attrs : mapping
        Attributes of the zarr group.
    locations : mapping
        Absolute paths of the inputs by name. Not part of the identity; kept up to date.
    """

    stage: str
    kind: str
    label: str
    spec: Mapping[str, Any]
    layout: Layout
    attrs: Mapping[str, Any] = field(default_factory=dict)
    locations: Mapping[str, str] = field(default_factory=dict)

    def plan(self) -> Plan:
        """Return what `plan.json` will say.

        Raises
        ------
        ValueError
            For a label that cannot name a folder, or an unknown kind.
        """
        if not LABEL.fullmatch(self.label):
            raise ValueError(
                f"label {self.label!r} cannot name a folder; use at most 150 letters, digits and "
                "._:+=,@- and begin with a letter or digit"
            )
        if self.kind not in KINDS:
            raise ValueError(f"unknown kind of store {self.kind!r}; known: {', '.join(KINDS)}")
        kind, spec = KINDS[self.kind], dict(self.spec)
        return Plan(
            kind=self.kind,
            schema_version=kind.schema_version,
            algorithm_version=kind.algorithm_version,
            spec=spec,
            label=self.label,
            identity=identity_of(self.kind, kind.schema_version, kind.algorithm_version, spec),
            attrs=dict(self.attrs),
            arrays=self.layout.arrays,
            units=tuple((unit.label, unit.key, unit.regions) for unit in self.layout.units),
            locations=dict(self.locations),
        )


def build(path: Path, plan: Plan, arrays: Sequence[ArrayLayout], coords: xr.Dataset) -> None:
    """Build beside the final name and rename: a reader never sees half a store."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    files.make_folder(path.parent)
    try:
        with files.explained("create", path):
            _write_store(temporary, plan, arrays, coords)
        # Contents before the name: after a power cut the folder is whole or absent.
        files.sync_tree(temporary)
        files.relocate(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_store(
    folder: Path, plan: Plan, arrays: Sequence[ArrayLayout], coords: xr.Dataset
) -> None:
    folder.mkdir()
    for name in ("commits", "attempts"):
        (folder / name).mkdir()
    (folder / "plan.json").write_bytes(plan.as_json())
    described = _with_object_strings(coords).assign_attrs(
        {
            "kind": plan.kind,
            "identity": plan.identity,
            "schema_version": plan.schema_version,
            **plan.attrs,
        }
    )
    data = folder / "data.zarr"
    described.to_zarr(data, mode="w-", zarr_format=3, consolidated=False)
    group = zarr.open_group(data, mode="r+")
    for layout in arrays:
        _create_array(group, layout)
    with warnings.catch_warnings():
        # Zarr warns that its specification is silent on this; here it cannot go stale, since no
        # metadata changes after this line, and plain xarray opens the store without a warning.
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(data)
    keep_copy(folder)


def _create_array(group: zarr.Group, layout: ArrayLayout) -> None:
    group.create_array(
        layout.name,
        shape=layout.shape,
        chunks=layout.chunks,
        shards=layout.shards,
        dtype=layout.dtype,
        fill_value=layout.fill_value,
        dimension_names=layout.dims,
        compressors="auto" if layout.compressed else None,
        attributes={"units": layout.units, "long_name": layout.long_name, **layout.attrs},
    )


def _with_object_strings(coords: xr.Dataset) -> xr.Dataset:
    """Make text coordinates objects: only these become zarr's (stable) string type."""
    text = {
        name: (coord.dims, np.asarray(coord.values, dtype=object), coord.attrs)
        for name, coord in coords.coords.items()
        if not isinstance(coord.dtype, np.dtype) or coord.dtype.kind in "UT"
    }
    return coords.assign_coords(text)
