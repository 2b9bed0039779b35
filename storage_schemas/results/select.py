"""Selecting from a run's results by their labels, and averages that know what is committed."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from storage_schemas.results.partial import COMMITTED

Selection = dict[str, str | float | slice | list[Any]]


def parse_selection(dataset: xr.Dataset, pairs: Sequence[str]) -> Selection:
    """Read ``name=value``, ``name=a,b`` and ``name=low:high`` with the coordinates' own types.

    Raises
    ------
    ValueError
        Naming what is not understood and what is there.
    """
    selection: Selection = {}
    for pair in pairs:
        name, separator, text = pair.partition("=")
        if not separator:
            raise ValueError(f"selection {pair!r}: write name=value, e.g. layer=blocks.7")
        if name not in dataset.coords or not dataset[name].dims:
            labels = ", ".join(str(c) for c in dataset.coords if dataset[c].dims)
            raise ValueError(
                f"selection {pair!r}: there is no coordinate {name!r} here; there are {labels}"
            )
        selection[name] = _value(dataset[name], text, pair)
    return selection


def select(dataset: xr.Dataset, selection: Selection) -> xr.Dataset:
    """Select by labels, one coordinate after another; every label must be there.

    Raises
    ------
    ValueError
        Naming a label that is not there and those that are.
    """
    for name, wanted in selection.items():
        dataset = _select_one(dataset, name, wanted)
    return dataset


def average(data: xr.Dataset, dims: Sequence[str]) -> xr.Dataset:
    """Average over dimensions; a mean over something that is not committed is not committed."""
    averaged = data.mean(dims, keep_attrs=True)
    if COMMITTED not in data:
        return averaged
    mask = data[COMMITTED]
    committed = mask.all([dim for dim in dims if dim in mask.dims])
    return averaged.where(committed).assign_coords({COMMITTED: committed})


def _value(coord: xr.DataArray, text: str, pair: str) -> Any:
    if coord.dtype.kind in "OUT":
        return text.split(",") if "," in text else text
    if coord.dtype.kind == "b":
        text = {"true": "1", "false": "0"}.get(text.lower(), text)
    try:
        if ":" in text:
            low, _, high = text.partition(":")
            return slice(float(low) if low else None, float(high) if high else None)
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(
            f"selection {pair!r}: give a number, low:high, or numbers with commas"
        ) from None
    return numbers if len(numbers) > 1 else numbers[0]


def _select_one(dataset: xr.Dataset, name: str, wanted: Any) -> xr.Dataset:
    if name not in dataset.coords:
        raise ValueError(
            f"there is no coordinate {name!r} here; there are {', '.join(map(str, dataset.coords))}"
        )
    coord = dataset[name]
    if coord.ndim != 1:
        raise ValueError(
            f"selection of {name!r}: it has dims {coord.dims}; select along one of them"
        )
    (dim,) = coord.dims
    places = _places(coord, wanted)
    if not len(places):
        present = pd.unique(coord.values)
        shown = ", ".join(map(str, present[:12])) + (", …" if len(present) > 12 else "")
        raise ValueError(f"selection of {name!r}: nothing is {wanted!r}; there are {shown}")
    # A scalar drops the dimension where its label is unique, as `.sel` does.
    single = len(places) == 1 and name == dim and not isinstance(wanted, slice | list)
    return dataset.isel({dim: int(places[0]) if single else places})


def _places(coord: xr.DataArray, wanted: Any) -> Any:
    values = coord.values
    if isinstance(wanted, slice):
        low = -np.inf if wanted.start is None else wanted.start
        high = np.inf if wanted.stop is None else wanted.stop
        return np.flatnonzero((values >= low) & (values <= high))
    chosen = wanted if isinstance(wanted, list) else [wanted]
    if values.dtype.kind in "OUT":
        matches = [np.flatnonzero(values == label) for label in chosen]
    else:
        matches = [
            np.flatnonzero(np.isclose(values, label, rtol=1e-6, atol=1e-9)) for label in chosen
        ]
    if any(not len(match) for match in matches):
        return np.array([], dtype=np.int64)
    return np.concatenate(matches)
