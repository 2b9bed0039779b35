"""The results of a run as one tree, which never passes off what is unfinished as a result."""

from collections.abc import Sequence
from pathlib import Path

import xarray as xr

from storage_schemas.errors import UnfinishedRun
from storage_schemas.protocol.commit import committed_units
from storage_schemas.protocol.store import Store
from storage_schemas.results.tree import build_nodes
from storage_schemas.runs.run import Run, read_run, run_stores


def open_run(path: str | Path, partial: bool = False) -> xr.DataTree:
    """Open the results of a run as one lazy (dask) tree.

    Parameters
    ----------
    path : str or Path
        Folder of the run.
    partial : bool
        Also show stores that are not sealed. What is not committed there is NaN (an integer: the
        least likely value of its type), the coordinate ``committed`` says which rows are real, and
        ``attrs["completeness"]`` of every node which share of these rows, and of the tree which
        share of all the run's units, those of stages without a store included.

    Returns
    -------
    xr.DataTree
        ``/prepared/<model>``, ``/bank/<model>``, ``/features/<model>/<source>``,
        ``/unrecorded/<model>/<source>`` (features of images that no subject was shown),
        ``/responses/<subject>/<modality>``, ``/scores/<model>/<subject>/<modality>``,
        ``/collinearity/<model>/<source>``, ``/stability/<model>/<source>`` and
        ``/comparisons/<model>``, as far as the run has planned them. Arrays of
        flags, such as the verdict in ``/comparisons/<model>``, are shown by their names.

    Raises
    ------
    UnfinishedRun
        If a stage has no stores yet or one that is not sealed, and `partial` is false, naming the
        stage: what is unfinished is never shown unasked.
    FileNotFoundError
        If the folder is no run, or a store is not where `run.json` says.

    Examples
    --------
    A finished run has a leaf for every model and source, such as
    ``open_run("demo/run")["features/planted/forward"]``. A folder without a run is refused:

    >>> from tempfile import mkdtemp
    >>> open_run(Path(mkdtemp()))
    Traceback (most recent call last):
    ...
    FileNotFoundError: ...
    """
    path = Path(path)
    run = read_run(path)
    stores = [store for stage in run.stores for store in run_stores(path, stage)]
    if not partial:
        for store in stores:
            _require_seal(store, path)
        _require_stages(run, path)
    tree = xr.DataTree.from_dict(build_nodes(stores, partial))
    tree.attrs["run"] = run.name
    if partial:
        tree.attrs["completeness"] = _completeness(run, stores)
    return tree


def _completeness(run: Run, stores: Sequence[Store]) -> float:
    """Return the share of committed units, of all stages as far as their units are known."""
    committed = sum(len(committed_units(store)) for store in stores)
    later = sum(n for stage, n in (run.units or {}).items() if stage not in run.stores)
    planned = sum(len(store.units) for store in stores) + later
    return committed / planned if planned else 0.0


def _require_seal(store: Store, path: Path) -> None:
    if store.sealed() is None:
        raise UnfinishedRun(
            f"stage {store.path.parent.name} is not finished: {store.reference} is not sealed "
            f"({len(committed_units(store))} of {len(store.units)} units committed)",
            run=path,
        )


def _require_stages(run: Run, path: Path) -> None:
    for stage in run.units or {}:
        if stage not in run.stores:
            raise UnfinishedRun(f"stage {stage} has not begun", run=path)
