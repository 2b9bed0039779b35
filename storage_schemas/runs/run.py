"""A run: the stores that one study uses, listed in `run.json`.

All paths in `run.json` are relative, so a run copied together with its stores opens where it is.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from storage_schemas import files
from storage_schemas.identity import FORMAT_VERSION, canonical_json
from storage_schemas.protocol.frame import frame_problems, mend_frame
from storage_schemas.protocol.store import Store

NAMES = ("model", "control")
"""Attributes that each study chooses freely for a store that it shares with others."""


def create_run(
    path: Path, name: str, root: Path, units: Mapping[str, int] | None = None
) -> dict[str, Any]:
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
    wanted: dict[str, Any] = {
        "version": FORMAT_VERSION,
        "name": name,
        "root": relative,
        "stores": {},
    }
    if units is not None:
        wanted["units"] = dict(units)
    file = folder / "run.json"
    if not files.write_exclusive(file, canonical_json(wanted)) and files.read_json(file) is None:
        # A torn one would keep the name for ever.
        files.replace(file, canonical_json(wanted))
    run = read_run(folder)
    for key in ("name", "root"):
        if run[key] != wanted[key]:
            raise ValueError(
                f"{folder} holds a run with {key} {run[key]!r}, not {wanted[key]!r}; choose "
                "another folder for this run"
            )
    return run


def read_run(path: Path) -> dict[str, Any]:
    """Return `run.json`: version, name, root (relative) and, by stage, stores and maybe `units`.

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
    run = files.read_json(file)
    if run is None or not {"version", "name", "root", "stores"} <= set(run):
        raise ValueError(f"{file} is damaged; submit the study again, committed units are kept")
    if run["version"] > FORMAT_VERSION:
        raise ValueError(
            f"{file} has version {run['version']}, this gradenc reads up to {FORMAT_VERSION}; "
            "update gradenc"
        )
    return run


def record_stores(path: Path, stage: str, stores: Sequence[Store]) -> None:
    """Note a stage's stores and what this study calls them; the caller holds the run's lock."""
    run = read_run(path)
    run["stores"][stage] = [
        {
            "store": store.reference,
            "label": store.label,
            "names": {key: store.attrs[key] for key in NAMES if key in store.attrs},
        }
        for store in stores
    ]
    files.replace(Path(path) / "run.json", canonical_json(run))


def run_stores(path: Path, stage: str) -> list[Store]:
    """Open the stores of a stage under the study's names; none if it is not planned yet.

    Raises
    ------
    FileNotFoundError
        If a store is not where `run.json` says.
    """
    run = read_run(path)
    return [
        Store.open(Path(path) / run["root"] / entry["store"]).named(entry["label"], entry["names"])
        for entry in run["stores"].get(stage, [])
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
    listed = (entry["store"] for stage in run["stores"].values() for entry in stage)
    return [Path(path) / run["root"] / reference for reference in listed]
