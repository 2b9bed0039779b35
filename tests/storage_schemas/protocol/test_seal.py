import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from storage_schemas.protocol import attempts
from storage_schemas.protocol import seal as seal_module
from storage_schemas.protocol.commit import commit, is_committed, withdraw
from storage_schemas.protocol.seal import Unsealable, run_digest, seal
from storage_schemas.protocol.store import Store

MakeStore = Callable[..., Store]
CommitAll = Callable[[Store], None]


def test_digest_is_over_sorted_units_files_sizes_and_checksums(
    make_store: MakeStore, commit_all: CommitAll
) -> None:
    store = make_store()
    commit_all(store)
    entries = []
    for unit in store.units:
        record = json.loads(store.record_path(unit).read_text())
        ((name, file),) = record["files"].items()
        entries.append([store.unit_id(unit), name, file["size"], file["crc32c"]])
    text = json.dumps(sorted(entries), separators=(",", ":")).encode()
    statement = seal(store)
    assert statement.digest == hashlib.sha256(text).hexdigest()
    assert statement.digest == run_digest([store])
    assert store.sealed() == statement
    assert statement.units == 4


def test_sealing_again_gives_the_same_seal(make_store: MakeStore, commit_all: CommitAll) -> None:
    store = make_store()
    commit_all(store)
    first = seal(store)
    written = store.seal_path.stat()
    assert seal(store) == first
    again = store.seal_path.stat()
    assert (again.st_ino, again.st_mtime_ns) == (written.st_ino, written.st_mtime_ns)


def test_unsealable_store_names_units_and_remedy(
    make_store: MakeStore, commit_all: CommitAll
) -> None:
    store = make_store(n_units=9)
    commit_all(store)
    flipped = store.data / store.owned_files(store.units[4])[0]
    data = flipped.read_bytes()
    flipped.write_bytes(data[:9] + bytes([data[9] ^ 255]) + data[10:])
    withdraw(store, store.units[7])
    with pytest.raises(Unsealable, match="2 of 9 units are not in order") as caught:
        seal(store)
    assert caught.value.problems.keys() == {4, 7}
    assert str(flipped) in str(caught.value)
    assert f"unit {store.unit_id(store.units[7])}: it is not committed" in str(caught.value)
    assert "resume the run" in str(caught.value)
    assert store.sealed() is None


def test_only_the_first_problems_are_spelled_out(make_store: MakeStore) -> None:
    with pytest.raises(Unsealable, match=r"20 of 20 units .*\(and 15 more\)"):
        seal(make_store(n_units=20))


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b'{"identity": "another"}'])
def test_damaged_seal_is_none_and_is_replaced(
    make_store: MakeStore, commit_all: CommitAll, content: bytes
) -> None:
    store = make_store()
    commit_all(store)
    expected = seal(store)
    store.seal_path.write_bytes(content)
    assert store.sealed() is None
    assert seal(store) == expected
    assert store.sealed() == expected


def test_run_digest_depends_on_bytes_alone(
    make_store: MakeStore, commit_all: CommitAll, tmp_path: Path
) -> None:
    here = [make_store(), make_store(seed=1)]
    there = [make_store(root=tmp_path / "b"), make_store(root=tmp_path / "b", seed=1)]
    for store in [*here, *there]:
        commit_all(store)
    assert run_digest(here) == run_digest(there[::-1])
    assert run_digest(here) != run_digest(here[:1])


def test_run_digest_of_unfinished_stores_is_refused(
    make_store: MakeStore, commit_all: CommitAll
) -> None:
    store = make_store()
    commit_all(store)
    withdraw(store, store.units[2])
    with pytest.raises(Unsealable, match="1 of 4 units"):
        run_digest([store])


@pytest.mark.parametrize("moment", ["before the seal is written", "after the check"])
def test_no_seal_stands_over_a_unit_that_is_withdrawn_meanwhile(
    make_store: Callable[..., Store],
    commit_all: Callable[[Store], None],
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
) -> None:
    """Another run that shares the store withdraws a unit in the midst of sealing."""
    store = make_store()
    commit_all(store)
    name = {"before the seal is written": "digest", "after the check": "_remove_orphans"}[moment]
    step = getattr(seal_module, name)

    def withdraw_first(*arguments: object) -> object:
        withdraw(store, store.units[2])
        return step(*arguments)

    monkeypatch.setattr(seal_module, name, withdraw_first)
    with pytest.raises(Unsealable, match="00002"):
        seal(store)
    assert store.sealed() is None
    monkeypatch.undo()
    commit_all_missing(store)
    assert seal(store).units == len(store.units)


def commit_all_missing(store: Store) -> None:
    for unit in store.units:
        if not is_committed(store, unit):
            attempt = attempts.begin(store, unit, job="test", round_=1)
            assert attempt is not None
            values = {"features": np.ones([b - a for a, b in unit.regions["features"]], "float32")}
            commit(store, unit, values, {}, attempt)
            attempt.finish("committed")
