"""Labels that several entries share, such as the region of voxels, selected by `.sel`.

pandas' indexes are made for labels that are unique: xarray then takes one coordinate per dimension
at a time, no lists, and drops the dimension where a single entry is left.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from xarray.core.indexing import IndexSelResult
from xarray.indexes import Index

Labels = dict[Hashable, NDArray[Any]]


class LabelIndex(Index):
    """All coordinates of one dimension that `.sel` takes, alone or together.

    ``.sel(subject="sub-02", roi=["V1", "V2"])`` keeps the entries that have all of these labels, in
    their order, and always the dimension. Every label asked for must be there (KeyError).
    """

    def __init__(self, dim: Hashable, labels: Labels) -> None:
        self.dim = dim
        self.labels = labels

    @classmethod
    def from_variables(
        cls, variables: Mapping[Any, xr.Variable], *, options: Mapping[str, Any]
    ) -> "LabelIndex":
        """Index one-dimensional coordinates of the same dimension."""
        (dim,) = {dim for variable in variables.values() for dim in variable.dims}
        return cls(dim, {name: variable.values for name, variable in variables.items()})

    @classmethod
    def concat(
        cls,
        indexes: Sequence["LabelIndex"],
        dim: Hashable,
        positions: Iterable[Iterable[int]] | None = None,
    ) -> "LabelIndex":
        """Join the entries of several indexes."""
        names = indexes[0].labels
        joined = {name: np.concatenate([index.labels[name] for index in indexes]) for name in names}
        if positions is not None:
            order = np.argsort(np.concatenate([list(part) for part in positions]))
            joined = {name: values[order] for name, values in joined.items()}
        return cls(dim, joined)

    def create_variables(
        self, variables: Mapping[Any, xr.Variable] | None = None
    ) -> dict[Hashable, xr.Variable]:
        """Return the coordinates, with the attributes of those given."""
        attrs = {name: variable.attrs for name, variable in (variables or {}).items()}
        return {
            name: xr.Variable((self.dim,), values, attrs.get(name))
            for name, values in self.labels.items()
        }

    def isel(self, indexers: Mapping[Any, Any]) -> "LabelIndex | None":
        """Keep the entries at these positions; a single one has no dimension left to index."""
        at = indexers.get(self.dim, slice(None))
        if isinstance(at, xr.Variable):
            if at.dims != (self.dim,):
                return None
            at = at.values
        if not isinstance(at, slice) and np.ndim(at) == 0:
            return None
        return LabelIndex(self.dim, {name: values[at] for name, values in self.labels.items()})

    def sel(
        self,
        labels: dict[Any, Any],
        method: str | None = None,
        tolerance: Any = None,
    ) -> IndexSelResult:
        """Return the positions of the entries that have all these labels."""
        if method is not None or tolerance is not None:
            raise ValueError(f"{', '.join(labels)}: labels are equal or not; leave out `method`")
        chosen = np.ones(len(next(iter(self.labels.values()))), dtype=bool)
        for name, wanted in labels.items():
            chosen &= self._having(name, wanted)
        return IndexSelResult({self.dim: np.flatnonzero(chosen)})

    def _having(self, name: Hashable, wanted: Any) -> NDArray[np.bool_]:
        if isinstance(wanted, slice):
            raise ValueError(f"{name}: labels have no order; give one or a list, not {wanted}")
        values = self.labels[name]
        found = np.zeros(len(values), dtype=bool)
        for label in np.atleast_1d(np.asarray(wanted, dtype=object)):
            having = np.asarray(values == label, dtype=bool)
            if not having.any():
                present = ", ".join(map(str, pd.unique(values.astype(object))[:12]))
                raise KeyError(f"{name}: nothing is {label!r}; there are {present}")
            found |= having
        return found

    def equals(self, other: Index, *, exclude: frozenset[Hashable] | None = None) -> bool:
        """Whether both have the same labels in the same order."""
        return (
            isinstance(other, LabelIndex)
            and self.dim == other.dim
            and self.labels.keys() == other.labels.keys()
            and all(np.array_equal(self.labels[name], other.labels[name]) for name in self.labels)
        )

    def rename(
        self, name_dict: Mapping[Any, Hashable], dims_dict: Mapping[Any, Hashable]
    ) -> "LabelIndex":
        """Follow the new names."""
        labels = {name_dict.get(name, name): values for name, values in self.labels.items()}
        return LabelIndex(dims_dict.get(self.dim, self.dim), labels)

    def to_pandas_index(self) -> pd.Index:
        """Return the dimension's own labels."""
        if self.dim not in self.labels:
            raise TypeError(f"{self.dim} has no labels of its own")
        return pd.Index(self.labels[self.dim], name=self.dim)

    def __repr__(self) -> str:
        return f"LabelIndex({self.dim}: {', '.join(map(str, self.labels))})"

    def _repr_inline_(self, max_width: int) -> str:
        return repr(self)[:max_width]
