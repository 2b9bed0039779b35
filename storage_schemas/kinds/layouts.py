"""The arrays, coordinates and units of every kind of store.

Each function returns the whole layout of one store: it is used to create the store and, without
creating anything, to count its units, bytes and files.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr

from storage_schemas.kinds.schemas import (
    CORRELATIONS,
    FMRI_TABLES,
    KSTARS,
    MEG_TABLES,
    RESOLUTIONS,
    SCHEMA_VERSION,
    SCHEMAS,
    Schema,
    components_array,
    current,
    layer_array,
    mean_array,
)
from storage_schemas.protocol.store import ArrayLayout, Unit

Layers = Sequence[tuple[str, float]]
"""Module names with their relative depth, in network order."""

Window = tuple[str, float, float]
"""Name, start and stop (s) of a window of MEG."""

STIMULI_PER_CHUNK = 512
VOXELS_PER_CHUNK = 256
TARGETS_PER_CHUNK = 16_384

SINGLE_MEASURES = ("r", "sse", "sst", "alpha")
BANDED_MEASURES = (*SINGLE_MEASURES, "ratio", "r_off", "sse_off")


@dataclass(frozen=True)
class Layout:
    """A store before it exists."""

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


def prepared() -> Layout:
    """Return the digest of a model's weights, (32,) uint8."""
    return _whole(current("prepared"), {"byte": 32}, {})


def bank(n_items: int, n_channels: int, n_prototypes: int) -> Layout:
    """Return a model's reference bank: its items' readings, their mean and prototypes."""
    sizes = {"byte": 32, "item": n_items, "channel": n_channels, "prototype": n_prototypes}
    return _whole(current("bank"), sizes, {})


def pca(
    layers: Layers,
    stimuli: Sequence[str],
    digests: Sequence[str],
    widths: Sequence[int],
    n_components: int,
) -> Layout:
    """Return mean and components of every layer's signal, and what they explain.

    Parameters
    ----------
    widths : sequence of int
        Of each layer's signal before projection.
    """
    schema = current("pca")
    arrays = [_array(schema, "explained", (len(layers), n_components))]
    for index, width in enumerate(widths):
        arrays.append(_array(schema, mean_array(index), (width,)))
        arrays.append(_array(schema, components_array(index), (n_components, width)))
    coords = layer_coords(layers) | stimulus_coords(stimuli, digests)
    return _one_unit(arrays, coords, key={"start": 0, "stop": len(stimuli)})


def classes(layers: Layers) -> Layout:
    """Return the class of every layer's gradient, (n_layers,) int8 (see schemas)."""
    return _whole(current("classes"), {"layer": len(layers)}, layer_coords(layers))


def responses(
    stimuli: Sequence[str], digests: Sequence[str], targets: xr.Dataset, dims: Sequence[str]
) -> Layout:
    """Return one subject's responses over `dims` (voxel, or sensor and time).

    A chunk holds all stimuli of some targets, which encoding reads block by block.
    """
    sizes = {"stimulus": len(stimuli), **{dim: targets.sizes[dim] for dim in dims}}
    coords = stimulus_coords(stimuli, digests) | _coords_of(targets)
    whole = _whole(current("responses", tuple(dims)), sizes, coords, targets.attrs)
    site, *times = (targets.sizes[dim] for dim in dims)
    sites = 1 if times else min(VOXELS_PER_CHUNK, site)
    chunks = (len(stimuli), sites, *times)
    shards = (len(stimuli), -(-site // sites) * sites, *times)
    arrays = [
        replace(array, chunks=chunks, shards=shards) if array.name == "responses" else array
        for array in whole.arrays
    ]
    return replace(whole, arrays=tuple(arrays))


def features(
    layers: Layers,
    stimuli: Sequence[str],
    digests: Sequence[str],
    n_features: int | Sequence[int],
    stimuli_per_shard: int,
) -> Layout:
    """Return features(layer, stimulus, feature); a unit is one shard of stimuli, all layers.

    Where `n_features` is a sequence, one number per layer, every layer has an array of its own,
    `schemas.layer_array(index)` (stimulus, feature_<index>).
    """
    n, n_layers = len(stimuli), len(layers)
    rows = _divisor(stimuli_per_shard, STIMULI_PER_CHUNK)
    if isinstance(n_features, int):
        arrays = [
            _array(
                current("features"),
                "features",
                (n_layers, n, n_features),
                chunks=(1, rows, n_features),
                shards=(n_layers, stimuli_per_shard, n_features),
                compressed=False,
            )
        ]
    else:
        arrays = [
            _array(
                SCHEMAS["features"][SCHEMA_VERSION["features"]][1],
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
        regions = {a.name: _stimulus_region(a, start, stop) for a in arrays}
        units.append(
            Unit(index, f"stimuli {start}-{stop}", {"start": start, "stop": stop}, regions)
        )
    coords = layer_coords(layers) | stimulus_coords(stimuli, digests)
    return Layout(tuple(arrays), xr.Dataset(coords=coords), tuple(units))


def layer_features(data: xr.Dataset, layer: int) -> xr.DataArray:
    """Return one layer's features, (stimulus, feature), from a dataset of the kind `features`."""
    if "features" in data:
        return data["features"].isel(layer=layer)
    return data[layer_array(layer)]


def stability(layers: Layers, perturbations: Sequence[str], n_images: int) -> Layout:
    """Return cosine(layer, perturbation, image); reliability(layer) and precision_error(layer)."""
    sizes = {"layer": len(layers), "perturbation": len(perturbations), "image": n_images}
    names = np.array(perturbations, dtype=object)
    coords = layer_coords(layers) | {"perturbation": ("perturbation", names)}
    return _whole(current("stability"), sizes, coords)


def collinearity(layers: Layers) -> Layout:
    """Return linear CKA between layers, (n_layers, n_layers) float64."""
    names = np.array([name for name, _ in layers], dtype=object)
    sizes = {"layer": len(layers), "other_layer": len(layers)}
    coords = layer_coords(layers) | {"other_layer": ("other_layer", names)}
    return _whole(current("collinearity"), sizes, coords)


def scores(
    layers: Layers,
    labels: Mapping[str, Any],
    *,
    banded: bool,
    n_folds: int,
    n_targets: int,
    n_summaries: int,
    n_bootstrap: int,
    n_permutations: int,
) -> Layout:
    """Return encoding scores and their resampled summaries; a unit is one layer, all targets.

    `labels` are coordinates of the stimuli and, where there are windows, of targets and summaries.
    """
    measures = BANDED_MEASURES if banded else SINGLE_MEASURES
    chunk = min(TARGETS_PER_CHUNK, n_targets)
    whole = -(-n_targets // chunk) * chunk
    schema = current("scores")
    arrays = [
        _array(
            schema,
            "scores",
            (len(layers), len(measures), n_folds, n_targets),
            chunks=(1, len(measures), n_folds, chunk),
            shards=(1, len(measures), n_folds, whole),
        ),
        *(
            _array(schema, name, (len(layers), n + 1, n_summaries), (1, n + 1, n_summaries))
            for name, n in (("bootstrap", n_bootstrap), ("permutation", n_permutations))
        ),
    ]
    units = tuple(
        Unit(i, name, {"layer": i}, {a.name: _layer_region(a, i) for a in arrays})
        for i, (name, _) in enumerate(layers)
    )
    coords = layer_coords(layers) | dict(labels)
    coords["measure"] = ("measure", np.array(measures, dtype=object))
    return Layout(tuple(arrays), xr.Dataset(coords=coords), units)


def comparisons(
    signals: Sequence[str],
    layers: Layers,
    regions: Sequence[str],
    positions: Sequence[str],
    fmri_subjects: Sequence[str],
    meg_subjects: Sequence[str],
    windows: Sequence[Window],
) -> Layout:
    """Return the tables of one model's hierarchy comparisons; a single unit owns them all.

    `signals` are "forward", "gradient:<objective>" (both in r) and "unique:<objective>" (in U).
    Tables of a modality that nobody was recorded in are left out.
    """
    coords: dict[str, Any] = layer_coords(layers)
    labels = {
        "signal": signals,
        "resolution": RESOLUTIONS,
        "kstar": KSTARS,
        "correlation": CORRELATIONS,
        "bound": ("low", "high"),
        "region": regions,
        "position": positions,
        "fmri_subject": fmri_subjects,
        "meg_subject": meg_subjects,
    }
    coords |= {dim: (dim, np.array(names, dtype=object)) for dim, names in labels.items()}
    coords |= window_coords("window", windows)
    schema = current("comparisons")
    absent = {} if fmri_subjects else dict(FMRI_TABLES)
    absent |= {} if meg_subjects else MEG_TABLES
    tables = {name: table for name, table in schema.arrays.items() if name not in absent}
    used = {dim for table in tables.values() for dim in table.dims}
    kept = {name: c for name, c in coords.items() if c[0] in used}
    sizes = {dim: len(coords[dim][1]) for dim in used}
    return _whole(Schema(tables, schema.coords), sizes, kept)


def drill(n_units: int, n_values: int) -> Layout:
    """Return noise(unit, value): what the units of a drill commit, a row each."""
    array = _array(current("drill"), "noise", (n_units, n_values), chunks=(1, n_values))
    units = tuple(
        Unit(i, f"row {i}", {"row": i}, {"noise": [(i, i + 1), (0, n_values)]})
        for i in range(n_units)
    )
    return Layout((array,), xr.Dataset(), units)


def layer_coords(layers: Layers) -> dict[str, Any]:
    """Return the coordinates layer and layer_depth."""
    return {
        "layer": ("layer", np.array([name for name, _ in layers], dtype=object)),
        "layer_depth": ("layer", np.array([depth for _, depth in layers], dtype="float64")),
    }


def stimulus_coords(stimuli: Sequence[str], digests: Sequence[str]) -> dict[str, Any]:
    """Return the coordinates stimulus and stimulus_digest."""
    return {
        "stimulus": ("stimulus", np.array(stimuli, dtype=object)),
        "stimulus_digest": ("stimulus", np.array(digests, dtype=object)),
    }


def window_coords(dim: str, windows: Sequence[Window | None], prefix: str = "") -> dict[str, Any]:
    """Return name, start and stop (s) of the window of every entry of `dim`; "" and NaN: none."""
    rows = [window or ("", np.nan, np.nan) for window in windows]
    return {
        f"{prefix}window": (dim, np.array([name for name, _, _ in rows], dtype=object)),
        f"{prefix}window_start": (
            dim,
            np.array([start for _, start, _ in rows], dtype="float64"),
            {"units": "s"},
        ),
        f"{prefix}window_stop": (
            dim,
            np.array([stop for _, _, stop in rows], dtype="float64"),
            {"units": "s"},
        ),
    }


def _coords_of(dataset: xr.Dataset) -> dict[str, Any]:
    return {str(name): (c.dims, c.values, c.attrs) for name, c in dataset.coords.items()}


def _array(
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


def _whole(
    schema: Schema,
    sizes: Mapping[str, int],
    coords: Mapping[str, Any],
    attrs: Mapping[Any, Any] | None = None,
) -> Layout:
    """Return a layout whose single unit owns every array of the schema whole."""
    arrays = tuple(
        _array(schema, name, tuple(sizes[dim] for dim in array.dims))
        for name, array in schema.arrays.items()
    )
    return _one_unit(arrays, coords, attrs)


def _one_unit(
    arrays: Sequence[ArrayLayout],
    coords: Mapping[str, Any],
    attrs: Mapping[Any, Any] | None = None,
    key: dict[str, Any] | None = None,
) -> Layout:
    regions = {array.name: [(0, size) for size in array.shape] for array in arrays}
    unit = Unit(0, "all", key or {}, regions)
    return Layout(tuple(arrays), xr.Dataset(coords=coords, attrs=attrs), (unit,))


def _layer_region(array: ArrayLayout, layer: int) -> list[tuple[int, int]]:
    return [(layer, layer + 1), *((0, size) for size in array.shape[1:])]


def _stimulus_region(array: ArrayLayout, start: int, stop: int) -> list[tuple[int, int]]:
    return [
        (start, stop) if dim == "stimulus" else (0, size)
        for dim, size in zip(array.dims, array.shape, strict=True)
    ]


def _divisor(n: int, most: int) -> int:
    """Return the largest divisor of `n` that is at most `most`: chunks must fill a shard."""
    return next(size for size in range(min(n, most), 0, -1) if n % size == 0)
