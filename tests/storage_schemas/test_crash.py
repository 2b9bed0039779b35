import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from storage_schemas.protocol.commit import committed_units, is_committed, problems
from storage_schemas.protocol.seal import run_digest, seal
from storage_schemas.protocol.store import Store

MakeStore = Callable[..., Store]
StartWriter = Callable[..., "subprocess.Popen[str]"]


def partials(store: Store) -> list[Path]:
    return [p for part in ("data.zarr", "commits") for p in (store.path / part).rglob("*.partial")]


def finish(process: "subprocess.Popen[str]") -> None:
    _, errors = process.communicate()
    assert process.returncode == 0, errors


def wait_for(store: Store, n_committed: int, process: "subprocess.Popen[str]") -> None:
    while len(committed_units(store)) < n_committed and process.poll() is None:
        time.sleep(0.001)


@pytest.mark.parametrize(
    "kills", [15, pytest.param(100, marks=pytest.mark.long)], ids=lambda n: f"{n} kills"
)
def test_killed_writers_lose_nothing_and_write_nothing_wrong(
    make_store: MakeStore,
    commit_all: Callable[[Store], None],
    values: Callable[..., dict[str, np.ndarray]],
    start_writer: StartWriter,
    tmp_path: Path,
    kills: int,
) -> None:
    layout = {"n_units": 8 * kills, "per_unit": 16, "n_features": 256}
    clean = make_store(root=tmp_path / "clean", **layout)
    commit_all(clean)

    store = make_store(**layout)
    committed: set[int] = set()
    chance = random.Random(20)
    for _ in range(kills):
        process = start_writer(store.path, "fill")
        wait_for(store, len(committed) + chance.randint(0, 3), process)
        time.sleep(chance.uniform(0, 0.02))
        process.kill()
        process.communicate()
        assert committed_units(store) >= committed, "a committed unit was lost"
        committed = committed_units(store)
        for index in committed:
            assert problems(store, store.units[index], deep=True) == []
    assert 0 < len(committed) < len(store.units), "kills did not fall into the writing"

    finish(start_writer(store.path, "fill"))
    assert run_digest([store]) == run_digest([clean])
    assert seal(store).digest == seal(clean).digest
    assert partials(store) == []
    expected = np.concatenate([values(store, unit)["features"] for unit in store.units], axis=1)
    np.testing.assert_array_equal(store.dataset()["features"], expected)


@pytest.mark.parametrize("work", ["create", "commit"])
def test_work_survives_a_kill_before_each_of_its_steps(work: str, tmp_path: Path) -> None:
    script = Path(__file__).with_name("kill_each_step.py")
    output = subprocess.run(
        [sys.executable, script, work, tmp_path], capture_output=True, text=True, check=False
    )
    assert output.returncode == 0, output.stderr
    assert int(output.stdout) > 15, "too few steps were seen"


def test_two_writers_share_the_units_of_a_store(
    make_store: MakeStore,
    commit_all: Callable[[Store], None],
    start_writer: StartWriter,
    tmp_path: Path,
) -> None:
    clean = make_store(root=tmp_path / "clean", n_units=40)
    commit_all(clean)
    store = make_store(n_units=40)
    go = tmp_path / "go"
    writers = [start_writer(store.path, "fill", "--go", str(go)) for _ in range(2)]
    go.touch()
    for writer in writers:
        finish(writer)
    assert run_digest([store]) == run_digest([clean])


def test_full_disk_names_the_file_and_keeps_what_is_committed(
    make_store: MakeStore, start_writer: StartWriter
) -> None:
    """A limit on file size makes the write of unit 0 fail; unit 1, all NaN, would fit."""
    store = make_store(n_units=3, per_unit=64, n_features=64)
    finish(start_writer(store.path, "fill"))
    whole = run_digest([store])
    shard = store.data / store.owned_files(store.units[0])[0]
    shard.unlink()

    process = start_writer(store.path, "fill", "--file-size-limit", "4096")
    _, errors = process.communicate()
    assert process.returncode == 1
    sentence, remedy = errors.splitlines()[-2:]
    assert "data.zarr/features'" in sentence
    assert "check the free space, quota" in sentence
    assert remedy == "resume the run"
    assert [is_committed(store, unit) for unit in store.units] == [False, True, True]

    finish(start_writer(store.path, "fill"))
    assert seal(store).digest == whole
    assert partials(store) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, 512 KiB."""
    if os.getuid() != 0:
        pytest.skip("only root can mount a small file system")
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "gradenc", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_disk_that_fills_up_and_is_emptied(
    make_store: MakeStore,
    commit_all: Callable[[Store], None],
    start_writer: StartWriter,
    small_disk: Path,
    tmp_path: Path,
) -> None:
    layout = {"n_units": 24, "per_unit": 16, "n_features": 256}
    clean = make_store(root=tmp_path / "clean", **layout)
    commit_all(clean)
    store = make_store(root=small_disk, **layout)
    process = start_writer(store.path, "fill")
    _, errors = process.communicate()
    assert process.returncode == 1
    assert "No space left on device" in errors
    assert "check the free space, quota" in errors
    whole = committed_units(store)
    assert 0 < len(whole) < len(store.units)
    assert all(problems(store, store.units[index], deep=True) == [] for index in whole)

    subprocess.run(["mount", "-o", "remount,size=4m", small_disk], check=True)
    finish(start_writer(store.path, "fill"))
    assert seal(store).digest == seal(clean).digest
    assert partials(store) == []


@pytest.mark.parametrize("part", ["data.zarr/features", "commits", "attempts"])
def test_unwritable_folder_is_named(
    make_store: MakeStore,
    start_writer: StartWriter,
    part: str,
) -> None:
    """The writer gives up root's privileges, which would ignore permissions."""
    store = make_store()
    for path in [store.path, *store.path.rglob("*")]:
        path.chmod(0o777 if path.is_dir() else 0o666)
    (store.path / part).chmod(0o555)
    process = start_writer(Path(store.path.name), "fill", "--unprivileged", cwd=store.path.parent)
    _, errors = process.communicate()
    assert process.returncode == 1
    sentence, remedy = errors.splitlines()[-2:]
    assert sentence.startswith("PermissionError: ")
    assert part in sentence
    assert remedy == "resume the run"
    assert committed_units(store) == set()

    (store.path / part).chmod(0o777)
    finish(start_writer(store.path, "fill"))
    assert seal(store).units == 4


def test_read_only_store_is_read_and_sealed_stores_are_opened_again(
    make_store: MakeStore, commit_all: Callable[[Store], None]
) -> None:
    store = make_store()
    commit_all(store)
    seal(store)
    for path in store.path.rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    assert make_store().sealed() is not None
    assert store.dataset()["features"].shape == (2, 7, 8)
    assert os.access(store.seal_path, os.R_OK)
