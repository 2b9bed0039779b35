"""Responses of one subject, averaged over repeats, with where they were recorded.

Voxels carry their indices and grid and sensors their types and places, so that results go back
where they came from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from storage_schemas.kinds.coordinates import STIMULUS, Coords, stimulus_coords, text_coord
from storage_schemas.kinds.layouts import one_unit, whole_arrays
from storage_schemas.kinds.schema import ArraySchema, CoordSchema, Kind, Schema
from storage_schemas.layout import ArrayLayout, Layout

if TYPE_CHECKING:
    import xarray as xr

VOXELS_PER_CHUNK = 256
OWNERS = "ncsnr_owners"
"""Array that a study asks for by a recipe."""

_VOXEL = {
    "roi": CoordSchema(("voxel",), "text"),
    "hemisphere": CoordSchema(("voxel",), "text"),
    **{axis: CoordSchema(("voxel",), "float", "mm") for axis in "xyz"},
    **{axis: CoordSchema(("voxel",), "integer") for axis in "ijk"},
}
_SENSOR = {
    "sensor": CoordSchema(("sensor",), "text"),
    **{f"sensor_{axis}": CoordSchema(("sensor",), "float", "m") for axis in "xyz"},
    "sensor_type": CoordSchema(("sensor",), "text"),
    "sensor_loc": CoordSchema(("sensor", "loc"), "float"),
    "time": CoordSchema(("time",), "float", "s"),
}


def _schema(dims: tuple[str, ...], coords: Mapping[str, CoordSchema], *attrs: str) -> Schema:
    return Schema(
        {
            "responses": ArraySchema(("stimulus", *dims), "float32", "mean response"),
            "n_repeats": ArraySchema(("stimulus",), "float32", "trials of the stimulus"),
            "target_repeats": ArraySchema(
                dims, "float32", "trials averaged in a mean response of the target"
            ),
            "ncsnr": ArraySchema(dims, "float32", "noise ceiling signal-to-noise ratio"),
            OWNERS: ArraySchema(
                dims,
                "float32",
                "noise ceiling signal-to-noise ratio by the recipe of the data's owners",
                optional=True,
            ),
        },
        {**STIMULUS, "stimulus_session": CoordSchema(("stimulus",), "text"), **coords},
        ("subject", "modality", *attrs),
    )


_FORMS = {
    ("voxel",): _schema(("voxel",), _VOXEL, "volume_shape", "affine"),
    ("sensor", "time"): _schema(("sensor", "time"), _SENSOR),
}
RESPONSES = Kind("responses", 1, {1: tuple(_FORMS.values())}, "/responses/{subject}/{modality}")


def responses_layout(
    stimuli: Sequence[str],
    digests: Sequence[str],
    sessions: Sequence[str],
    targets: xr.Dataset,
    dims: Sequence[str],
    recipe: Mapping[str, Any] | None = None,
) -> Layout:
    """Return one subject's responses over `dims` (voxel, or sensor and time).

    `sessions` names the session in which each stimulus was shown, "" where it was in several. A
    chunk holds all stimuli of some targets, which encoding reads block by block. `recipe` is how
    the owners of the data compute its noise ceiling, and is kept beside their ratio.
    """
    sizes = {"stimulus": len(stimuli), **{dim: targets.sizes[dim] for dim in dims}}
    arrays = [
        _of_recipe(array, recipe) if array.name == OWNERS else _in_blocks_of_targets(array)
        for array in whole_arrays(_FORMS[tuple(dims)], sizes)
        if array.name != OWNERS or recipe is not None
    ]
    coords: Coords = stimulus_coords(stimuli, digests)
    coords["stimulus_session"] = text_coord("stimulus", sessions)
    coords |= {
        str(name): (tuple(map(str, c.dims)), c.values, c.attrs)
        for name, c in targets.coords.items()
    }
    return one_unit(arrays, coords, targets.attrs)


def _of_recipe(array: ArrayLayout, recipe: Mapping[str, Any] | None) -> ArrayLayout:
    return replace(array, attrs={**array.attrs, **(recipe or {})})


def _in_blocks_of_targets(array: ArrayLayout) -> ArrayLayout:
    if array.name != "responses":
        return array
    n_stimuli, n_sites, *times = array.shape
    sites = 1 if times else min(VOXELS_PER_CHUNK, n_sites)
    return replace(
        array,
        chunks=(n_stimuli, sites, *times),
        shards=(n_stimuli, -(-n_sites // sites) * sites, *times),
    )
