"""Kill a process at each of its steps on the file system, one step after another.

Usage: kill_each_step.py {commit,create} FOLDER. Each step is tried in a forked child that kills
itself just before it, as told by Python's audit events; a second child then does the work
undisturbed. Prints the number of steps; fails, naming the step, if anything is lost, wrong or left.
"""

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import xarray as xr
from writer import fill, values

from storage_schemas.layout import ArrayLayout, Layout, Unit
from storage_schemas.protocol import attempts
from storage_schemas.protocol.commit import commit, is_committed, problems
from storage_schemas.protocol.new_store import NewStore
from storage_schemas.protocol.seal import seal
from storage_schemas.protocol.store import Store

STEPS = ("open", "os.link", "os.remove", "os.rename", "os.mkdir", "os.utime", "os.scandir")


def create(folder: Path) -> Store:
    array = ArrayLayout("x", ("t",), (5,), "float32", (2,), None, "1", "x")
    units = [Unit(i, "u", {}, {"x": [(2 * i, min(2 * i + 2, 5))]}) for i in range(3)]
    coords = xr.Dataset(coords={"t": np.arange(5.0)})
    return Store.create(
        folder, NewStore("s", "features", "x", {}, Layout((array,), coords, tuple(units)))
    )


def commit_last(folder: Path) -> None:
    store = create(folder)
    unit = store.units[-1]
    attempt = attempts.begin(store, unit, job="child", round_=0)
    assert attempt is not None
    commit(store, unit, values(store, unit), {}, attempt)
    attempt.finish("committed")


def try_create(folder: Path) -> int:
    clean = contents(create(folder / "template").path)
    for step in range(1, 1000):
        copy = folder / "copy"
        killed = not run_child(create, copy, kill_at=step)
        assert run_child(create, copy), step
        (store,) = (copy / "s").glob("[!.]*")
        assert contents(store) == clean, step
        shutil.rmtree(copy)
        if not killed:
            break
    return step - 1


def contents(folder: Path) -> dict[str, bytes | None]:
    paths = {str(path.relative_to(folder)): path for path in folder.rglob("*")}
    return {name: p.read_bytes() if p.is_file() else None for name, p in paths.items()}


def try_commit(folder: Path) -> int:
    template = folder / "template"
    fill(create(template))
    clean = seal(create(template)).digest
    damage_last(create(template))
    for step in range(1, 1000):
        copy = folder / "copy"
        shutil.copytree(template, copy)
        killed = not run_child(commit_last, copy, kill_at=step)
        check(create(copy), step)
        assert run_child(commit_last, copy), step
        assert seal(create(copy)).digest == clean, step
        left = [p for p in copy.rglob("*.partial") if "attempts" not in p.parts]
        assert not left, (step, left)
        shutil.rmtree(copy)
        if not killed:
            break
    return step - 1


def damage_last(store: Store) -> None:
    """Leave a record over a truncated shard and a killed writer's orphan, to be repaired."""
    shard = store.data / store.owned_files(store.units[-1])[0]
    shard.write_bytes(shard.read_bytes()[:-1])
    shard.with_name(f"{shard.name}.0123.partial").write_bytes(b"orphan")


def check(store: Store, step: int) -> None:
    """No other unit is lost; the last one is whole, or says that it is not committed."""
    *others, last = store.units
    assert all(problems(store, unit, deep=True) == [] for unit in others), step
    assert not is_committed(store, last) or problems(store, last, deep=True) == [], step


def run_child(work: Callable[[Path], object], folder: Path, kill_at: int | None = None) -> bool:
    """Do the work in a child; return False if it was killed."""
    pid = os.fork()
    if pid == 0:
        if kill_at is not None:
            kill_before(kill_at, str(folder))
        work(folder)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, -signal.SIGKILL), status
    return status == 0


def kill_before(step: int, folder: str) -> None:
    seen = 0

    def count(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal seen
        if event in STEPS and str(arguments[0]).startswith(folder):
            seen += 1
            if seen == step:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)


if __name__ == "__main__":
    print({"create": try_create, "commit": try_commit}[sys.argv[1]](Path(sys.argv[2])))
