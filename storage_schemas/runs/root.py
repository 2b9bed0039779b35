"""The folder of all stores: the runs that use it, its stores, and those that no run uses.

Runs are listed below ``<root>/runs``, one file each. A store is unused when no listed run names it;
so a run that cannot be read stops any removal, until the user says that it is gone for good.
"""

import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from storage_schemas import files
from storage_schemas.errors import UnreadableRun
from storage_schemas.identity import canonical_json
from storage_schemas.protocol.attempts import is_alive, latest_attempts
from storage_schemas.protocol.commit import committed_units
from storage_schemas.protocol.store import Store
from storage_schemas.runs.run import read_run

RUNS = "runs"
TRASH = ".removed-"


@contextmanager
def root_lock(root: Path) -> Iterator[None]:
    """Hold the root while stores are created and recorded, or removed."""
    with files.locked(Path(root) / ".lock"):
        yield


def register(root: Path, run: Path) -> None:
    """List a run as a user of this root."""
    folder = Path(run).resolve()
    files.write_exclusive(_entry(root, folder), canonical_json({"run": str(folder)}))


def forget(root: Path, run: Path) -> None:
    """Take a run that is gone for good off the list.

    Raises
    ------
    ValueError
        If it is not listed.
    """
    entry = _entry(root, Path(run).resolve())
    if not entry.exists():
        known = ", ".join(map(str, runs_of(root))) or "none"
        raise ValueError(f"{run} is not listed as a run that uses {root}; listed: {known}")
    files.remove(entry)


def runs_of(root: Path) -> list[Path]:
    """Return the folders of all runs that use this root, in order of their paths."""
    records = [files.read_json(entry) or {} for entry in (root / RUNS).glob("*.json")]
    return sorted(Path(record["run"]) for record in records if "run" in record)


def users(root: Path) -> dict[str, list[Path]]:
    """Return which runs use each store, by its reference.

    Raises
    ------
    UnreadableRun
        If a listed run cannot be read or uses another root by now.
    """
    found: dict[str, list[Path]] = {}
    for run in runs_of(root):
        for reference in _references(root, run):
            found.setdefault(reference, []).append(run)
    return found


@dataclass(frozen=True)
class Entry:
    """One store of a root, as `du` and `gc` show it."""

    path: Path
    store: Store | None
    """None for the remains of a creation or removal that was killed."""
    runs: tuple[Path, ...]
    n_bytes: int
    n_files: int

    @property
    def reference(self) -> str:
        """Path below the root."""
        return f"{self.path.parent.name}/{self.path.name}"

    @property
    def busy(self) -> bool:
        """Whether a living attempt writes one of its units."""
        if self.store is None:
            return False
        done = committed_units(self.store)
        return any(map(is_alive, latest_attempts(self.store, skip=done).values()))


def entries(root: Path) -> list[Entry]:
    """Return every store below a root, with the runs that use it and its size.

    Raises
    ------
    UnreadableRun
        As `users`.
    """
    used = users(root)
    return [_describe(path, used) for path in _folders(root)]


def remove(entry: Entry) -> None:
    """Delete a store's folder; readers see it whole or not at all. The caller holds the lock."""
    trash = entry.path
    if not trash.name.startswith("."):
        trash = entry.path.with_name(f"{TRASH}{uuid.uuid4().hex}")
        with files.explained("remove", entry.path):
            entry.path.rename(trash)
        files.sync_folder(entry.path.parent)
    shutil.rmtree(trash)


def _entry(root: Path, run: Path) -> Path:
    return Path(root) / RUNS / f"{hashlib.sha256(os.fsencode(run)).hexdigest()[:16]}.json"


def _references(root: Path, run: Path) -> list[str]:
    try:
        record = read_run(run)
    except (FileNotFoundError, ValueError) as error:
        raise UnreadableRun(
            f"run {run}, which uses {root}, cannot be read ({error})", root=root, run=run
        ) from error
    if (run / record.root).resolve() != root.resolve():
        raise UnreadableRun(
            f"run {run} is listed here but uses {(run / record.root).resolve()}; if {root} is a "
            "copy, give a run of its own",
            root=root,
            run=run,
        )
    return record.references


def _folders(root: Path) -> Iterator[Path]:
    for stage in sorted(root.iterdir()):
        if stage.is_dir() and stage.name != RUNS:
            yield from sorted(path for path in stage.iterdir() if path.is_dir())


def _describe(path: Path, used: dict[str, list[Path]]) -> Entry:
    store = None if path.name.startswith(".") else Store.open(path)
    sizes = list(_sizes(path))
    runs = tuple(used.get(f"{path.parent.name}/{path.name}", ()))
    return Entry(path, store, runs, sum(sizes), len(sizes))


def _sizes(path: Path) -> Iterator[int]:
    """Yield the sizes of all files, without those that a writer renames or removes meanwhile."""
    for folder, _, names in os.walk(path):
        for name in names:
            with suppress(FileNotFoundError):
                yield os.lstat(os.path.join(folder, name)).st_size
