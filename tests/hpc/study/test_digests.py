"""Digests that are kept: when a file is read again, and when not."""

import json
import os
import shutil
import sys
import time
from contextlib import suppress
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml

from gradenc_core.stimuli.images import read_manifest
from hpc.study.resolve import resolve
from hpc.study.study import Study, load_study
from storage_schemas.runs.digest_cache import RECENT_S, DigestCache

OPENED: list[str] = []
sys.addaudithook(lambda event, found: OPENED.append(str(found[0])) if event == "open" else None)


@pytest.fixture
def study(small_data: dict, small_files: Path, tmp_path: Path) -> Study:
    """Return a study with stimuli of its own that were written an hour ago."""
    shutil.copytree(small_files / "stimuli", tmp_path / "stimuli")
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(small_data | {"stimuli": "stimuli"}))
    age(tmp_path / "stimuli")
    return load_study(path)


def age(folder: Path) -> None:
    hour_ago = time.time() - 3600
    for path in folder.iterdir():
        os.utime(path, (hour_ago, hour_ago))


def read(study: Study) -> tuple[tuple[str, ...], int]:
    """Return the digests of the stimuli and how many image files were opened for them."""
    OPENED.clear()
    with DigestCache(study.digest_folders) as known:
        digests = read_manifest(study.folder / study.stimuli, known=known).digests
    return digests, sum(name.endswith(".png") for name in OPENED)


def test_a_second_look_opens_no_image(study: Study) -> None:
    first, opened = read(study)
    assert opened == len(first) == 96
    assert read(study) == (first, 0)
    OPENED.clear()
    resolve(study)
    assert not [name for name in OPENED if name.endswith(".png")]


def test_recordings_are_read_once(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    hour_later = time.time_ns() + 3600 * 10**9
    monkeypatch.setattr(time, "time_ns", lambda: hour_later)
    first, subjects = resolve(study)
    monkeypatch.setattr("hashlib.file_digest", None)
    second, again = resolve(study)
    assert first == second
    assert [s.description.files for s in subjects] == [s.description.files for s in again]


def test_a_brick_is_not_opened_again(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (5, 8, 8, 3), dtype=np.uint8)
    with h5py.File(study.folder / "stimuli" / "brick.hdf5", "w") as file:
        file["images"] = pixels
    age(study.folder / "stimuli")
    first, _ = read(study)
    assert len(first) == 96 + 5
    monkeypatch.setattr("gradenc_core.stimuli.images._brick", None)
    assert read(study) == (first, 0)


def test_a_file_of_the_same_size_that_was_rewritten_is_read_again(study: Study) -> None:
    first, _ = read(study)
    one, other = sorted((study.folder / "stimuli").iterdir())[:2]
    one.write_bytes(other.read_bytes())
    second, opened = read(study)
    assert opened == 1
    assert second != first
    shutil.copy(other, one.with_name("kept"))
    os.utime(one.with_name("kept"), ns=(one.stat().st_mtime_ns, one.stat().st_mtime_ns))
    (one.with_name("kept")).replace(one)  # the same time and size: another inode
    assert read(study)[1] == 1


def test_a_file_written_just_before_is_read_again(study: Study) -> None:
    """It may change once more within the clock's granularity, and keep time and size."""
    (path, *_) = sorted((study.folder / "stimuli").iterdir())
    recent = time.time() + RECENT_S  # longer than the test takes to come to this file
    os.utime(path, (recent, recent))
    first, _ = read(study)
    assert read(study) == (first, 1)
    os.utime(path, (1, 1))
    assert read(study) == (first, 1)
    assert read(study) == (first, 0)


def test_a_file_that_changes_while_it_is_read_is_not_kept(study: Study) -> None:
    (path, *_) = sorted((study.folder / "stimuli").iterdir())
    with DigestCache(study.digest_folders) as known:
        assert known.get(path) is None
        os.utime(path, (1, 1))
        known.keep(path, ["0" * 64])
    assert DigestCache(study.digest_folders).get(path) is None


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"a": [1, 2, 3]}', b'{"a": 3}'])
def test_a_damaged_file_of_digests_is_ignored(study: Study, content: bytes) -> None:
    first, _ = read(study)
    (kept,) = study.folder.glob(".gradenc-digests-*.json")
    kept.write_bytes(content)
    assert read(study) == (first, 96)
    assert read(study) == (first, 0)


def test_a_folder_in_place_of_the_file_of_digests_costs_only_time(study: Study) -> None:
    first, _ = read(study)
    (kept,) = study.folder.glob(".gradenc-digests-*.json")
    kept.unlink()
    kept.mkdir()
    assert read(study) == (first, 96)


def test_what_was_read_before_an_interruption_is_kept(study: Study) -> None:
    """Hours of reading are not lost because the user looks again tomorrow."""
    (path, *_) = sorted((study.folder / "stimuli").iterdir())
    with suppress(KeyboardInterrupt), DigestCache(study.digest_folders) as known:
        assert known.get(path) is None
        known.keep(path, ["0" * 64])
        raise KeyboardInterrupt
    assert DigestCache(study.digest_folders).get(path) == ["0" * 64]


def test_two_commands_keep_each_others_digests(study: Study) -> None:
    one, other = sorted((study.folder / "stimuli").iterdir())[:2]
    first, second = DigestCache(study.digest_folders), DigestCache(study.digest_folders)
    for known, path in ((first, one), (second, other)):
        assert known.get(path) is None
        known.keep(path, ["0" * 64])
        known.save()
    both = DigestCache(study.digest_folders)
    assert both.get(one) == both.get(other) == ["0" * 64]


def test_the_store_root_has_them_once_it_is_there(study: Study, tmp_path: Path) -> None:
    shared = study.model_copy(update={"store_root": "root"})
    first, _ = read(shared)
    assert not (tmp_path / "root").exists()
    (tmp_path / "root").mkdir()
    assert read(shared) == (first, 0)
    (path, *_) = sorted((study.folder / "stimuli").iterdir())
    path.touch()
    os.utime(path, (10, 10))
    read(shared)
    (kept,) = (tmp_path / "root").glob(".gradenc-digests-*.json")
    assert list(json.loads(kept.read_bytes())) == [str(path)]


def test_another_users_digests_are_not_believed(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    read(study)
    (kept,) = study.folder.glob(".gradenc-digests-*.json")
    own = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: own + 1)
    kept.rename(kept.with_name(f".gradenc-digests-{own + 1}.json"))
    assert read(study)[1] == 96


def test_a_folder_that_cannot_be_written_costs_only_time(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("storage_schemas.runs.digest_cache.replace", full)
    assert read(study)[1] == 96
    assert read(study)[1] == 96


def test_a_linked_folder_is_its_files(study: Study, tmp_path: Path) -> None:
    first, _ = read(study)
    (tmp_path / "link").symlink_to(tmp_path / "stimuli")
    assert read(study.model_copy(update={"stimuli": "link"})) == (first, 0)
