"""Selections of a run's results as the files that other programs read."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypedDict, TypeVar

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from gradenc_core.recordings.export import to_evoked, write_gifti, write_nifti
from gradenc_errors import GradencError, Remedy
from storage_schemas.results.partial import COMMITTED


class NotExportable(GradencError, ValueError):
    """A selection that a format cannot hold as it is."""


def export(dataset: xr.Dataset, name: str, path: Path, surface: Path | None = None) -> None:
    """Write a variable of a selection in the format that the file's name asks for.

    Parameters
    ----------
    dataset : xr.Dataset
        Selected values with all coordinates. NIfTI and GIFTI need the dimension voxel, one map for
        every entry of the others; Evoked needs exactly sensor and time.
    name : str
        The variable.
    path : Path
        Ends in one of `FORMATS`.
    surface : Path, optional
        For GIFTI: the subject's surface (.surf.gii) in scanner space.

    Raises
    ------
    NotExportable, ValueError
        If the name or the dimensions do not fit.
    """
    ending = next((ending for ending in FORMATS if path.name.endswith(ending)), None)
    if ending is None:
        raise ValueError(f"{path}: the name must end in one of {', '.join(FORMATS)}")
    if ending not in LABELLED and COMMITTED in dataset and not dataset[COMMITTED].all():
        raise ValueError(
            f"{path}: part of this selection is not committed, which {ending} cannot say: select "
            f"what is committed, or write {', '.join(LABELLED)}"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    FORMATS[ending](dataset, name, path, surface)


def to_table(data: xr.DataArray) -> pd.DataFrame:
    """Return one row per value, with every coordinate as a column."""
    name = str(data.name)
    plain = _with_plain_indexes(data)
    elsewhere = [c for c in plain.coords if set(plain[c].dims) - set(data.dims)]
    frame = plain.drop_vars(elsewhere).to_dataframe(name=name).reset_index()
    columns = [str(column) for column in frame if column != name]
    # Labels before numbers, in one order whatever order the store lists them in.
    columns.sort(key=lambda column: (pd.api.types.is_numeric_dtype(frame[column]), column))
    return frame[[*columns, name]]


Labelled = TypeVar("Labelled", xr.DataArray, xr.Dataset)


def _with_plain_indexes(data: Labelled) -> Labelled:
    """Return the data with pandas' index of every dimension that has labels, and no other."""
    plain = data.drop_indexes(list(data.xindexes))
    for dim in data.dims:
        if dim in data.coords:
            plain = plain.set_xindex(str(dim))
    return plain


class VoxelMaps(TypedDict):
    """Values of voxels with their places: the arguments of the writers of NIfTI and GIFTI."""

    values: NDArray[np.float64]
    ijk: NDArray[np.int64]
    shape: tuple[int, int, int]
    affine: NDArray[np.float64]
    names: list[str]


def _maps(dataset: xr.Dataset, name: str) -> VoxelMaps:
    """Return one map for every entry of the dimensions other than voxel."""
    data = dataset[name]
    if "voxel" not in data.dims or "affine" not in dataset.attrs:
        raise ValueError(
            "this selection has no voxels of one subject with their places: choose fMRI scores or "
            "responses of one subject"
        )
    others = [dim for dim in data.dims if dim != "voxel"]
    flat = data.transpose("voxel", *others).values.reshape(data.sizes["voxel"], -1)
    labels = [
        [
            f"{dim}={data[dim].values[i] if dim in data.coords else i}"
            for i in range(data.sizes[dim])
        ]
        for dim in others
    ]
    names = [" ".join(parts) for parts in _product(labels)] or [_title(data)]
    ijk = np.stack([data[axis].values for axis in "ijk"], axis=1)
    return VoxelMaps(
        values=flat,
        ijk=ijk,
        shape=dataset.attrs["volume_shape"],
        affine=np.reshape(dataset.attrs["affine"], (4, 4)),
        names=names,
    )


def _title(data: xr.DataArray) -> str:
    """Return the variable's name with the labels it was selected by, e.g. "r, forward, fc"."""
    chosen = [str(c.values) for c in data.coords.values() if not c.dims and c.dtype.kind in "OUT"]
    return ", ".join([str(data.name), *chosen])


def _product(labels: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
    combined: list[tuple[str, ...]] = [()]
    for part in labels:
        combined = [(*before, label) for before in combined for label in part]
    return combined if labels else []


def _write_csv(dataset: xr.Dataset, name: str, path: Path, _: Path | None) -> None:
    to_table(dataset[name]).to_csv(path, index=False)


def _write_parquet(dataset: xr.Dataset, name: str, path: Path, _: Path | None) -> None:
    to_table(dataset[name]).to_parquet(path, index=False)


def _write_nifti(dataset: xr.Dataset, name: str, path: Path, _: Path | None) -> None:
    write_nifti(path, **_maps(dataset, name))


def _write_gifti(dataset: xr.Dataset, name: str, path: Path, surface: Path | None) -> None:
    if surface is None:
        raise NotExportable(f"{path}: a GIFTI file has a surface", Remedy.GIVE_SURFACE)
    write_gifti(path, surface=surface, **_maps(dataset, name))


def _times(data: xr.DataArray) -> Any:
    """Return the samples' times, or the windows' centres (s)."""
    if "time" in data.dims:
        return data["time"].values
    return (data["window_start"] + data["window_stop"]).values / 2


def _write_evoked(dataset: xr.Dataset, name: str, path: Path, _: Path | None) -> None:
    data = dataset[name]
    if set(data.dims) not in ({"sensor", "time"}, {"sensor", "window"}):
        raise NotExportable(
            f"{path}: an Evoked has sensors and times (or windows) alone; this selection has "
            f"{', '.join(map(str, data.dims))}",
            Remedy.SELECT_OR_AVERAGE,
        )
    evoked = to_evoked(
        data.transpose("sensor", ...).values,
        [str(sensor) for sensor in data["sensor"].values],
        [str(kind) for kind in data["sensor_type"].values],
        dataset["sensor_loc"].values,
        _times(data),
        _title(data),
    )
    evoked.save(path, overwrite=True, verbose="error")


def _write_netcdf(dataset: xr.Dataset, name: str, path: Path, _: Path | None) -> None:
    _with_plain_indexes(dataset[[name]]).to_netcdf(path, engine="h5netcdf")


FORMATS: dict[str, Callable[[xr.Dataset, str, Path, Path | None], None]] = {
    ".csv": _write_csv,
    ".parquet": _write_parquet,
    ".nc": _write_netcdf,
    ".nii.gz": _write_nifti,
    ".nii": _write_nifti,
    ".func.gii": _write_gifti,
    ".shape.gii": _write_gifti,
    "-ave.fif": _write_evoked,
}
"""Ending of a file's name -> what writes it."""

LABELLED = (".csv", ".parquet", ".nc")
"""Formats that hold all coordinates, hence can say what is not committed."""
