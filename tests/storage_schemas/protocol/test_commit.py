import json
import os
import random
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from storage_schemas.layout import ArrayLayout, Layout, Unit
from storage_schemas.protocol import attempts
from storage_schemas.protocol.attempts import Attempt, LostLease
from storage_schemas.protocol.commit import (
    commit,
    committed_units,
    is_committed,
    problems,
    withdraw,
)
from storage_schemas.protocol.new_store import NewStore
from storage_schemas.protocol.records import ArrayRecord
from storage_schemas.protocol.seal import seal
from storage_schemas.protocol.store import Store

MakeStore = Callable[..., Store]
Values = Callable[[Store, Unit], dict[str, np.ndarray]]


def begin(store: Store, unit: Unit) -> Attempt:
    attempt = attempts.begin(store, unit, job="test", round_=0)
    assert attempt is not None
    return attempt


def shard(store: Store, unit: Unit) -> Path:
    return store.data / store.owned_files(unit)[0]


def test_record_describes_files_arrays_and_facts(make_store: MakeStore) -> None:
    store = make_store()
    unit = store.units[3]
    array = np.array([1, -2, np.nan, np.inf, 0, 0, 0, 5] * 2, "float32").reshape(2, 1, 8)
    attempt = begin(store, unit)
    record = commit(store, unit, {"features": array}, {"micro_batch": 4}, attempt)
    assert asdict(record) == json.loads(store.record_path(unit).read_text())
    assert record.unit == store.unit_id(unit)
    assert record.files.keys() == {"features/c/0/3/0"}
    assert record.files["features/c/0/3/0"].size == shard(store, unit).stat().st_size
    assert record.arrays == {"features": ArrayRecord(nan=2, inf=2, min=-2.0, max=5.0)}
    assert record.facts == {"micro_batch": 4}
    assert is_committed(store, unit)
    assert committed_units(store) == {3}
    np.testing.assert_array_equal(store.dataset()["features"][:, 6:7], array)


def test_unfinished_records_are_not_counted(make_store: MakeStore, values: Values) -> None:
    store = make_store()
    unit = store.units[0]
    commit(store, unit, values(store, unit), {}, begin(store, unit))
    (store.path / "commits" / "00" / "00001.json.0123.partial").touch()
    (store.path / "commits" / "00" / "._00002.json").touch()  # as on some network file systems
    (store.path / "commits" / ".DS_Store").touch()
    assert committed_units(store) == {0}


def test_lost_folders_of_records_are_empty_ones(
    make_store: MakeStore, commit_all: Callable[[Store], None]
) -> None:
    store = make_store()
    commit_all(store)
    for name in ("commits", "attempts"):
        shutil.rmtree(store.path / name)
    assert committed_units(store) == set()
    assert attempts.latest_attempts(store) == {}
    commit_all(store)
    assert seal(store).units == 4


def test_units_of_fill_values_alone_are_written(
    make_store: MakeStore, commit_all: Callable[[Store], None], values: Values
) -> None:
    store = make_store()
    commit_all(store)
    for unit, expected in ((store.units[1], np.nan), (store.units[2], 0)):
        assert np.array_equal(
            values(store, unit)["features"], np.full((2, 2, 8), expected), equal_nan=True
        )
        assert shard(store, unit).stat().st_size > 0
        assert problems(store, unit, deep=True) == []
    record = json.loads(store.record_path(store.units[1]).read_text())
    assert record["arrays"]["features"] == {"nan": 32, "inf": 0, "min": None, "max": None}


def test_valid_unit_is_not_written_again(make_store: MakeStore, values: Values) -> None:
    store = make_store()
    unit = store.units[0]
    attempt = begin(store, unit)
    first = commit(store, unit, values(store, unit), {}, attempt)
    written = shard(store, unit).stat()
    other = {"features": np.zeros((2, 2, 8), "float32")}
    assert commit(store, unit, other, {"micro_batch": 1}, attempt) == first
    again = shard(store, unit).stat()
    assert (again.st_ino, again.st_mtime_ns) == (written.st_ino, written.st_mtime_ns)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, r"needs arrays \['features'\], not \[\]"),
        ({"features": np.zeros((2, 2, 7), "float32")}, r"array features must have shape and dtype"),
        ({"features": np.zeros((2, 2, 8), "float64")}, r"array features must have shape and dtype"),
    ],
)
def test_wrong_arrays_are_refused_before_anything_is_touched(
    make_store: MakeStore, values: Values, arrays: dict[str, np.ndarray], message: str
) -> None:
    store = make_store()
    unit = store.units[0]
    attempt = begin(store, unit)
    commit(store, unit, values(store, unit), {}, attempt)
    before = shard(store, unit).read_bytes()
    with pytest.raises(ValueError, match=message):
        commit(store, unit, arrays, {}, attempt)
    assert shard(store, unit).read_bytes() == before
    assert is_committed(store, unit)


def test_facts_must_be_json(make_store: MakeStore, values: Values) -> None:
    store = make_store()
    unit = store.units[0]
    with pytest.raises(ValueError, match="JSON"):
        commit(store, unit, values(store, unit), {"loss": float("nan")}, begin(store, unit))
    assert not shard(store, unit).exists()


def test_attempt_at_another_unit_is_refused(make_store: MakeStore, values: Values) -> None:
    store = make_store()
    first, second = store.units[:2]
    with pytest.raises(ValueError, match="cannot commit"):
        commit(store, second, values(store, second), {}, begin(store, first))


def test_superseded_attempt_cannot_commit(make_store: MakeStore, values: Values) -> None:
    store = make_store()
    unit = store.units[0]
    old = begin(store, unit)
    old.finish("stopped")
    new = begin(store, unit)
    with pytest.raises(LostLease, match="attempt 1 was taken for dead and superseded by attempt 2"):
        commit(store, unit, values(store, unit), {}, old)
    assert not shard(store, unit).exists()
    commit(store, unit, values(store, unit), {}, new)
    assert is_committed(store, unit)


def flip_byte(store: Store, unit: Unit) -> None:
    data = bytearray(shard(store, unit).read_bytes())
    data[len(data) // 2] ^= 1
    shard(store, unit).write_bytes(data)


def truncate_file(store: Store, unit: Unit) -> None:
    shard(store, unit).write_bytes(shard(store, unit).read_bytes()[:-7])


def delete_file(store: Store, unit: Unit) -> None:
    shard(store, unit).unlink()


def tear_record(store: Store, unit: Unit) -> None:
    path = store.record_path(unit)
    path.write_bytes(path.read_bytes()[:50])


def empty_record(store: Store, unit: Unit) -> None:
    store.record_path(unit).write_bytes(b"")


def foreign_record(store: Store, unit: Unit) -> None:
    other = store.record_path(store.units[0]).read_bytes()
    store.record_path(unit).write_bytes(other)


def edit_record(store: Store, unit: Unit, **changes: Any) -> None:
    record = json.loads(store.record_path(unit).read_text())
    store.record_path(unit).write_text(json.dumps({**record, **changes}))


def record_without_files(store: Store, unit: Unit) -> None:
    edit_record(store, unit, files={})


def record_with_nonsense(store: Store, unit: Unit) -> None:
    edit_record(store, unit, files={"features/c/0/3/0": 3})


def record_of_other_identity(store: Store, unit: Unit) -> None:
    edit_record(store, unit, identity="0" * 64)


def delete_record(store: Store, unit: Unit) -> None:
    store.record_path(unit).unlink()


DAMAGES = [
    (truncate_file, r"file .*features/c/0/3/0 has \d+ bytes, its record says \d+"),
    (delete_file, r"file .*features/c/0/3/0 is missing"),
    (tear_record, r"record .*commits/00/00003\.json is damaged or another unit's"),
    (empty_record, r"record .*commits/00/00003\.json is damaged or another unit's"),
    (foreign_record, r"record .*commits/00/00003\.json is damaged or another unit's"),
    (record_of_other_identity, r"record .*commits/00/00003\.json is damaged or another unit's"),
    (record_without_files, r"record .*commits/00/00003\.json does not list the unit's files"),
    (record_with_nonsense, r"record .*commits/00/00003\.json does not describe the unit's files"),
    (delete_record, r"not committed \(.*commits/00/00003\.json is missing\)"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES)
def test_damage_is_named_and_repaired_by_committing_again(
    make_store: MakeStore,
    commit_all: Callable[[Store], None],
    values: Values,
    damage: Callable[[Store, Unit], None],
    message: str,
) -> None:
    store = make_store()
    commit_all(store)
    before = seal(store).digest
    unit = store.units[3]
    damage(store, unit)
    for deep in (False, True):
        (sentence,) = problems(store, unit, deep)
        assert sentence.startswith(f"unit {store.unit_id(unit)}: ")
        assert re.search(message, sentence)
    assert not is_committed(store, unit)
    assert all(is_committed(store, other) for other in store.units[:3])
    commit(store, unit, values(store, unit), {}, begin(store, unit))
    assert problems(store, unit, deep=True) == []
    assert seal(store).digest == before


def test_flipped_byte_is_found_by_the_deep_check_and_repaired(
    make_store: MakeStore, commit_all: Callable[[Store], None], values: Values
) -> None:
    store = make_store()
    commit_all(store)
    before = seal(store).digest
    unit = store.units[0]
    flip_byte(store, unit)
    assert problems(store, unit, deep=False) == []
    (sentence,) = problems(store, unit, deep=True)
    assert str(shard(store, unit)) in sentence
    assert "does not have the checksum in its record" in sentence
    withdraw(store, unit)
    assert store.sealed() is None
    assert not is_committed(store, unit)
    commit(store, unit, values(store, unit), {}, begin(store, unit))
    assert seal(store).digest == before


def test_garbage_left_in_a_shard_does_not_survive(make_store: MakeStore, values: Values) -> None:
    """A torn shard made every retry fail where it was read before it was written."""
    store = make_store()
    unit = store.units[3]
    shard(store, unit).parent.mkdir(parents=True)
    shard(store, unit).write_bytes(b"torn")
    shard(store, unit).with_name("0.1234.partial").write_bytes(b"orphan")
    commit(store, unit, values(store, unit), {}, begin(store, unit))
    assert problems(store, unit, deep=True) == []
    assert not list(store.path.rglob("*.partial"))


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_what_is_committed_is_read_back(data: st.DataObject) -> None:
    """Any shape, chunks, shards, unit boundaries and order: no unit disturbs another."""
    shape, chunks, shards = _draw_layout(data)
    layout = ArrayLayout("x", ("a", "b"), shape, "float32", chunks, shards, "1", "x")
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, layout.grid[0] - 1)), max_size=3)))
    edges = [0, *(c * shards[0] for c in cuts if c < layout.grid[0]), shape[0]]
    boxes = [[(a, b), (0, shape[1])] for a, b in pairwise(edges)]
    units = [Unit(i, "u", {}, {"x": box}) for i, box in enumerate(boxes)]
    expected = np.random.default_rng(0).standard_normal(shape).astype("float32")
    expected[::2, ::3] = np.nan
    with tempfile.TemporaryDirectory() as root:
        store = Store.create(
            Path(root),
            NewStore("s", "features", "x", {}, Layout((layout,), xr.Dataset(), tuple(units))),
        )
        order = data.draw(st.permutations(units))
        for unit in order:
            (a, b), _ = unit.regions["x"]
            commit(store, unit, {"x": expected[a:b]}, {}, begin(store, unit))
        assert all(problems(store, unit, deep=True) == [] for unit in units)
        stored = zarr.open_array(store.data / "x", mode="r")
        np.testing.assert_array_equal(stored[...], expected)


def _draw_layout(
    data: st.DataObject,
) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    shape = tuple(data.draw(st.integers(1, 9)) for _ in range(2))
    chunks = tuple(data.draw(st.integers(1, 4)) for _ in range(2))
    shards = tuple(chunk * data.draw(st.integers(1, 3)) for chunk in chunks)
    return shape, chunks, shards  # type: ignore[return-value]


def test_bytes_do_not_depend_on_order_or_earlier_attempts(
    make_store: MakeStore, tmp_path: Path, values: Values
) -> None:
    def digest(root: Path, seed: int) -> str:
        store = make_store(root=root)
        units = list(store.units)
        random.Random(seed).shuffle(units)
        for unit in units:
            for _ in range(seed):
                begin(store, unit).finish("failed", error="no memory")
            commit(store, unit, values(store, unit), {"seed": seed}, begin(store, unit))
        return str(seal(store).digest)

    assert digest(tmp_path / "a", 1) == digest(tmp_path / "b", 2)


class Superseding(dict[str, np.ndarray]):
    """Arrays of a unit that is taken over by another attempt while they are being written."""

    def __init__(
        self, arrays: dict[str, np.ndarray], store: Store, unit: Unit, mine: Attempt
    ) -> None:
        super().__init__(arrays)
        self.reads, self.store, self.unit, self.mine = 0, store, unit, mine

    def __getitem__(self, name: str) -> np.ndarray:
        self.reads += 1
        if self.reads == 3:  # shape, dtype, then the values to be written
            self.mine.finish("stopped")
            begin(self.store, self.unit)
        return super().__getitem__(name)


def test_attempt_superseded_while_it_writes_leaves_no_record(
    make_store: MakeStore, values: Values
) -> None:
    store = make_store()
    unit = store.units[0]
    attempt = begin(store, unit)
    arrays = Superseding(values(store, unit), store, unit, attempt)
    with pytest.raises(LostLease):
        commit(store, unit, arrays, {}, attempt)
    assert shard(store, unit).exists(), "the takeover came before the writing"
    assert committed_units(store) == set()


def test_data_are_on_the_disk_before_their_record(
    make_store: MakeStore, values: Values, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill cannot show this, a power cut would: watch what is flushed before the link."""
    store = make_store()
    unit = store.units[0]
    attempt = begin(store, unit)
    flushed: list[str] = []
    at_link: list[list[str]] = []
    fsync, link = os.fsync, os.link

    def watched_fsync(descriptor: int) -> None:
        flushed.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    def watched_link(source: Path, target: Path) -> None:
        at_link.append([str(source), *flushed])
        flushed.clear()
        link(source, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "link", watched_link)
    commit(store, unit, values(store, unit), {}, attempt)
    ((source, *before),) = at_link
    path = shard(store, unit)
    array = store.data / "features"
    needed = [path, path.parent, path.parent.parent, path.parent.parent.parent, array]
    assert {str(p) for p in needed} <= set(before)
    assert before.index(str(path)) < before.index(source)
    assert str(store.record_path(unit).parent) in flushed
