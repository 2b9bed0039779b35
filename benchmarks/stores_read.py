"""How fast slices of a store are read, next to a memory map of the same rows.

    python benchmarks/stores_read.py [--folder DIR] [--toy]

read_vs_memmap
    256 consecutive stimuli of one layer from a random start through `Store.dataset()`, over a copy
    of the same rows of a memory map of a plain .npy. Both files are in the page cache; the two
    follow each other, alternating; the median of 20 ratios.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr
from _stores import (
    SEED,
    Array,
    Sizes,
    Values,
    commit_noise,
    create,
    random_rows,
    run_benchmark,
    sized_features,
    through_store,
)
from _timing import (
    Line,
    in_turn,
    median_ms,
    ratios,
    seconds,
)

from storage_schemas.protocol.store import Store

LINES = [
    Line("read_slice_ms", "256 stimuli of one layer (ms)", 100),
    Line("read_feature_slice_ms", "all stimuli of one layer (ms)"),
    Line("read_vs_memmap", "256 stimuli of one layer / memory map"),
    Line("read_feature_slice_vs_memmap", "all stimuli of one layer / memory map"),
    Line("open_dataset_ms", "Store.dataset() (ms)"),
]


def measure_reading(folder: Path, sizes: Sizes) -> Values:
    store = create(
        folder / "stores", "extract", "features", "read", sized_features(sizes.read_shape, 512)
    )
    plain = np.lib.format.open_memmap(
        folder / "features.npy", mode="w+", dtype="float32", shape=sizes.read_shape
    )
    for unit in store.units:
        rows = slice(*unit.regions["features"][1])
        plain[:, rows] = commit_noise(store, unit)
    plain.flush()
    mapped = np.load(folder / "features.npy", mmap_mode="r")
    values = _time_reads(store.dataset()["features"], mapped, sizes)
    values["open_dataset_ms"] = median_ms([seconds(store.dataset) for _ in range(sizes.repeats)])
    values["codec_of_create"] = [str(codec) for codec in _compressors(store)]
    (folder / "features.npy").unlink()
    return values


def _compressors(store: Store) -> tuple[Any, ...]:
    return tuple(zarr.open_array(store.data / "features", mode="r").compressors)


def _time_reads(features: xr.DataArray, mapped: Array, sizes: Sizes) -> Values:
    n_layers, n_stimuli, _ = sizes.read_shape
    rng = np.random.default_rng(SEED)
    whole = slice(0, n_stimuli)
    slices = [random_rows(rng, n_layers, n_stimuli) for _ in range(sizes.reads)]
    wholes = [(layer % n_layers, whole) for layer in range(sizes.layer_reads)]
    for layer, rows in [*wholes, *slices]:
        # Warms the page cache, and makes sure that both hold the same values.
        np.testing.assert_array_equal(through_store(features, layer, rows), mapped[layer, rows])
    small = _time_read_pairs(features, mapped, slices)
    large = _time_read_pairs(features, mapped, wholes)
    return {
        "read_slice_ms": median_ms([pair[0] for pair in small]),
        "read_memmap_slice_ms": median_ms([pair[1] for pair in small]),
        "read_feature_slice_ms": median_ms([pair[0] for pair in large]),
        **{f"read_vs_memmap{end}": value for end, value in ratios(small).items()},
        **{f"read_feature_slice_vs_memmap{end}": v for end, v in ratios(large).items()},
    }


def _time_read_pairs(
    features: xr.DataArray, mapped: Array, places: Sequence[tuple[int, slice]]
) -> list[tuple[float, float]]:
    return [
        in_turn(
            lambda place=place: through_store(features, *place),  # type: ignore[misc]
            lambda place=place: np.array(mapped[place]),  # type: ignore[misc]
            swap=bool(number % 2),
        )
        for number, place in enumerate(places)
    ]


if __name__ == "__main__":
    run_benchmark("reading stores", LINES, measure_reading)
