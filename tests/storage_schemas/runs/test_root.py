"""One folder of stores for many studies and users."""

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from storage_schemas.layout import Layout
from storage_schemas.protocol import attempts
from storage_schemas.protocol.new_store import NewStore
from storage_schemas.protocol.seal import seal
from storage_schemas.protocol.store import Store
from storage_schemas.results.open import open_run
from storage_schemas.runs import root as roots
from storage_schemas.runs.run import create_run, record_stores, run_stores

MakeStore = Callable[..., Store]
WRITER = Path(__file__).parents[1] / "writer.py"


def make_run(folder: Path, store: Store) -> Path:
    root = store.path.parents[1]
    create_run(folder, folder.name, root)
    roots.register(root, folder)
    record_stores(folder, "extract", [store])
    return folder


def references(entries: list[roots.Entry]) -> dict[str, list[str]]:
    return {e.reference: [run.name for run in e.runs] for e in entries}


def test_studies_share_a_store_under_their_own_names(
    make_store: MakeStore, commit_all: Callable[[Store], None], tmp_path: Path
) -> None:
    store = make_store()
    again = Store.create(
        tmp_path / "root",
        NewStore(
            "extract",
            "features",
            "mine-forward",
            store.spec,
            Layout(tuple(store.arrays.values()), store.dataset()[[]], tuple(store.units)),
            {"model": "mine", "source": "forward"},
        ),
    )
    assert again.path == store.path
    assert (again.label, again.attrs["model"]) == ("mine-forward", "mine")
    commit_all(store)
    seal(store)
    for name, shared in (("first", store), ("second", again)):
        make_run(tmp_path / name, shared)
    assert open_run(tmp_path / "first")["/features/tiny/forward"].attrs["model"] == "tiny"
    assert open_run(tmp_path / "second")["/features/mine/forward"].attrs["model"] == "mine"
    assert [s.label for s in run_stores(tmp_path / "second", "extract")] == ["mine-forward"]


def test_users_of_every_store(make_store: MakeStore, tmp_path: Path) -> None:
    shared, own, unused = (make_store(seed=seed) for seed in range(3))
    make_run(tmp_path / "a", shared)
    make_run(tmp_path / "b", shared)
    make_run(tmp_path / "c", own)
    entries = roots.entries(tmp_path / "root")
    assert references(entries) == {
        shared.reference: ["a", "b"],
        own.reference: ["c"],
        unused.reference: [],
    }
    for entry in entries:
        files = [p for p in entry.path.rglob("*") if p.is_file()]
        assert entry.n_files == len(files)
        assert entry.n_bytes == sum(p.stat().st_size for p in files)


def test_files_that_vanish_meanwhile_are_not_counted(
    make_store: MakeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writers rename their temporary files while `gradenc du` looks at them."""
    store = make_store()
    make_run(tmp_path / "a", store)
    (entry,) = roots.entries(tmp_path / "root")
    vanishing = store.path / "SEALED.json.0123.partial"
    vanishing.touch()
    lstat = os.lstat

    def look(path: str) -> os.stat_result:
        if Path(path).is_relative_to(store.path):
            vanishing.unlink(missing_ok=True)
        return lstat(path)

    monkeypatch.setattr(os, "lstat", look)
    (again,) = roots.entries(tmp_path / "root")
    assert (again.n_files, again.n_bytes) == (entry.n_files, entry.n_bytes)


def test_removing_takes_only_what_is_asked(make_store: MakeStore, tmp_path: Path) -> None:
    used, unused = make_store(seed=1), make_store(seed=2)
    make_run(tmp_path / "a", used)
    entry = next(e for e in roots.entries(tmp_path / "root") if not e.runs)
    roots.remove(entry)
    assert [p.name for p in used.path.parent.iterdir()] == [used.path.name]
    assert not unused.path.exists()


def test_remains_of_a_killed_removal_are_found(make_store: MakeStore, tmp_path: Path) -> None:
    store = make_store()
    make_run(tmp_path / "a", store)
    (store.path.with_name(".removed-0123")).mkdir()
    (store.path.with_name(".half-made")).mkdir()
    remains = [e for e in roots.entries(tmp_path / "root") if e.store is None]
    assert len(remains) == 2
    for entry in remains:
        roots.remove(entry)
    assert [p.name for p in store.path.parent.iterdir()] == [store.path.name]


def test_a_unit_being_written_keeps_its_store_busy(make_store: MakeStore, tmp_path: Path) -> None:
    store = make_store()
    attempt = attempts.begin(store, store.units[1], job="test", round_=0)
    assert attempt is not None
    assert roots.entries(tmp_path / "root")[0].busy
    attempt.finish("stopped")
    assert not roots.entries(tmp_path / "root")[0].busy


def test_a_lost_run_stops_the_count_until_it_is_forgotten(
    make_store: MakeStore, tmp_path: Path
) -> None:
    run = make_run(tmp_path / "gone", make_store())
    shutil.rmtree(run)
    with pytest.raises(ValueError, match=rf"run {run}.*off the list") as caught:
        roots.entries(tmp_path / "root")
    assert caught.value.folders == {"root": tmp_path / "root", "run": run}
    with pytest.raises(ValueError, match=rf"other is not listed.*{run}"):
        roots.forget(tmp_path / "root", tmp_path / "other")
    roots.forget(tmp_path / "root", run)
    assert references(roots.entries(tmp_path / "root")) == {make_store().reference: []}


def test_a_copied_root_counts_for_nobody(make_store: MakeStore, tmp_path: Path) -> None:
    make_run(tmp_path / "a", make_store())
    shutil.copytree(tmp_path / "root", tmp_path / "copy")
    with pytest.raises(ValueError, match=rf"uses {tmp_path / 'root'}"):
        roots.entries(tmp_path / "copy")


needs_root = pytest.mark.skipif(
    os.getuid() != 0 or not shutil.which("setpriv"),
    reason="two users can be played by root only, with util-linux's setpriv",
)
GROUP = 23456
AS_USER = """
import os, runpy, sys
from pathlib import Path
from storage_schemas.files import follow_group
follow_group(Path(sys.argv[1]))
sys.argv = sys.argv[2:]
sys.path.insert(0, str(Path(sys.argv[0]).parent))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def as_user(uid: int, folder: Path, script: Path, *arguments: str) -> "subprocess.Popen[str]":
    """Start a script as a user of the group, with the umask that most have: 022."""
    who = [f"--reuid={uid}", f"--regid={uid}", f"--groups={GROUP}"]
    command = ["setpriv", *who, sys.executable, "-c", AS_USER, str(folder), str(script), *arguments]
    return subprocess.Popen(
        command, umask=0o022, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


@pytest.fixture
def shared_root() -> Path:
    """A folder outside pytest's private one: chgrp GROUP, chmod g+ws."""
    folder = Path("/tmp") / f"gradenc-shared-{os.getpid()}"
    folder.mkdir()
    os.chown(folder, 0, GROUP)
    folder.chmod(0o2775)
    yield folder
    shutil.rmtree(folder)


@needs_root
@pytest.mark.parametrize("first", [34567, 34568])
def test_two_users_of_a_group_fill_and_repair_one_store(shared_root: Path, first: int) -> None:
    creator = Path(__file__).parents[1] / "shared_store.py"
    second = {34567: 34568, 34568: 34567}[first]
    for uid, action in ((first, "half"), (second, "rest"), (second, "damage"), (first, "rest")):
        process = as_user(uid, shared_root, creator, str(shared_root / "stores"), action)
        _, errors = process.communicate()
        assert process.returncode == 0, f"{action} as {uid}: {errors}"
    process = as_user(second, shared_root, creator, str(shared_root / "stores"), "seal")
    assert process.communicate()[0].strip() == "6 units sealed"
    folders = [p for p in shared_root.rglob("*") if p.is_dir()]
    assert {p.stat().st_gid for p in folders} == {GROUP}
    assert all(p.stat().st_mode & stat.S_IWGRP for p in folders)
    assert {p.stat().st_uid for p in shared_root.rglob("*.json")} >= {first, second}


@needs_root
def test_two_users_at_once_make_every_unit_once(shared_root: Path) -> None:
    creator = Path(__file__).parents[1] / "shared_store.py"
    both = [
        as_user(uid, shared_root, creator, str(shared_root / "stores"), "rest")
        for uid in (34567, 34568)
    ]
    for process in both:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    (store,) = (Store.open(p) for p in (shared_root / "stores" / "extract").glob("[!.]*"))
    seal(store)
    for unit in store.units:
        done = [a.outcome for a in attempts.attempts_of(store, unit.index)]
        assert done.count("committed") >= 1
