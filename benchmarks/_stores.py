"""Stores of noise and the frame of a benchmark of stores: sizes, options, printing."""

import argparse
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from _timing import (
    Line,
    print_json,
    print_lines,
    print_rows,
)
from numpy.typing import NDArray

from storage_schemas.kinds.coordinates import Layers, stimulus_coords
from storage_schemas.kinds.features import features_layout
from storage_schemas.kinds.scores import SINGLE_MEASURES, scores_layout
from storage_schemas.layout import Layout
from storage_schemas.protocol import attempts
from storage_schemas.protocol.commit import commit
from storage_schemas.protocol.new_store import NewStore
from storage_schemas.protocol.seal import seal
from storage_schemas.protocol.store import Store, Unit

Array = NDArray[Any]
Values = dict[str, Any]

CODECS = {"none": False, "zstd": True}
"""Name -> whether a layout is `compressed`."""
SEED = 20260528


@dataclass(frozen=True)
class Sizes:
    """How much is written and planned."""

    write_units: int = 16
    write_shape: tuple[int, int, int] = (16, 1024, 1024)
    read_shape: tuple[int, int, int] = (24, 10_000, 1024)
    reads: int = 20
    layer_reads: int = 8
    status_units: int = 20_000
    plan_units: int = 100_000
    plan_stores: int = 100
    models: int = 9
    subjects: int = 8
    layout_shape: tuple[int, int, int] = (12, 4096, 1024)
    images: int = 48
    repeats: int = 5


TOY = Sizes(
    write_units=4,
    write_shape=(2, 256, 256),
    read_shape=(2, 1024, 64),
    reads=5,
    layer_reads=3,
    status_units=400,
    plan_units=1000,
    plan_stores=4,
    models=1,
    subjects=2,
    layout_shape=(2, 1024, 256),
    images=4,
    repeats=1,
)


def run_benchmark(
    title: str, lines: Sequence[Line], measure: Callable[[Path, Sizes], Values]
) -> None:
    """Measure in a temporary folder; print a table, then one line of JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, help="where to write (default: a temporary folder)")
    parser.add_argument("--toy", action="store_true", help="tiny sizes: does it still run?")
    arguments = parser.parse_args()
    # The load is read before the benchmark adds to it.
    values: Values = {"processors": os.cpu_count(), "load": os.getloadavg()[0]}
    with working_folder(arguments.folder) as folder:
        values |= measure(folder, TOY if arguments.toy else Sizes())
    for name, rows in values.items():
        if isinstance(rows, list) and rows and isinstance(rows[0], dict):
            print_rows(name, rows)
    print_lines(title, lines, values)
    print_json(values)


@contextmanager
def working_folder(parent: Path | None) -> Iterator[Path]:
    """Give an empty folder below `parent` that is gone afterwards."""
    if parent is not None:
        parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="gradenc-benchmark-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def names(prefix: str, n: int) -> list[str]:
    return [f"{prefix}{i:06d}" for i in range(n)]


def layers_of(n: int) -> list[tuple[str, float]]:
    return [(f"layer{i}", (i + 1) / n) for i in range(n)]


def create(
    root: Path, stage: str, kind: str, label: str, layout: Layout, attrs: Values | None = None
) -> Store:
    return Store.create(
        root,
        NewStore(
            stage,
            kind,
            label,
            {"label": label, "benchmark": True},
            layout,
            attrs or {"model": "noise", "source": "forward"},
        ),
    )


def sized_features(
    shape: tuple[int, int, int],
    per_shard: int,
    codec: str | None = None,
    chunks: tuple[int, ...] | None = None,
) -> Layout:
    """Return a features store's layout; without `codec` and `chunks` as gradenc makes it."""
    n_layers, n_stimuli, n_features = shape
    # Digests are as long as real ones: they are most of the coordinates' bytes.
    digests = [f"{i:064x}" for i in range(n_stimuli)]
    stimuli = names("images/stimulus", n_stimuli)
    layout = features_layout(layers_of(n_layers), stimuli, digests, n_features, per_shard)
    (array,) = layout.arrays
    compressed = array.compressed if codec is None else CODECS[codec]
    array = replace(array, compressed=compressed, chunks=chunks or array.chunks)
    return replace(layout, arrays=(array,))


def noise(shape: Sequence[int], seed: int) -> Array:
    return np.random.default_rng([SEED, seed]).standard_normal(shape, dtype=np.float32)


def region_shape(unit: Unit, array: str) -> tuple[int, ...]:
    return tuple(stop - start for start, stop in unit.regions[array])


def begin(store: Store, unit: Unit) -> attempts.Attempt:
    attempt = attempts.begin(store, unit, job="benchmark", round_=0)
    if attempt is None:
        raise RuntimeError(f"unit {store.unit_id(unit)} is held by another process")
    return attempt


def commit_noise(store: Store, unit: Unit) -> Array:
    """Commit a unit of a features store; return its values."""
    values = noise(region_shape(unit, "features"), unit.index)
    attempt = begin(store, unit)
    commit(store, unit, {"features": values}, {"micro_batch": 16}, attempt)
    attempt.finish("committed", used={"seconds": 1.0})
    return values


def finish_store(store: Store) -> Store:
    """Commit zeros to every unit, and seal."""
    for unit in store.units:
        arrays = {
            name: np.zeros(region_shape(unit, name), store.arrays[name].dtype)
            for name in unit.regions
        }
        attempt = begin(store, unit)
        commit(store, unit, arrays, {}, attempt)
        attempt.finish("committed")
    seal(store)
    return store


def random_rows(rng: np.random.Generator, n_layers: int, n_stimuli: int) -> tuple[int, slice]:
    start = int(rng.integers(n_stimuli - 256))
    return int(rng.integers(n_layers)), slice(start, start + 256)


def through_store(features: xr.DataArray, layer: int, rows: slice) -> Array:
    return np.asarray(features.isel(layer=layer, stimulus=rows).values)


def scores_of(layers: Layers, n_targets: int, measures: Sequence[str] = SINGLE_MEASURES) -> Layout:
    stimuli = names("images/stimulus", 20)
    coords = stimulus_coords(stimuli, stimuli) | {
        "stimulus_fold": ("stimulus", np.arange(20) % 4),
        "stimulus_block": ("stimulus", np.arange(20) % 5),
    }
    return scores_layout(
        layers,
        coords,
        measures=measures,
        n_folds=4,
        n_targets=n_targets,
        n_summaries=6,
        n_resampled=6,
        n_bootstrap=10,
        n_permutations=19,
    )
