"""Commit of a unit: its record is the only proof that it is done.

A process may be killed at any instruction. Whatever it leaves, the record either is absent, and the
unit is made again from nothing, or describes files that were on the disk before it was written.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from storage_schemas import files
from storage_schemas.identity import FORMAT_VERSION, canonical_json
from storage_schemas.protocol.attempts import Attempt, LostLease
from storage_schemas.protocol.records import ArrayRecord, CommitRecord, FileRecord
from storage_schemas.protocol.store import Store, Unit, scan
from storage_schemas.records import parse

# By default zarr writes no file where all is fill value; a record needs every file it names. Only
# the global setting holds for arrays that are opened again.
zarr.config.set({"array.write_empty_chunks": True})

Arrays = Mapping[str, NDArray[Any]]
Facts = Mapping[str, Any]
"""JSON; how a unit was made (micro-batch, alphas on a bound, ...)."""


def commit(
    store: Store, unit: Unit, arrays: Arrays, facts: Facts, attempt: Attempt
) -> CommitRecord:
    """Write a unit's arrays, then its record; return the record (the old one if committed).

    Parameters
    ----------
    arrays : mapping of str to array
        For every array of `unit.regions`, the region's values in its shape and the array's dtype.
    facts : mapping
        JSON; how it was made (micro-batch, alphas on a bound, ...).
    attempt : Attempt
        The attempt that holds the unit.

    Raises
    ------
    ValueError
        For arrays that are not the unit's; nothing has been touched then.
    LostLease
        If another attempt holds the unit.
    OSError
        If a file cannot be written; the unit is uncommitted then, all others are as they were.
    """
    _check_arrays(store, unit, arrays)
    canonical_json(facts)
    if attempt.unit != store.unit_id(unit):
        raise ValueError(f"attempt of unit {attempt.unit} cannot commit {store.unit_id(unit)}")
    existing = _record(store, unit)
    if isinstance(existing, CommitRecord) and not _files_problems(store, existing, deep=False):
        return existing
    attempt.require_lease()
    # The proof goes before what it proves: at no time does a record describe other bytes.
    withdraw(store, unit)
    # Files go before they are written: zarr would read, and fail on, a damaged shard.
    _remove_files(store, unit)
    _write_shards(store, unit, arrays)
    # Data reach the disk before the record: after a power cut no record is ahead of its data.
    _sync_files(store, unit)
    record = _new_record(store, unit, arrays, facts, attempt)
    # Looked up again, as late as can be: writing took long enough to be superseded.
    attempt.require_lease()
    if not files.write_exclusive(store.record_path(unit), canonical_json(asdict(record))):
        raise LostLease(f"unit {attempt.unit} was committed by another attempt meanwhile")
    return record


def is_committed(store: Store, unit: Unit) -> bool:
    """Say whether the unit's record is valid and its files have the sizes it states."""
    return not problems(store, unit, deep=False)


def problems(store: Store, unit: Unit, deep: bool) -> list[str]:
    """Return why the unit does not count as committed, a sentence for each reason.

    Parameters
    ----------
    deep : bool
        Also compare the checksums of the files, which reads them whole.
    """
    record = _record(store, unit)
    complaints = [record] if isinstance(record, str) else _files_problems(store, record, deep)
    return [f"unit {store.unit_id(unit)}: {complaint}" for complaint in complaints]


def committed_units(store: Store) -> set[int]:
    """Return the indices of units that have a record, in one pass over their names.

    For status and planning. The records are not read: `is_committed` and `seal` do that.
    """
    stems = (entry.name.removesuffix(".json") for entry in scan(store.path / "commits"))
    # Other names are skipped: some file systems put ``._00001.json`` beside a file.
    return {int(stem) for stem in stems if stem.isdigit()}


def record_of(store: Store, unit: Unit) -> CommitRecord | None:
    """Return a unit's record; None if there is none, or it is damaged or another unit's."""
    record = _record(store, unit)
    return record if isinstance(record, CommitRecord) else None


def facts_of(store: Store, unit: Unit) -> Facts:
    """Return the facts that were committed with a unit's arrays; none if it is not committed."""
    record = record_of(store, unit)
    return record.facts if record else {}


def withdraw(store: Store, unit: Unit) -> None:
    """Make a unit uncommitted, so that it is made again (e.g. after a failed deep check)."""
    # The seal first: it may never stand over a unit without a record. And again at the end: whoever
    # was sealing meanwhile either wrote it before that, or will not find the record (see `seal`).
    files.remove(store.seal_path)
    files.remove(store.record_path(unit))
    files.remove(store.seal_path)


def _check_arrays(store: Store, unit: Unit, arrays: Arrays) -> None:
    name = store.unit_id(unit)
    if set(arrays) != set(unit.regions):
        raise ValueError(f"unit {name} needs arrays {sorted(unit.regions)}, not {sorted(arrays)}")
    for array, region in unit.regions.items():
        expected = (tuple(stop - start for start, stop in region), store.arrays[array].dtype)
        given = (arrays[array].shape, str(arrays[array].dtype))
        if given != (expected[0], str(np.dtype(expected[1]))):
            raise ValueError(
                f"unit {name}: array {array} must have shape and dtype {expected}, not {given}"
            )


def _remove_files(store: Store, unit: Unit) -> None:
    owned = [store.data / name for name in store.owned_files(unit)]
    for path in owned:
        files.remove(path)
    files.remove_partials([*owned, store.record_path(unit)])


def _write_shards(store: Store, unit: Unit, arrays: Arrays) -> None:
    for name, region in unit.regions.items():
        with files.explained("write", store.data / name):
            array = zarr.open_array(store.data / name, mode="r+")
            array[tuple(slice(start, stop) for start, stop in region)] = arrays[name]


def _sync_files(store: Store, unit: Unit) -> None:
    owned = [store.data / name for name in store.owned_files(unit)]
    for path in owned:
        files.sync_file(path)
    for folder in {parent for path in owned for parent in _parents(path, store.data)}:
        files.sync_folder(folder)


def _parents(path: Path, top: Path) -> list[Path]:
    return [parent for parent in path.parents if parent.is_relative_to(top) and parent != top]


def _new_record(
    store: Store, unit: Unit, arrays: Arrays, facts: Facts, attempt: Attempt
) -> CommitRecord:
    return CommitRecord(
        version=FORMAT_VERSION,
        unit=store.unit_id(unit),
        identity=store.identity,
        files={name: _describe_file(store.data / name) for name in store.owned_files(unit)},
        arrays={name: _describe_array(array) for name, array in arrays.items()},
        facts=facts,
        attempt=attempt.n,
    )


def _describe_file(path: Path) -> FileRecord:
    return FileRecord(size=path.stat().st_size, crc32c=files.checksum(path))


def _describe_array(array: NDArray[Any]) -> ArrayRecord:
    """Count what is not finite and give the range of what is (None if nothing is)."""
    if array.size and np.isfinite(low := array.min()) and np.isfinite(high := array.max()):
        # The usual case, without masks as large as the unit: NaN and infinity would show here.
        return ArrayRecord(nan=0, inf=0, min=low.item(), max=high.item())
    n_nan = int(np.isnan(array).sum())
    values = array[np.isfinite(array)]
    return ArrayRecord(
        nan=n_nan,
        inf=int(array.size - values.size) - n_nan,
        min=values.min().item() if values.size else None,
        max=values.max().item() if values.size else None,
    )


def _record(store: Store, unit: Unit) -> CommitRecord | str:
    """Return the unit's record, or why it does not have one."""
    path = store.record_path(unit)
    found = files.read_json(path)
    if found is None and not path.exists():
        return f"it is not committed ({path} is missing)"
    owner = (store.unit_id(unit), store.identity)
    if found is None or (found.get("unit"), found.get("identity")) != owner:
        return f"its record {path} is damaged or another unit's"
    recorded = found.get("files")
    if not isinstance(recorded, dict) or sorted(recorded) != store.owned_files(unit):
        return f"its record {path} does not list the unit's files"
    try:
        return parse(CommitRecord, found)
    except ValueError as reason:
        return f"its record {path} does not describe the unit's files ({reason})"


def _files_problems(store: Store, record: CommitRecord, deep: bool) -> list[str]:
    return [
        complaint
        for name, recorded in record.files.items()
        for complaint in _file_problems(store.data / name, recorded, deep)
    ]


def _file_problems(path: Path, recorded: FileRecord, deep: bool) -> list[str]:
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return [f"file {path} is missing"]
    if size != recorded.size:
        return [f"file {path} has {size} bytes, its record says {recorded.size}"]
    if deep and files.checksum(path) != recorded.crc32c:
        return [f"file {path} does not have the checksum in its record: its content was changed"]
    return []
