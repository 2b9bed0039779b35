"""A run: the stores that one study uses, listed in `run.json`.

All paths in `run.json` are relative, so a run copied together with its stores opens where it is.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from storage_schemas import files
from storage_schemas.identity import FORMAT_VERSION, canonical_json
from storage_schemas.protocol.frame import frame_problems, mend_frame
from storage_schemas.protocol.store import Store
from storage_schemas.records import parse

NAMES = ("model", "control")
"""Attributes that each study chooses freely for a store that it shares with others."""


@dataclass(frozen=True)
class RunStore:
    """A store of a run, and what the study calls it."""

    store: str
    """Its reference: ``<stage>/<hash12>-<label>``."""
    label: str
    names: dict[str, str | bool]
    """Those of `NAMES` that it has."""


@dataclass(frozen=True)
class Run:
    """`run.json`."""

    version: int
    name: str
    root: str
    """Folder of the stores, relative to the run's."""
    stores: dict[str, tuple[RunStore, ...]]
    """By stage, as far as stages are planned."""
    units: dict[str, int] | None = None
    """Number of units of every stage; None where whoever made the run did not say."""

    @property
    def references(self) -> list[str]:
        """References of all stores."""
        return [entry.store for stage in self.stores.values() for entry in stage]

    def as_json(self) -> bytes:
        """Return the content of the file, which has no `units` where they are not known."""
        return canonical_json({k: v for k, v in asdict(self).items() if v is not None})


def create_run(path: Path, name: str, root: Path, units: Mapping[str, int] | None = None) -> Run:
    """Create a run folder, or open the one that is there; return its `run.json`.

    Parameters
    ----------
    path : Path
        Folder of the run.
    name : str
        Name of the study.
    root : Path
        Folder of the stores.
    units : mapping, optional
        Stage -> number of its units, of all stages. Stores of a stage are only planned when the
        stages before it are sealed; without this number a run looks finished until then.

    Raises
    ------
    ValueError
        If the folder holds another study's run, or one with another root.
    """
    folder = Path(path)
    relative = os.path.relpath(Path(root).resolve(), folder.resolve())
    wanted = Run(FORMAT_VERSION, name, relative, {}, None if units is None else dict(units))
    file = folder / "run.json"
    if not files.write_exclusive(file, wanted.as_json()) and files.read_json(file) is None:
        # A torn one would keep the name for ever.
        files.replace(file, wanted.as_json())
    run = read_run(folder)
    for key, found, given in (("name", run.name, name), ("root", run.root, relative)):
        if found != given:
            raise ValueError(
                f"{folder} holds a run with {key} {found!r}, not {given!r}; choose another folder "
                "for this run"
            )
    return run


def read_run(path: Path) -> Run:
    """Return `run.json`.

    Raises
    ------
    FileNotFoundError
        If the folder holds none.
    ValueError
        If it is damaged or of a newer version.
    """
    file = Path(path) / "run.json"
    if not file.exists():
        raise FileNotFoundError(f"{file} does not exist: {path} is no run folder; check the path")
    found = files.read_json(file)
    version = found.get("version") if found else None
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise ValueError(
            f"{file} has version {version}, this gradenc reads up to {FORMAT_VERSION}; update "
            "gradenc"
        )
    try:
        return parse(Run, found)
    except ValueError as reason:
        raise ValueError(
            f"{file} is damaged ({reason}); submit the study again, committed units are kept"
        ) from None


def record_stores(path: Path, stage: str, stores: Sequence[Store]) -> None:
    """Note a stage's stores and what this study calls them; the caller holds the run's lock."""
    run = read_run(path)
    entries = tuple(
        RunStore(
            store.reference,
            store.label,
            {key: store.attrs[key] for key in NAMES if key in store.attrs},
        )
        for store in stores
    )
    recorded = replace(run, stores=run.stores | {stage: entries})
    files.replace(Path(path) / "run.json", recorded.as_json())


def run_stores(path: Path, stage: str) -> list[Store]:
    """Open the stores of a stage under the study's names; none if it is not planned yet.

    Raises
    ------
    FileNotFoundError
        If a store is not where `run.json` says.
    """
    run = read_run(path)
    return [
        Store.open(Path(path) / run.root / entry.store).named(entry.label, entry.names)
        for entry in run.stores.get(stage, ())
    ]


def stores_problems(path: Path) -> list[str]:
    """Return what is wrong with a run's stores apart from their units: lost or damaged metadata."""
    folders = _folders(path)
    lost = [f"store {folder} is gone" for folder in folders if not folder.is_dir()]
    return lost + [problem for folder in folders for problem in frame_problems(folder)]


def mend_stores(path: Path) -> list[str]:
    """Put back plans, metadata and coordinates of a run's stores; return the files.

    Raises
    ------
    ValueError
        If a store's copy of them is damaged.
    """
    return [str(folder / name) for folder in _folders(path) for name in mend_frame(folder)]


def _folders(path: Path) -> list[Path]:
    run = read_run(path)
    return [Path(path) / run.root / reference for reference in run.references]
