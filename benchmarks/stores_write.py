"""How fast units are committed, next to plain writes on the same disk.

    python benchmarks/stores_write.py [--folder DIR] [--toy]

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
files_per_unit
    Files that the second unit of a store adds, over the kinds of stores.
"""

import shutil
from pathlib import Path

import numpy as np
from _stores import (
    Array,
    Sizes,
    Values,
    begin,
    create,
    layers_of,
    noise,
    region_shape,
    run_benchmark,
    scores_of,
    sized_features,
)
from _timing import (
    Line,
    in_turn,
    median_mib_per_s,
    ratios,
    write_plainly,
)

from storage_schemas.layout import Layout
from storage_schemas.protocol.commit import commit
from storage_schemas.protocol.store import Store, Unit

LINES = [
    Line("write_vs_raw", "commit of a unit / plain write, uncompressed", 4),
    Line("write_vs_raw_zstd", "commit of a unit / plain write, zstd"),
    Line("raw_vs_raw", "plain write / the same plain write"),
    Line("write_mib_s", "commit, uncompressed (MiB/s)"),
    Line("raw_mib_s", "plain write (MiB/s)"),
    Line("files_per_unit", "most files that one more unit adds", 6),
]


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


def measure_files(folder: Path, _: Sizes) -> Values:
    """Count the files that the second unit of a store adds; the first also makes the folders."""
    layers = layers_of(3)
    layouts = {
        "features": ("extract", sized_features((3, 64, 8), 16)),
        "scores": ("encode", scores_of(layers, 20)),
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


def measure(folder: Path, sizes: Sizes) -> Values:
    return measure_writing(folder, sizes) | measure_files(folder, sizes)


if __name__ == "__main__":
    run_benchmark("writing stores", LINES, measure)
