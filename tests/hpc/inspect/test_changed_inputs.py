"""`verify --deep` reads images and recordings again, whatever was kept of them."""

import os
import shutil
import time
from pathlib import Path

import pytest
import yaml

from gradenc_core.stimuli.generated import write_images
from hpc.inspect.changed_inputs import read_inputs
from hpc.run.folder import RunFolder
from hpc.run.start import start
from hpc.study.resolve import resolve
from hpc.study.study import load_study


@pytest.fixture
def run(small_data: dict, small_files: Path, tmp_path: Path) -> RunFolder:
    """Start a run of images and recordings of its own, written an hour ago."""
    shutil.copytree(small_files / "stimuli", tmp_path / "stimuli")
    shutil.copytree(small_files / "meg", tmp_path / "meg")
    hour_ago = time.time() - 3600
    for path in (*tmp_path.glob("stimuli/*"), *tmp_path.glob("meg/*")):
        os.utime(path, (hour_ago, hour_ago))
    (_, meg) = small_data["responses"]
    data = {"stimuli": "stimuli", "responses": [meg | {"path": "meg"}]}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(small_data | data))
    return start(load_study(tmp_path / "study.yaml"), tmp_path / "run")


def damage(path: Path) -> None:
    """Change bytes at the end of a file and leave its size and time."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(-40, os.SEEK_END)
        file.write(b"otherwise")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_files_are_read_again_and_what_was_kept_of_them_is_replaced(
    run: RunFolder, tmp_path: Path
) -> None:
    assert read_inputs(run).changed == []
    (recorded,) = tmp_path.glob("meg/*.fif")
    damage(recorded)
    planned, _ = resolve(load_study(tmp_path / "study.yaml"))
    assert planned.stimulus_ids  # what was kept is believed
    assert read_inputs(run).changed == [f"{recorded} has changed"]
    _, (subject,) = resolve(load_study(tmp_path / "study.yaml"))
    (store,) = run.stores("ingest")
    assert subject.description.files != store.spec["files"]


def test_images_that_are_new_or_gone_are_named(run: RunFolder, tmp_path: Path) -> None:
    one, other = sorted(tmp_path.glob("stimuli/*"))[:2]
    content = one.read_bytes()
    one.unlink()
    (tmp_path / "stimuli" / "new.png").write_bytes(content)
    other.unlink()
    changed = read_inputs(run).changed
    assert f"{one} is gone" in changed
    assert f"{other} is gone" in changed
    assert f"{tmp_path / 'stimuli' / 'new.png'} is new" in changed


def test_folders_that_are_not_here_are_named_and_are_no_change(
    run: RunFolder, tmp_path: Path
) -> None:
    shutil.rmtree(tmp_path / "stimuli")
    inputs = read_inputs(run)
    assert (inputs.changed, inputs.absent) == ([], [tmp_path / "stimuli"])


def test_images_without_recordings_are_read_again(
    small_data: dict, small_files: Path, tmp_path: Path
) -> None:
    write_images(tmp_path / "others", 3, 32, seed=9)
    changes = {"unrecorded_images": "others", "responses": small_data["responses"][:1]}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(small_data | changes))
    run = start(load_study(tmp_path / "study.yaml"), tmp_path / "run")
    write_images(tmp_path / "others", 5, 32, seed=9)
    assert read_inputs(run).changed == []  # what is new there belongs to no result
    damaged, gone, _ = sorted((tmp_path / "others").glob("*"))[:3]
    write_images(tmp_path / "elsewhere", 1, 32, seed=10)
    next((tmp_path / "elsewhere").glob("*")).replace(damaged)
    gone.unlink()
    assert sorted(read_inputs(run).changed) == [f"{damaged} has changed", f"{gone} is gone"]
    shutil.rmtree(tmp_path / "others")
    assert read_inputs(run).absent == [tmp_path / "others"]
