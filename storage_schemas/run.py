"""A run: the stores that one study uses, listed in `run.json`, and its results as one tree.

All paths in `run.json` are relative, so a run copied together with its stores opens where it is.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import xarray as xr

from storage_schemas import files
from storage_schemas.commit import committed_units
from storage_schemas.identity import canonical_json
from storage_schemas.schemas import SCHEMA_VERSION
from storage_schemas.store import Store
from storage_schemas.views import build_nodes


def create_run(path: Path, name: str, root: Path) -> dict[str, Any]:
    """Create a run folder, or open the one that is there; return its `run.json`.

    Parameters
    ----------
    path : Path
        Folder of the run.
    name : str
        Name of the study.
    root : Path
        Folder of the stores.

    Raises
    ------
    ValueError
        If the folder holds another study's run, or one with another root.
    """
    folder = Path(path)
    relative = os.path.relpath(Path(root).resolve(), folder.resolve())
    wanted = {"version": SCHEMA_VERSION, "name": name, "root": relative, "stores": {}}
    files.write_exclusive(folder / "run.json", canonical_json(wanted))
    run = read_run(folder)
    for key in ("name", "root"):
        if run[key] != wanted[key]:
            raise ValueError(
                f"{folder} holds a run with {key} {run[key]!r}, not {wanted[key]!r}; choose "
                "another folder for this run"
            )
    return run


def read_run(path: Path) -> dict[str, Any]:
    """Return `run.json`: version, name, root (relative), stores (paths below root by stage).

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
    if run["version"] > SCHEMA_VERSION:
        raise ValueError(
            f"{file} has version {run['version']}, this gradenc reads up to {SCHEMA_VERSION}; "
            "update gradenc"
        )
    return run


def record_stores(path: Path, stage: str, references: Sequence[str]) -> None:
    """Note a stage's stores (paths below root) in `run.json`; the caller holds the run's lock."""
    run = read_run(path)
    run["stores"][stage] = list(references)
    files.replace(Path(path) / "run.json", canonical_json(run))


def open_run(path: Path) -> xr.DataTree:
    """Open the results of a run as one lazy (dask) tree.

    Returns
    -------
    xr.DataTree
        ``/prepared/<model>``, ``/features/<model>/<source>``, ``/responses/<subject>/<modality>``,
        ``/scores/<model>/<subject>/<modality>``, ``/collinearity/<model>/<source>`` and
        ``/comparisons/<model>``, as far as the run has planned them (see `views`).

    Raises
    ------
    ValueError
        If a store is not sealed, naming its stage: results are shown whole or not at all.
    FileNotFoundError
        If the folder is no run, or a store is not where `run.json` says.
    """
    run = read_run(path)
    stores = list(_sealed_stores(Path(path), run))
    tree = xr.DataTree.from_dict(build_nodes(stores))
    tree.attrs["run"] = run["name"]
    return tree


def _sealed_stores(path: Path, run: dict[str, Any]) -> Iterator[Store]:
    for stage, references in run["stores"].items():
        for reference in references:
            store = Store.find(path / run["root"], reference)
            if store.sealed() is None:
                raise ValueError(
                    f"stage {stage} is not finished: {reference} is not sealed "
                    f"({len(committed_units(store))} of {len(store.units)} units committed); "
                    f"run `gradenc resume {path}`"
                )
            yield store
