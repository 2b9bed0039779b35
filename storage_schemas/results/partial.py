"""Stores that are not finished, shown without ever passing off a missing value as a result."""

from collections.abc import Iterator
from itertools import groupby

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from storage_schemas.kinds.registry import KINDS
from storage_schemas.protocol.commit import is_committed
from storage_schemas.protocol.store import Store

COMMITTED = "committed"


def partial_dataset(store: Store) -> xr.Dataset:
    """Open a store's committed units; all else holds each array's fill value and is not read.

    Returns
    -------
    xr.Dataset
        With the variable ``committed`` (bool): along the dimension that divides the kind's units
        (`Kind.unit_dim`), or a scalar where one unit holds everything.
    """
    dataset = store.dataset()
    done = _committed(store)
    dim = KINDS[store.kind].unit_dim
    if dim is None:
        shown = dataset if done.all() else _blank(dataset, store)
        return shown.assign({COMMITTED: bool(done.all())})
    parts = [
        dataset.isel({dim: part}) if whole else _blank(dataset.isel({dim: part}), store)
        for part, whole in _runs(store, dim, done)
    ]
    # Without this, a coordinate along another dimension would be concatenated too.
    shown = xr.concat(parts, dim, data_vars="minimal", coords="minimal", compat="override")
    return shown.assign({COMMITTED: (dim, _per_row(store, dim, done))})


def _committed(store: Store) -> NDArray[np.bool_]:
    if store.sealed():
        return np.ones(len(store.units), dtype=bool)
    return np.array([is_committed(store, unit) for unit in store.units])


def _blank(part: xr.Dataset, store: Store) -> xr.Dataset:
    """Return a dataset of the same shape that holds fill values; nothing on the disk is opened."""
    return part.assign(
        {
            name: xr.full_like(array, store.arrays[str(name)].fill_value)
            for name, array in part.data_vars.items()
        }
    )


def _rows(store: Store, dim: str, index: int) -> slice:
    """Return the rows of a unit along `dim`."""
    unit = store.units[index]
    name = next(name for name in unit.regions if dim in store.arrays[name].dims)
    return slice(*unit.regions[name][store.arrays[name].dims.index(dim)])


def _runs(store: Store, dim: str, done: NDArray[np.bool_]) -> Iterator[tuple[slice, bool]]:
    """Yield the rows of neighbouring units that are all committed, or all not."""
    ordered = sorted(range(len(done)), key=lambda index: _rows(store, dim, index).start)
    for whole, group in groupby(ordered, key=lambda index: bool(done[index])):
        rows = [_rows(store, dim, index) for index in group]
        yield slice(rows[0].start, rows[-1].stop), whole


def _per_row(store: Store, dim: str, done: NDArray[np.bool_]) -> NDArray[np.bool_]:
    array = next(a for a in store.arrays.values() if dim in a.dims)
    mask = np.zeros(array.shape[array.dims.index(dim)], dtype=bool)
    for index in np.flatnonzero(done).tolist():
        mask[_rows(store, dim, index)] = True
    return mask
