"""A store's plan, metadata and coordinates: compared with their copy and put back from it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from storage_schemas.protocol.frame import frame_problems, keep_copy, mend_frame
from storage_schemas.protocol.seal import seal
from storage_schemas.protocol.store import Store

MakeStore = Callable[..., Store]
CommitAll = Callable[[Store], None]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "flipped": flip,
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "deleted": Path.unlink,
}
FILES = (
    "plan.json",
    "data.zarr/zarr.json",
    "data.zarr/features/zarr.json",
    "data.zarr/layer/c/0",
    "data.zarr/stimulus_digest/c/0",
)


def times(store: Store) -> dict[Path, tuple[int, int]]:
    files = [path for path in store.path.rglob("*") if path.is_file()]
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_damage_is_named_and_put_back_alone(
    make_store: MakeStore, commit_all: CommitAll, name: str, damage: str
) -> None:
    store = make_store()
    commit_all(store)
    seal(store)
    assert frame_problems(store.path) == []
    path = store.path / name
    content, before = path.read_bytes(), times(store)
    DAMAGES[damage](path)
    (sentence,) = frame_problems(store.path)
    assert str(path) in sentence
    assert mend_frame(store.path) == [name]
    assert path.read_bytes() == content
    after = times(store)
    assert {file for file in before if after[file] != before[file]} == {path}
    assert after.keys() == before.keys()
    assert mend_frame(store.path) == frame_problems(store.path) == []


def test_lost_names_are_put_back_before_the_seal(
    make_store: MakeStore, commit_all: CommitAll
) -> None:
    """A missing chunk of coordinates would read as empty names; it is refused instead."""
    store = make_store()
    commit_all(store)
    (store.data / "layer" / "c" / "0").unlink()
    with pytest.raises(ValueError, match="layer/c/0 is missing"):
        store.dataset()
    seal(store)
    assert store.dataset()["layer"].values.tolist() == ["conv1", "fc"]


def test_inputs_may_move(make_store: MakeStore) -> None:
    store = make_store()
    path = store.path / "plan.json"
    path.write_text(
        json.dumps({**json.loads(path.read_text()), "locations": {"stimuli": "/elsewhere"}})
    )
    assert frame_problems(store.path) == []


def test_a_damaged_copy_is_not_used(make_store: MakeStore) -> None:
    store = make_store()
    (copy,) = store.path.glob("frame-*.zip")
    flip(copy)
    (sentence,) = frame_problems(store.path)
    assert str(copy) in sentence
    with pytest.raises(ValueError, match="delete this one file"):
        mend_frame(store.path)
    copy.unlink()
    assert mend_frame(store.path) == frame_problems(store.path) == []


def test_copies_of_equal_folders_are_equal(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_text("x")
        keep_copy(tmp_path / name)
    copies = [sorted(p.name for p in (tmp_path / name).iterdir()) for name in ("a", "b")]
    assert copies[0] == copies[1]
    assert len(copies[0]) == 2
