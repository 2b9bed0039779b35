"""A store with its lazy data, and how several stores of a run become one dataset."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

import numpy as np
import xarray as xr

from storage_schemas.kinds.schema import flag_names
from storage_schemas.protocol.store import Store

Node = tuple[str, xr.Dataset]
"""Path in the tree of results, and what stands there."""


class _Plain(TypedDict):
    data_vars: Literal["minimal"]
    coords: Literal["minimal"]


class _Exact(TypedDict):
    compat: Literal["override"]
    join: Literal["exact"]


PLAIN: _Plain = {"data_vars": "minimal", "coords": "minimal"}
EXACT: _Exact = {"compat": "override", "join": "exact"}
"""Stores of one run agree in their labels; that they do is checked, their values are not read."""


@dataclass(frozen=True)
class Opened:
    """A store with its lazy data."""

    store: Store
    data: xr.Dataset

    @property
    def attrs(self) -> dict[str, Any]:
        """The store's attributes under the study's names."""
        return self.store.attrs


def of_kind(stores: Iterable[Opened], kind: str) -> list[Opened]:
    """Return the stores of a kind."""
    return [store for store in stores if store.store.kind == kind]


def grouped(stores: Iterable[Opened], *keys: str) -> Iterator[tuple[tuple[str, ...], list[Opened]]]:
    """Yield the stores that agree in some attributes, with these."""
    groups: dict[tuple[str, ...], list[Opened]] = {}
    for store in stores:
        groups.setdefault(tuple(store.attrs[key] for key in keys), []).append(store)
    yield from groups.items()


def stacked(datasets: Sequence[xr.Dataset], dim: str, labels: Sequence[str]) -> xr.Dataset:
    """Stack datasets that agree in all labels along a new, labelled dimension."""
    coord = xr.DataArray(np.array(labels, dtype=object), dims=dim, name=dim)
    return xr.concat(
        datasets, coord, data_vars="all", coords="minimal", combine_attrs="override", **EXACT
    )


def named(array: xr.DataArray, long_name: str) -> xr.DataArray:
    """Describe an array without unit."""
    return array.assign_attrs(units="1", long_name=long_name)


def in_words(dataset: xr.Dataset) -> xr.Dataset:
    """Show arrays of flags, such as verdicts, by the names of their values, unknown ones by ""."""
    return dataset.assign(
        {
            name: _words(array)
            for name, array in dataset.data_vars.items()
            if "flag_meanings" in array.attrs
        }
    )


def _words(codes: xr.DataArray) -> xr.DataArray:
    names = flag_names(codes.attrs)
    look_up = np.vectorize(lambda code: names.get(int(code), ""), otypes=[object])
    words = codes.copy(data=codes.data.map_blocks(look_up, dtype=object))
    words.attrs = {"long_name": codes.attrs["long_name"]}
    return words
