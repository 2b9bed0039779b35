"""How long `gradenc status` takes where a stage has many units.

    python benchmarks/stores_status.py [--folder DIR] [--toy]

Three of four units are committed, some failed, some died; one of each is made by the real
functions, the others are copies with their own names.
"""

import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from _stores import (
    Sizes,
    Values,
    begin,
    create,
    noise,
    region_shape,
    run_benchmark,
    sized_features,
)
from _timing import (
    Line,
    run,
    seconds,
)

from storage_schemas.identity import canonical_json
from storage_schemas.protocol import attempts
from storage_schemas.protocol.commit import commit, is_committed
from storage_schemas.protocol.store import Store, Unit, subfolder
from storage_schemas.runs.run import create_run, record_stores

LINES = [
    Line("status_20k_units_s", "gradenc status, many units (s)", 2),
    Line("status_no_units_s", "gradenc status, no stage planned (s)"),
]


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


if __name__ == "__main__":
    run_benchmark("status", LINES, measure_status)
