"""How fast stores are written, read, planned and looked up, next to plain files on the same disk.

::

    .venv/bin/python benchmarks/stores.py [--folder DIR] [--quick]

Prints tables, then one line of JSON. Nothing here decides anything; run it on the machine and the
file system in question. How each ratio is measured:

write_vs_raw
    `commit` of a unit (16 layers, 1024 stimuli, 1024 features, float32 noise: 64 MiB in one shard
    file), from clearing what was there to linking the record, checksums and flushes included,
    over open/write/fsync of the same bytes and an fsync of their folder. 16 units after a warm-up
    of each; commit and plain write follow each other, the one that goes first alternates; the
    median of the 16 ratios, with p10 and p90. The shard is uncompressed; `_zstd` is the same
    with zarr's zstd. The attempt is begun before the clock starts, as a unit's computation lies
    between the two.
raw_vs_raw
    The same plain write against itself, a second time: what the disk alone makes of such a ratio.
read_vs_memmap
    256 consecutive stimuli of one layer from a random start through `Store.dataset()`, over a copy
    of the same rows of a memory map of a plain .npy. Both files are in the page cache; the two
    follow each other, alternating; the median of 20 ratios.
plan_100k_units_s
    From a validated and resolved study (images and recordings are hashed once, before) through the
    planner, the ownership check and the fsynced plans of its stores to `run.json`: one model with
    as many shards of one stimulus; `_many_stores` is the same number of units in 100 models.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr
from _timing import (
    Line,
    fresh_python,
    in_turn,
    median_mib_per_s,
    median_ms,
    print_json,
    print_lines,
    print_rows,
    ratios,
    run,
    seconds,
    write_plainly,
)
from numpy.typing import NDArray

from gradenc_core.models.preprocessing import Preprocessing
from hpc.plan.stages import extract_plans
from hpc.plan.targets import Targets
from hpc.run.advance import create_stores
from hpc.run.folder import RunFolder
from hpc.study.resolved import Resolved, ResolvedModel
from hpc.study.study import Model, Study
from jobs.spec import ModelSpec, Reference
from storage_schemas.identity import canonical_json
from storage_schemas.kinds.classes import classes_layout
from storage_schemas.kinds.collinearity import collinearity_layout
from storage_schemas.kinds.comparisons import comparisons_layout
from storage_schemas.kinds.coordinates import Layers, stimulus_coords
from storage_schemas.kinds.features import features_layout
from storage_schemas.kinds.prepared import prepared_layout
from storage_schemas.kinds.responses import responses_layout
from storage_schemas.kinds.scores import scores_layout
from storage_schemas.layout import Layout
from storage_schemas.protocol import attempts
from storage_schemas.protocol.commit import commit, is_committed
from storage_schemas.protocol.new_store import NewStore
from storage_schemas.protocol.seal import seal
from storage_schemas.protocol.store import Store, Unit, subfolder
from storage_schemas.runs.run import create_run, record_stores

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


QUICK = Sizes(
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

LINES = [
    Line("load", "processes that ran at the start, ours not among them"),
    Line("write_vs_raw", "commit of a unit / plain write, uncompressed", 4),
    Line("write_vs_raw_zstd", "commit of a unit / plain write, zstd"),
    Line("raw_vs_raw", "plain write / the same plain write"),
    Line("write_mib_s", "commit, uncompressed (MiB/s)"),
    Line("raw_mib_s", "plain write (MiB/s)"),
    Line("read_slice_ms", "256 stimuli of one layer (ms)", 100),
    Line("read_feature_slice_ms", "all stimuli of one layer (ms)"),
    Line("read_vs_memmap", "256 stimuli of one layer / memory map"),
    Line("read_feature_slice_vs_memmap", "all stimuli of one layer / memory map"),
    Line("open_dataset_ms", "Store.dataset() (ms)"),
    Line("files_per_unit", "most files that one more unit adds", 6),
    Line("status_20k_units_s", "gradenc status, many units (s)", 2),
    Line("status_no_units_s", "gradenc status, no stage planned (s)"),
    Line("plan_100k_units_s", "plan of one store, many units (s)", 10),
    Line("plan_100k_units_many_stores_s", "plan of as many units in many stores (s)", 10),
    Line("open_run_ms", "open_run of a finished run, new process (ms)"),
]


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the speed of stores.")
    parser.add_argument("--folder", type=Path, help="where to write (default: a temporary folder)")
    parser.add_argument("--quick", action="store_true", help="small sizes, for a smoke test")
    arguments = parser.parse_args()
    sizes = QUICK if arguments.quick else Sizes()
    values: Values = {"quick": arguments.quick, "processors": os.cpu_count()}
    # Others' work on this machine, before any of ours.
    values["load"] = os.getloadavg()[0]
    with working_folder(arguments.folder) as folder:
        for measure in MEASURES:
            values |= measure(folder, sizes)
            for path in folder.iterdir():
                shutil.rmtree(path)
    print_lines("stores", LINES, values)
    print_rows("chunks (layer, stimulus, feature) in shards of 512 stimuli", values["layouts"])
    print_rows("smaller types, against float32", values["dtypes"])
    print(values["dtypes_sentence"])
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


# Stores


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


# Writing


def measure_writing(folder: Path, sizes: Sizes) -> Values:
    plain = folder / "plain"
    plain.mkdir()
    values: Values = {}
    for key, codec in {"": "none", "_zstd": "zstd"}.items():
        store = _written_store(folder / "stores", codec, sizes)
        commits, raws = _time_commits(store, plain)
        found = ratios(list(zip(commits, raws, strict=True)))
        values |= {f"write_vs_raw{key}{end}": value for end, value in found.items()}
        if not key:
            n_bytes = 4 * int(np.prod(sizes.write_shape))
            values["write_mib_s"] = median_mib_per_s(n_bytes, commits)
            values["raw_mib_s"] = median_mib_per_s(n_bytes, raws)
            values |= _raw_vs_raw(plain, sizes)
        shutil.rmtree(store.path)
    return values


def _written_store(root: Path, codec: str, sizes: Sizes) -> Store:
    """Return a store with one unit more than is measured: the first is the warm-up."""
    n_layers, per_shard, n_features = sizes.write_shape
    shape = (n_layers, per_shard * (sizes.write_units + 1), n_features)
    layout = sized_features(shape, per_shard, codec)
    return create(root, "extract", "features", f"write-{codec}", layout)


def _time_commits(store: Store, plain: Path) -> tuple[list[float], list[float]]:
    # Nothing is deleted between: who writes to blocks that were just freed is faster on many disks.
    pairs = [_time_commit(store, unit, plain / f"unit{unit.index}") for unit in store.units]
    _empty(plain)
    commits, raws = zip(*pairs[1:], strict=True)
    return list(commits), list(raws)


def _time_commit(store: Store, unit: Unit, path: Path) -> tuple[float, float]:
    values = noise(region_shape(unit, "features"), unit.index)
    attempt = begin(store, unit)
    pair = in_turn(
        lambda: commit(store, unit, {"features": values}, {"micro_batch": 16}, attempt),
        lambda: write_plainly(path, values),
        swap=bool(unit.index % 2),
    )
    attempt.finish("committed")
    return pair


def _raw_vs_raw(plain: Path, sizes: Sizes) -> Values:
    pairs = []
    for index in range(sizes.write_units):
        values = noise(sizes.write_shape, index)
        one, other = plain / f"one{index}", plain / f"other{index}"
        pairs.append(_raw_pair(one, other, values, swap=bool(index % 2)))
    _empty(plain)
    return {f"raw_vs_raw{end}": value for end, value in ratios(pairs).items()}


def _raw_pair(one: Path, other: Path, values: Array, swap: bool) -> tuple[float, float]:
    return in_turn(
        lambda: write_plainly(one, values), lambda: write_plainly(other, values), swap=swap
    )


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


# Reading


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
    slices = [_random_rows(rng, n_layers, n_stimuli) for _ in range(sizes.reads)]
    wholes = [(layer % n_layers, whole) for layer in range(sizes.layer_reads)]
    for layer, rows in [*wholes, *slices]:
        # Warms the page cache, and makes sure that both hold the same values.
        np.testing.assert_array_equal(_through_store(features, layer, rows), mapped[layer, rows])
    small = _time_read_pairs(features, mapped, slices)
    large = _time_read_pairs(features, mapped, wholes)
    return {
        "read_slice_ms": median_ms([pair[0] for pair in small]),
        "read_memmap_slice_ms": median_ms([pair[1] for pair in small]),
        "read_feature_slice_ms": median_ms([pair[0] for pair in large]),
        **{f"read_vs_memmap{end}": value for end, value in ratios(small).items()},
        **{f"read_feature_slice_vs_memmap{end}": v for end, v in ratios(large).items()},
    }


def _random_rows(rng: np.random.Generator, n_layers: int, n_stimuli: int) -> tuple[int, slice]:
    start = int(rng.integers(n_stimuli - 256))
    return int(rng.integers(n_layers)), slice(start, start + 256)


def _through_store(features: xr.DataArray, layer: int, rows: slice) -> Array:
    return np.asarray(features.isel(layer=layer, stimulus=rows).values)


def _time_read_pairs(
    features: xr.DataArray, mapped: Array, places: Sequence[tuple[int, slice]]
) -> list[tuple[float, float]]:
    return [
        in_turn(
            lambda place=place: _through_store(features, *place),  # type: ignore[misc]
            lambda place=place: np.array(mapped[place]),  # type: ignore[misc]
            swap=bool(number % 2),
        )
        for number, place in enumerate(places)
    ]


# Files


def measure_files(folder: Path, _: Sizes) -> Values:
    """Count the files that the second unit of a store adds; the first also makes the folders."""
    layers = layers_of(3)
    layouts = {
        "features": ("extract", sized_features((3, 64, 8), 16)),
        "scores": ("encode", _scores_layout(layers, 20)),
    }
    added = {kind: _files_added(folder, stage, kind, x) for kind, (stage, x) in layouts.items()}
    return {"files_per_unit": max(added.values()), "files_per_unit_by_kind": added}


def _files_added(folder: Path, stage: str, kind: str, layout: Layout) -> int:
    store = create(folder / "stores", stage, kind, "files", layout)
    counts = []
    for unit in store.units[:2]:
        arrays = {
            name: np.zeros(region_shape(unit, name), store.arrays[name].dtype)
            for name in unit.regions
        }
        attempt = begin(store, unit)
        commit(store, unit, arrays, {}, attempt)
        attempt.finish("committed")
        counts.append(sum(path.is_file() for path in store.path.rglob("*")))
    return counts[1] - counts[0]


# Status


def measure_status(folder: Path, sizes: Sizes) -> Values:
    n = sizes.status_units
    run_folder = folder / "run"
    create_run(run_folder, "many-units", run_folder / "stores")
    empty = [_time_status(run_folder) for _ in range(sizes.repeats)]
    store = _store_of_many(run_folder / "stores", n)
    expected = _fabricate_units(store)
    record_stores(run_folder, "extract", [store])
    _check_fabricated(store, run_folder, expected)
    times = [_time_status(run_folder) for _ in range(sizes.repeats)]
    return {
        "status_20k_units_s": statistics.median(times),
        "status_no_units_s": statistics.median(empty),
        "status_units": n,
    }


def _store_of_many(root: Path, n: int) -> Store:
    return create(root, "extract", "features", "many", sized_features((2, n, 4), 1))


def _time_status(run_folder: Path) -> float:
    return seconds(lambda: _status(run_folder))


def _status(run_folder: Path) -> Values:
    gradenc = Path(sys.executable).with_name("gradenc")
    return dict(json.loads(run([str(gradenc), "status", str(run_folder), "--json"])))


def _fabricate_units(store: Store) -> dict[str, int]:
    """Commit 3 of 4 units, let some fail and some die; return how many there are of each.

    One unit of each outcome is made by the real functions; the others are copies of its files with
    their own names in them, which is what these functions would have written, without the fsyncs.
    """
    n = len(store.units)
    n_committed, n_failed, n_dead = n * 3 // 4, n // 40, n // 40
    committed, failed, dead = (
        store.units[start : start + size]
        for start, size in (
            (0, n_committed),
            (n_committed, n_failed),
            (n_committed + n_failed, n_dead),
        )
    )
    _copy_committed(store, committed)
    attempt = begin(store, failed[0])
    attempt.finish("failed", error="OSError: no space left", traceback="Traceback\n" * 30)
    _copy_attempts(store, failed, attempt)
    attempt = begin(store, dead[0])
    # Another process had this number before: its holder is dead, as after a killed job.
    stale = canonical_json(attempt.record.model_dump() | {"pid_start": 1})
    attempt.path.write_bytes(stale)
    _copy_attempts(store, dead, attempt)
    return {"committed": n_committed, "failed": n_failed, "running": 0, "pending": n - n_committed}


def _copy_committed(store: Store, units: Sequence[Unit]) -> None:
    first = units[0]
    attempt = begin(store, first)
    values = noise(region_shape(first, "features"), 0)
    commit(store, first, {"features": values}, {"micro_batch": 16}, attempt)
    attempt.finish("committed", used={"seconds": 1.0})
    _copy_attempts(store, units, attempt)
    record = json.loads(store.record_path(first).read_bytes())
    (name,) = store.owned_files(first)
    shard = (store.data / name).read_bytes()
    for unit in units[1:]:
        (own,) = store.owned_files(unit)
        files = {own: record["files"][name]}
        _write(store.data / own, shard)
        own_record = {**record, "unit": store.unit_id(unit), "files": files}
        _write(store.record_path(unit), canonical_json(own_record))


def _copy_attempts(store: Store, units: Sequence[Unit], attempt: attempts.Attempt) -> None:
    record = json.loads(attempt.path.read_bytes())
    folder, first = attempt.path.parents[1], f"{units[0].index:05d}."
    ending = attempt.path.name.removeprefix(first)
    for unit in units[1:]:
        path = folder / subfolder(unit.index) / f"{unit.index:05d}.{ending}"
        _write(path, canonical_json({**record, "unit": store.unit_id(unit)}))


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _check_fabricated(store: Store, run_folder: Path, expected: dict[str, int]) -> None:
    """Make sure that the storage takes the copies for its own."""
    for index in (1, expected["committed"] // 2, expected["committed"] - 1):
        if not is_committed(store, store.units[index]):
            raise RuntimeError(f"the copied record of unit {index} is not what commit writes")
    found = _status(run_folder)["stages"]["extract"]
    expected = {**expected, "pending": expected["pending"] - expected["failed"]}
    if any(found[key] != value for key, value in expected.items()):
        raise RuntimeError(f"status counts {found}, fabricated were {expected}")


# Planning


def measure_planning(folder: Path, sizes: Sizes) -> Values:
    """Time the planning of extraction, in one large store and in many small ones."""
    n, n_stores = sizes.plan_units, sizes.plan_stores
    return {
        "plan_100k_units_s": _time_planning(folder / "one", 1, n),
        "plan_100k_units_many_stores_s": _time_planning(folder / "many", n_stores, n // n_stores),
        "plan_units": n,
    }


def _time_planning(folder: Path, n_models: int, n_units: int) -> float:
    """Return the time from a validated and resolved study to its stores, recorded in the run."""
    stimuli = names("images/stimulus", n_units)
    study = _study(n_models)
    resolved = Resolved(
        study=study.model_dump(mode="json"),
        stimuli=str(folder),
        stimulus_ids=tuple(stimuli),
        stimulus_digests=tuple(f"{i:064x}" for i in range(n_units)),
        models=tuple(_resolved_model(model) for model in study.models),
        sources=("forward",),
    )
    seen = Targets("sub-01", "fmri", tuple(stimuli), np.ones(n_units), xr.Dataset())
    prepared = {
        f"prepare/{model.name}": Reference(stage="prepare", identity="planned", seal="planned")
        for model in study.models
    }
    run_folder = RunFolder.create(folder / "run", study.name, folder / "stores", {})
    return seconds(
        lambda: create_stores(
            run_folder, "extract", extract_plans(study, resolved, [seen], prepared)
        )
    )


def _study(n_models: int) -> Study:
    """Return a study with a unit per stimulus; its files need not exist once it is resolved."""
    model = {"library": "torchvision", "architecture": "resnet18", "weights": "untrained"}
    content = {
        "name": "planned",
        "stimuli": "stimuli",
        "models": [{"name": f"model{i}", "seed": i, **model} for i in range(n_models)],
        "signals": ["forward"],
        "responses": [{"reader": "bids", "path": "bids"}],
        "extraction": {"stimuli_per_shard": 1},
    }
    return Study.model_validate(content)


def _resolved_model(model: Model) -> ResolvedModel:
    """Return what `resolve` would find, without building the network."""
    preprocessing = Preprocessing(
        image_size=224,
        resize_size=256,
        squash=False,
        interpolation="bilinear",
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
    )
    spec = ModelSpec(
        **model.model_dump(exclude={"name", "control"}),
        weights_digest=None,
        preprocessing=preprocessing,
    )
    return ResolvedModel(
        name=model.name,
        control=model.control,
        spec=spec,
        layers=tuple(layers_of(24)),
        widths=(384,) * 24,
        n_channels=384,
        n_parameters=22_000_000,
        layer_values=(197 * 384,) * 24,
    )


# Results


OPEN_RUN = """
import pathlib, sys, time
from storage_schemas import open_run
start = time.perf_counter()
open_run(pathlib.Path(sys.argv[1]))
print(time.perf_counter() - start)
"""
"""Imports are not in the time; every file is read anew, from the page cache."""


def measure_open_run(folder: Path, sizes: Sizes) -> Values:
    run_folder = folder / "run"
    create_run(run_folder, "finished", run_folder / "stores")
    n_stores = 0
    for stage, stores in _finished_stages(run_folder / "stores", sizes).items():
        record_stores(run_folder, stage, stores)
        n_stores += len(stores)
    times = [float(fresh_python(OPEN_RUN, str(run_folder))) for _ in range(sizes.repeats)]
    return {"open_run_ms": median_ms(times), "open_run_stores": n_stores}


def _finished_stages(root: Path, sizes: Sizes) -> dict[str, list[Store]]:
    models, subjects = names("model", sizes.models), names("sub-", sizes.subjects)
    stages: dict[str, list[Store]] = {
        "prepare": [],
        "ingest": [_responses_store(root, subject) for subject in subjects],
        "extract": [],
        "encode": [],
        "compare": [],
    }
    for model in models:
        for stage, stores in _model_stores(root, model, subjects):
            stages[stage] += [finish_store(store) for store in stores]
    return stages


N_VOXELS = 5
MM = {"units": "mm"}


def _responses_store(root: Path, subject: str) -> Store:
    stimuli = names("images/stimulus", 20)
    coords: Values = {
        "roi": ("voxel", np.array(["V1"] * N_VOXELS, dtype=object)),
        "hemisphere": ("voxel", np.array(["left"] * N_VOXELS, dtype=object)),
        **{axis: ("voxel", np.arange(N_VOXELS, dtype="float64"), MM) for axis in "xyz"},
        **{axis: ("voxel", np.arange(N_VOXELS)) for axis in "ijk"},
    }
    grid = {"volume_shape": [9, 9, 9], "affine": np.eye(4).ravel().tolist()}
    targets = xr.Dataset(coords=coords, attrs=grid)
    layout = responses_layout(stimuli, stimuli, targets, ["voxel"])
    attrs = {"subject": subject, "modality": "fmri"}
    return finish_store(create(root, "ingest", "responses", f"{subject}-fmri", layout, attrs))


def _model_stores(
    root: Path, model: str, subjects: Sequence[str]
) -> Iterator[tuple[str, list[Store]]]:
    layers, gradient = layers_of(3), "gradient:classification"
    attrs = {"model": model}

    def made(
        stage: str, kind: str, name: str, layout: Layout, more: Values | None = None
    ) -> list[Store]:
        label = f"{model}-{name}".replace(":", "-")
        return [create(root, stage, kind, label, layout, attrs | (more or {}))]

    yield "prepare", made("prepare", "prepared", "weights", prepared_layout())
    classes = classes_layout(layers)
    yield "prepare", made("prepare", "classes", "classes", classes, {"source": gradient})
    for source in ("forward", gradient):
        more = {"source": source}
        features = sized_features((3, 20, 8), 10)
        yield "extract", made("extract", "features", source, features, more)
        cka = collinearity_layout(layers)
        yield "encode", made("encode", "collinearity", f"cka-{source}", cka, more)
    for bands in ("forward", gradient, f"forward_all+{gradient}"):
        scores = _scores_layout(layers, N_VOXELS * len(subjects), banded="+" in bands)
        groups: Values = {"bands": bands, "groups": _groups(subjects), "summary_groups": []}
        yield "encode", made("encode", "scores", f"scores-{bands}", scores, groups)
    tables = comparisons_layout(
        ["forward", gradient], layers, ["V1"], ["distance"], list(subjects), [], []
    )
    yield "compare", made("compare", "comparisons", "comparisons", tables, {"control": False})


def _groups(subjects: Sequence[str]) -> list[Values]:
    return [
        {
            "subject": subject,
            "modality": "fmri",
            "start": i * N_VOXELS,
            "stop": (i + 1) * N_VOXELS,
        }
        for i, subject in enumerate(subjects)
    ]


def _scores_layout(layers: Layers, n_targets: int, banded: bool = False) -> Layout:
    stimuli = names("images/stimulus", 20)
    coords = stimulus_coords(stimuli, stimuli) | {
        "stimulus_fold": ("stimulus", np.arange(20) % 4),
        "stimulus_block": ("stimulus", np.arange(20) % 5),
    }
    return scores_layout(
        layers,
        coords,
        banded=banded,
        n_folds=4,
        n_targets=n_targets,
        n_summaries=6,
        n_bootstrap=10,
        n_permutations=19,
    )


# Chunks


def measure_layouts(folder: Path, sizes: Sizes) -> Values:
    p = sizes.layout_shape[2]
    chunks = [(1, 64, p), (1, 256, p), (1, 512, p), (1, 256, p // 4), (1, 512, p // 4)]
    rows = [
        _measure_layout(folder / "stores", chunk, name, sizes)
        for chunk in chunks
        for name in CODECS
    ]
    return {"layouts": rows}


def _measure_layout(root: Path, chunk: tuple[int, int, int], codec: str, sizes: Sizes) -> Values:
    layout = sized_features(sizes.layout_shape, 512, codec, chunk)
    label = f"{'x'.join(map(str, chunk))}-{codec}"
    store = create(root, "extract", "features", label, layout)
    # Without a warm-up: the median over the units does not see the first one.
    writes = [_time_unit(store, unit) for unit in store.units]
    n_layers, n_stimuli, n_features = sizes.layout_shape
    row_bytes = 4 * n_features
    stored = sum(path.stat().st_size for path in (store.data / "features").rglob("*"))
    features = store.dataset()["features"]
    reads = _time_layout_reads(features, sizes)
    shutil.rmtree(store.path)
    return {
        "chunk": list(chunk),
        "codec": codec,
        "write_mib_s": median_mib_per_s(n_layers * 512 * row_bytes, writes),
        "layer_read_mib_s": median_mib_per_s(n_stimuli * row_bytes, reads["layer"]),
        "slice_ms": median_ms(reads["slice"]),
        "compressed_ratio": n_layers * n_stimuli * row_bytes / stored,
    }


def _time_unit(store: Store, unit: Unit) -> float:
    values = noise(region_shape(unit, "features"), unit.index)
    attempt = begin(store, unit)
    return seconds(lambda: commit(store, unit, {"features": values}, {}, attempt))


def _time_layout_reads(features: xr.DataArray, sizes: Sizes) -> dict[str, list[float]]:
    n_layers, n_stimuli, _ = sizes.layout_shape
    rng = np.random.default_rng(SEED)
    layers = [(layer % n_layers, slice(0, n_stimuli)) for layer in range(sizes.layer_reads)]
    slices = [_random_rows(rng, n_layers, n_stimuli) for _ in range(sizes.reads)]
    return {
        name: [seconds(lambda at=at: _through_store(features, *at)) for at in places]  # type: ignore[misc]
        for name, places in (("layer", layers), ("slice", slices))
    }


# Types


def measure_dtypes(_: Path, sizes: Sizes) -> Values:
    rows = [
        _measure_dtype(data, values, dtype, cast)
        for data, values in _realistic_data(sizes)
        for dtype, cast in CASTS.items()
    ]
    return {"dtypes": rows, "dtypes_sentence": _sentence(rows)}


def _realistic_data(sizes: Sizes) -> Iterator[tuple[str, Array]]:
    """Yield features of real networks, untrained, and gradients of very unequal norms."""
    # Imported here: nothing else needs them, and they take longer than the quick run's stores.
    from gradenc_core.models.model import load_model
    from gradenc_core.signals.extractor import ExtractionOptions, SignalExtractor

    for library, architecture in (("torchvision", "resnet18"), ("timm", "vit_tiny_patch16_224")):
        model = load_model(library, architecture, "untrained", SEED, 64)  # type: ignore[arg-type]
        images = _images(model, sizes.images)
        layers = model.blocks[:: max(1, len(model.blocks) // 4)]
        sources = ["forward", "gradient:energy", "gradient:classification"]
        for scale in ("raw", "unit"):
            options = ExtractionOptions(
                layers,
                projection=1024,
                seed=SEED,
                scale=scale,  # type: ignore[arg-type]
                micro_batch=min(16, sizes.images),
            )
            features = SignalExtractor(model, sources, options)(images)
            for source in sources if scale == "raw" else sources[1:]:
                name = f"{architecture.partition('_')[0]} {source.removeprefix('gradient:')}"
                yield f"{name} {scale}", _rows(features[source])
    rng = np.random.default_rng(SEED)
    norms = np.exp(rng.uniform(np.log(3e-12), np.log(1.2), 64 * sizes.images))[:, None]
    directions = noise((len(norms), 1024), 0)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    yield "own label (synthetic) raw", (directions * norms).astype(np.float32)


def _images(model: Any, n: int) -> Any:
    import torch
    from PIL import Image

    from gradenc_core.stimuli.generated import dead_leaves

    rng = np.random.default_rng(SEED)
    images = [Image.fromarray(dead_leaves(rng, 64)) for _ in range(n)]
    return torch.stack([model.preprocessing.apply(image) for image in images])


def _rows(features: Array) -> Array:
    """Return one row per layer and stimulus."""
    return np.ascontiguousarray(features.reshape(-1, features.shape[-1]))


def _as_float16(values: Array) -> tuple[Array, Array]:
    with np.errstate(over="ignore"):
        stored = values.astype(np.float16)
    return stored, stored.astype(np.float32)


def _as_bfloat16(values: Array) -> tuple[Array, Array]:
    import torch

    stored = torch.from_numpy(values).to(torch.bfloat16)
    return stored.view(torch.int16).numpy(), stored.float().numpy()


def _as_float32(values: Array) -> tuple[Array, Array]:
    return values, values


def _rounded_to(bits: int) -> Callable[[Array], tuple[Array, Array]]:
    """Return float32 with this many bits of mantissa, the others 0: compresses, keeps the range."""
    from numcodecs import BitRound  # type: ignore[import-untyped]

    def cast(values: Array) -> tuple[Array, Array]:
        # BitRound encodes to integers in place of the values given.
        rounded = np.asarray(BitRound(bits).encode(values.copy())).view(np.float32)
        rounded = rounded.reshape(values.shape)
        return rounded, rounded

    return cast


CASTS: dict[str, Callable[[Array], tuple[Array, Array]]] = {
    "float16": _as_float16,
    "bfloat16": _as_bfloat16,
    "float32": _as_float32,
    "float32, 10 bits": _rounded_to(10),
}
"""Type -> (what is stored, what is read back as float32)."""


def _measure_dtype(
    data: str, values: Array, dtype: str, cast: Callable[[Array], tuple[Array, Array]]
) -> Values:
    stored, back = cast(values)
    present = values != 0
    lost = present & (back == 0)
    over = present & ~np.isfinite(back)
    # An overflow is as bad as a value gone; as an infinity it would hide all others' error.
    errors = _relative_errors(values, np.where(over, 0, back))
    return {
        "data": data,
        "dtype": dtype,
        "share_to_zero": float(lost.sum() / present.sum()),
        "share_overflow": float(over.sum() / present.sum()),
        "median_relative_error": float(np.median(errors)),
        "max_relative_error": float(errors.max()),
        "zstd_ratio": values.nbytes / _compressed(stored, shuffled=False),
        "shuffle_zstd_ratio": values.nbytes / _compressed(stored, shuffled=True),
    }


def _relative_errors(values: Array, back: Array) -> Array:
    """Return |error| / |row| of every row that is not zero."""
    # In float64: squares of 1e-30 are no float32.
    norms = np.linalg.norm(values.astype(np.float64), axis=1)
    errors = np.linalg.norm(values.astype(np.float64) - back, axis=1)
    return np.asarray(errors[norms > 0] / norms[norms > 0])


def _compressed(stored: Array, shuffled: bool) -> int:
    from numcodecs import Shuffle, Zstd

    content = np.ascontiguousarray(stored).ravel()
    if shuffled:
        content = Shuffle(stored.itemsize).encode(content)
    return len(Zstd(level=0).encode(content))


def _sentence(rows: Sequence[Values]) -> str:
    def worst(dtype: str, key: str) -> str:
        row = max((row for row in rows if row["dtype"] == dtype), key=lambda row: row[key])
        return f"{row[key]:.2g} ({row['data']})" if row[key] else "0"

    parts = [
        f"{dtype}: share of values that become 0 at most {worst(dtype, 'share_to_zero')}, error at "
        f"most {worst(dtype, 'max_relative_error')} of a stimulus's norm"
        for dtype in ("float16", "bfloat16")
    ]
    best = max(row["zstd_ratio"] for row in rows if row["dtype"] == "float32")
    return f"{'; '.join(parts)}; zstd makes float32 at most {best:.2f} times smaller."


MEASURES: list[Callable[[Path, Sizes], Values]] = [
    measure_writing,
    measure_reading,
    measure_files,
    measure_status,
    measure_planning,
    measure_open_run,
    measure_layouts,
    measure_dtypes,
]


if __name__ == "__main__":
    main()
