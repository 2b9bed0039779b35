"""Features of one layer, read from disk by rows, and of two sources beside each other."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from gradenc_core.arrays import Rows
from jobs.spec import Reference
from storage_schemas.kinds.features import layer_array, layer_features
from storage_schemas.protocol.store import Store


@dataclass(frozen=True)
class LayerRows:
    """Features of one layer on disk, (n_stimuli, n_features)."""

    data: xr.DataArray

    @property
    def shape(self) -> tuple[int, ...]:
        """(n_stimuli, n_features)."""
        return self.data.shape

    def __getitem__(self, rows: slice) -> NDArray[np.float32]:
        """Read some stimuli."""
        values: NDArray[np.float32] = self.data[rows].values
        return values


@dataclass(frozen=True)
class BandRows:
    """Two bands beside each other, (n_stimuli, features of both)."""

    first: Rows
    second: Rows

    @property
    def shape(self) -> tuple[int, ...]:
        """(n_stimuli, features of both)."""
        return self.first.shape[0], self.first.shape[1] + self.second.shape[1]

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        """Read some stimuli."""
        return np.hstack([self.first[rows], self.second[rows]])


def layers(reference: Reference, root: Path) -> list[LayerRows]:
    """Return the features of every layer of a store."""
    data = reference.open(root).dataset(dask=False)
    return [LayerRows(layer_features(data, layer)) for layer in range(data.sizes["layer"])]


def fitted_rows(
    references: Sequence[Reference], layer: int, root: Path
) -> tuple[Rows, tuple[int, int] | None]:
    """Return a layer's features (n_stimuli, n_features), and the sizes of two bands."""
    bands = [layers(reference, root)[layer] for reference in references]
    if len(bands) == 1:
        return bands[0], None
    first, second = bands
    return BandRows(first, second), (first.shape[1], second.shape[1])


def layer_widths(reference: Reference, root: Path) -> list[int]:
    """Return the number of features of every layer of a features store.

    Raises
    ------
    FileNotFoundError
        If the store is gone.
    """
    arrays = Store.find(root, reference.stage, reference.identity).arrays
    if (projected := arrays.get("features")) is not None:
        return [projected.shape[-1]] * projected.shape[0]
    return [arrays[layer_array(layer)].shape[-1] for layer in range(len(arrays))]


def n_rows(reference: Reference, root: Path) -> int:
    """Return the number of images of a features store; FileNotFoundError if it is gone."""
    arrays = Store.find(root, reference.stage, reference.identity).arrays
    return int(next(iter(arrays.values())).shape[-2])
