"""The arrays, coordinates and units of every kind of store.

Each function returns the whole layout of one store: it is used to create the store and, without
creating anything, to count its units, bytes and files.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr

from storage_schemas.schemas import SIGNAL_CLASSES
from storage_schemas.store import ArrayLayout, Unit

Layers = Sequence[tuple[str, float]]
"""Module names with their relative depth, in network order."""

STIMULI_PER_CHUNK = 256
TARGETS_PER_CHUNK = 16_384

SINGLE_MEASURES = ("r", "sse", "sst", "alpha")
BANDED_MEASURES = (*SINGLE_MEASURES, "ratio", "r_off", "sse_off")

RESOLUTIONS = ("voxel", "region")
KSTARS = ("argmax", "centre_of_mass")
CORRELATIONS = ("pearson", "spearman")
_SPATIAL = ("signal", "position", "resolution", "kstar", "correlation")

VERDICT_TABLES: dict[str, tuple[str, ...]] = {
    "verdict": ("signal",),
    "gradient_p": ("signal",),
    "identifiable": ("signal",),
    "usable": ("signal", "layer"),
}
"""`verdict` codes VERDICTS, NaN where a signal gets none; p of U over all subjects; whether the
layers can be told apart; whether a layer entered the order scores."""

FMRI_TABLES: dict[str, tuple[str, ...]] = {
    "spatial_score": (*_SPATIAL, "fmri_subject"),
    "spatial_p": (*_SPATIAL, "fmri_subject"),
    "spatial_mean": _SPATIAL,
    "spatial_interval": (*_SPATIAL, "bound"),
    "spatial_combined_p": _SPATIAL,
    "region_profile": ("signal", "layer", "region", "fmri_subject"),
    "region_depth": ("signal", "kstar", "region", "fmri_subject"),
    "region_position": ("position", "region", "fmri_subject"),
    "significant_voxels": ("signal", "fmri_subject"),
    "gradient_p_fmri": ("signal", "fmri_subject"),
}

MEG_TABLES: dict[str, tuple[str, ...]] = {
    "temporal_score": ("signal", "correlation", "meg_subject"),
    "temporal_p": ("signal", "correlation", "meg_subject"),
    "dropped_replicates": ("signal", "correlation", "meg_subject"),
    "temporal_mean": ("signal", "correlation"),
    "temporal_interval": ("signal", "correlation", "bound"),
    "temporal_combined_p": ("signal", "correlation"),
    "latency": ("signal", "layer", "meg_subject"),
    "onset": ("signal", "layer", "meg_subject"),
    "curve": ("signal", "layer", "window", "meg_subject"),
    "significant_sensors": ("signal", "meg_subject"),
    "gradient_p_meg": ("signal", "meg_subject"),
}


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
    array = replace(
        _array("signal_class", ("layer",), (len(layers),), "int8", "class of the gradient"),
        attrs={
            "flag_values": list(range(len(SIGNAL_CLASSES))),
            "flag_meanings": " ".join(SIGNAL_CLASSES),
        },
    )
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


def comparisons(
    signals: Sequence[str],
    layers: Layers,
    regions: Sequence[str],
    positions: Sequence[str],
    fmri_subjects: Sequence[str],
    meg_subjects: Sequence[str],
    windows: Sequence[tuple[float, float]],
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
    coords["window"] = ("window", np.array([(a + b) / 2 for a, b in windows]), {"units": "s"})
    tables = dict(VERDICT_TABLES)
    tables |= FMRI_TABLES if fmri_subjects else {}
    tables |= MEG_TABLES if meg_subjects else {}
    sizes = {str(d): len(c[1]) for d, c in coords.items() if c[0] == d or c[0] == (d,)}
    arrays = [
        _array(name, dims, tuple(sizes[d] for d in dims), "float64", name.replace("_", " "))
        for name, dims in tables.items()
    ]
    used = {dim for dims in tables.values() for dim in dims}
    kept = {name: c for name, c in coords.items() if c[0] in used}
    return _whole(arrays, kept)


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
