"""The arrays, coordinates and units of every kind of store.

Each function returns the whole layout of one store: it is used to create the store and, without
creating anything, to count its units, bytes and files.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from storage_schemas.store import ArrayLayout, Unit

Layers = Sequence[tuple[str, float]]
"""Module names with their relative depth, in network order."""

STIMULI_PER_CHUNK = 256
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
    return _whole([_array("weights_digest", ("byte",), (32,), "uint8", "sha256 of weights")], {})


def classes(layers: Layers) -> Layout:
    """Return the class of every layer's gradient, (n_layers,) int8 (see schemas)."""
    array = _array("signal_class", ("layer",), (len(layers),), "int8", "class of the gradient")
    return _whole([array], layer_coords(layers))


def responses(
    stimuli: Sequence[str], digests: Sequence[str], targets: xr.Dataset, dims: Sequence[str]
) -> Layout:
    """Return one subject's responses over `dims` (voxel, or sensor and time)."""
    shape = tuple(targets.sizes[dim] for dim in dims)
    n = len(stimuli)
    arrays = [
        _array("responses", ("stimulus", *dims), (n, *shape), "float32", "mean response"),
        _array("n_repeats", ("stimulus",), (n,), "float32", "trials averaged"),
        _array("ncsnr", tuple(dims), shape, "float32", "noise ceiling signal-to-noise ratio"),
    ]
    return _whole(arrays, stimulus_coords(stimuli, digests) | _coords_of(targets))


def features(
    layers: Layers,
    stimuli: Sequence[str],
    digests: Sequence[str],
    n_features: int,
    stimuli_per_shard: int,
) -> Layout:
    """Return features(layer, stimulus, feature); a unit is one shard of stimuli, all layers."""
    n, n_layers = len(stimuli), len(layers)
    array = ArrayLayout(
        name="features",
        dims=("layer", "stimulus", "feature"),
        shape=(n_layers, n, n_features),
        dtype="float32",
        chunks=(1, _divisor(stimuli_per_shard, STIMULI_PER_CHUNK), n_features),
        shards=(n_layers, stimuli_per_shard, n_features),
        units="1",
        long_name="pooled and projected signal",
    )
    units = []
    for index, start in enumerate(range(0, n, stimuli_per_shard)):
        stop = min(start + stimuli_per_shard, n)
        region = [(0, n_layers), (start, stop), (0, n_features)]
        units.append(
            Unit(
                index,
                f"stimuli {start}-{stop}",
                {"start": start, "stop": stop},
                {"features": region},
            )
        )
    coords = layer_coords(layers) | stimulus_coords(stimuli, digests)
    return Layout((array,), xr.Dataset(coords=coords), tuple(units))


def collinearity(layers: Layers) -> Layout:
    """Return linear CKA between layers, (n_layers, n_layers) float64."""
    names = np.array([name for name, _ in layers], dtype=object)
    shape = (len(layers), len(layers))
    array = _array("cka", ("layer", "other_layer"), shape, "float64", "linear CKA")
    return _whole([array], layer_coords(layers) | {"other_layer": ("other_layer", names)})


def scores(
    layers: Layers,
    stimuli: Mapping[str, Any],
    *,
    banded: bool,
    n_folds: int,
    n_targets: int,
    n_summaries: int,
    n_bootstrap: int,
    n_permutations: int,
) -> Layout:
    """Return encoding scores and their resampled summaries; a unit is one layer, all targets."""
    measures = BANDED_MEASURES if banded else SINGLE_MEASURES
    chunk = min(TARGETS_PER_CHUNK, n_targets)
    whole = -(-n_targets // chunk) * chunk
    arrays = [
        ArrayLayout(
            name="scores",
            dims=("layer", "measure", "fold", "target"),
            shape=(len(layers), len(measures), n_folds, n_targets),
            dtype="float32",
            chunks=(1, len(measures), n_folds, chunk),
            shards=(1, len(measures), n_folds, whole),
            units="1",
            long_name="encoding scores per outer fold",
        ),
        _resampled("bootstrap", "replicate", len(layers), n_bootstrap + 1, n_summaries),
        _resampled("permutation", "permutation", len(layers), n_permutations + 1, n_summaries),
    ]
    units = tuple(
        Unit(i, name, {"layer": i}, {a.name: _layer_region(a, i) for a in arrays})
        for i, (name, _) in enumerate(layers)
    )
    coords = layer_coords(layers) | dict(stimuli)
    coords["measure"] = ("measure", np.array(measures, dtype=object))
    return Layout(tuple(arrays), xr.Dataset(coords=coords), units)


def tables(variables: Mapping[str, tuple[str, ...]], coords: xr.Dataset) -> Layout:
    """Return small float64 arrays named by `variables` over dimensions of `coords`, one unit."""
    arrays = [
        _array(name, dims, tuple(coords.sizes[d] for d in dims), "float64", name.replace("_", " "))
        for name, dims in variables.items()
    ]
    return _whole(arrays, _coords_of(coords))


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


def _coords_of(dataset: xr.Dataset) -> dict[str, Any]:
    return {str(name): (c.dims, c.values, c.attrs) for name, c in dataset.coords.items()}


def _array(
    name: str, dims: tuple[str, ...], shape: tuple[int, ...], dtype: str, long_name: str
) -> ArrayLayout:
    """Return an array kept in one chunk, hence in one file."""
    return ArrayLayout(name, dims, shape, dtype, shape, None, "1", long_name)


def _resampled(name: str, dim: str, n_layers: int, n: int, n_summaries: int) -> ArrayLayout:
    return ArrayLayout(
        name=name,
        dims=("layer", dim, "summary"),
        shape=(n_layers, n, n_summaries),
        dtype="float32",
        chunks=(1, n, n_summaries),
        shards=None,
        units="1",
        long_name=f"summary scores, index 0 observed, then by {dim}",
    )


def _whole(arrays: Sequence[ArrayLayout], coords: Mapping[str, Any]) -> Layout:
    """Return a layout whose single unit owns every array whole."""
    regions = {array.name: [(0, size) for size in array.shape] for array in arrays}
    return Layout(tuple(arrays), xr.Dataset(coords=coords), (Unit(0, "all", {}, regions),))


def _layer_region(array: ArrayLayout, layer: int) -> list[tuple[int, int]]:
    return [(layer, layer + 1), *((0, size) for size in array.shape[1:])]


def _divisor(n: int, most: int) -> int:
    """Return the largest divisor of `n` that is at most `most`: chunks must fill a shard."""
    return next(size for size in range(min(n, most), 0, -1) if n % size == 0)
