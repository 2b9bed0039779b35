"""The tables of comparisons, read and filled by the labels of their store, never by position.

So no number can end up under another's name.
"""

from collections.abc import Mapping

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from gradenc_core.compare.space import SpatialScore
from gradenc_core.compare.time import TemporalScore
from storage_schemas.kinds.comparisons import BOUNDS, NOT_JUDGED
from storage_schemas.kinds.schema import flag_value
from storage_schemas.protocol.store import Store


def empty_tables(store: Store) -> xr.Dataset:
    """Return the store's tables with its labels: NaN everywhere, and no signal judged."""
    coords = store.dataset().coords.to_dataset().load().coords
    empty = {
        name: (array.dims, np.full(array.shape, array.fill_value, array.dtype), array.attrs)
        for name, array in store.arrays.items()
    }
    tables = xr.Dataset(empty, coords)
    for name in ("verdict", "order_verdict"):
        tables[name][:] = flag_value(tables[name].attrs, NOT_JUDGED)
    return tables


def labels(tables: xr.Dataset, dim: str) -> list[str]:
    """Return a dimension's labels as plain strings; none if no table has it."""
    return [str(value) for value in tables[dim].values] if dim in tables.coords else []


def window_centres(tables: xr.Dataset) -> NDArray[np.float64]:
    """Return the centres of a comparison's windows, (n_windows,) in s."""
    return np.asarray((tables["window_start"] + tables["window_stop"]).values / 2)


def fill_score(
    tables: xr.Dataset, name: str, cell: Mapping[str, str], score: SpatialScore | TemporalScore
) -> None:
    """Fill the tables of one score: of each subject, and over subjects."""
    tables[f"{name}_score"].loc[cell] = score.values
    tables[f"{name}_p"].loc[cell] = score.p
    tables[f"{name}_mean"].loc[cell] = score.mean
    tables[f"{name}_combined_p"].loc[cell] = score.combined_p
    for bound in BOUNDS:
        tables[f"{name}_interval"].loc[{**cell, "bound": bound}] = getattr(score, bound)
