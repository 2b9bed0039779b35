"""Targets of encoding, read from the response stores a few columns at a time."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from gradenc_core.arrays import Columns
from gradenc_core.recordings.windows import window_means
from jobs.spec import Reference
from storage_schemas.kinds.coordinates import Window
from storage_schemas.kinds.scores import ScoresAttrs, SummaryGroup, TargetGroup
from storage_schemas.protocol.store import Store

Array = NDArray[np.float64]

VOXELS_AT_ONCE = 1024
"""Voxels that region means are summed over in one read: less than a block of targets' memory."""


@dataclass(frozen=True)
class VoxelColumns:
    """Responses of voxels, (n_stimuli, n_voxels)."""

    data: xr.DataArray

    @property
    def shape(self) -> tuple[int, ...]:
        """(n_stimuli, n_voxels)."""
        return self.data.shape

    def __getitem__(self, index: tuple[slice, slice]) -> NDArray[np.floating]:
        """Read some voxels."""
        values: NDArray[np.floating] = self.data[index].values
        return values


@dataclass(frozen=True)
class SensorColumns:
    """Responses of sensors at times, or averaged over windows, (n_stimuli, n_sensors * n_times).

    `windows` are (start, stop) in s; None for every sample.
    """

    data: xr.DataArray
    windows: tuple[tuple[float, float], ...] | None

    @property
    def width(self) -> int:
        """Columns of one sensor."""
        return self.data.shape[2] if self.windows is None else len(self.windows)

    @property
    def shape(self) -> tuple[int, ...]:
        """(n_stimuli, n_sensors * n_times)."""
        return self.data.shape[0], self.data.shape[1] * self.width

    def __getitem__(self, index: tuple[slice, slice]) -> Array:
        """Read the sensors that some columns belong to."""
        rows, columns = index
        start, stop, _ = columns.indices(self.shape[1])
        first, last = start // self.width, -(-stop // self.width)
        # One at a time: a sensor has many more samples than windows.
        sensors = [self._read(rows, sensor) for sensor in range(first, last)]
        flat = np.concatenate(sensors, axis=1)[:, start - first * self.width :]
        return np.asarray(flat[:, : stop - start], dtype=np.float64)

    def _read(self, rows: slice, sensor: int) -> NDArray[np.floating]:
        """Return the columns of one sensor, (n_stimuli, width)."""
        values = self.data[rows, sensor].values
        if self.windows is None:
            return values
        return window_means(values, self.data["time"].values, self.windows)


@dataclass(frozen=True)
class SideBySide:
    """Columns of several subjects, one after another."""

    parts: tuple[Columns, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """(n_stimuli, columns of all)."""
        return self.parts[0].shape[0], sum(part.shape[1] for part in self.parts)

    def __getitem__(self, index: tuple[slice, slice]) -> NDArray[np.floating]:
        """Read some columns from the subjects that they belong to."""
        rows, columns = index
        start, stop, _ = columns.indices(self.shape[1])
        found, offset = [], 0
        for part in self.parts:
            inside = slice(max(start - offset, 0), min(stop - offset, part.shape[1]))
            if inside.start < inside.stop:
                found.append(part[rows, inside])
            offset += part.shape[1]
        return found[0] if len(found) == 1 else np.concatenate(found, axis=1)


@dataclass(frozen=True)
class ColumnRange:
    """Some adjacent columns of others."""

    columns: Columns
    start: int
    stop: int

    @property
    def shape(self) -> tuple[int, ...]:
        """(n_stimuli, stop - start)."""
        return self.columns.shape[0], self.stop - self.start

    def __getitem__(self, index: tuple[slice, slice]) -> NDArray[np.floating]:
        """Read some columns."""
        rows, columns = index
        first, last, _ = columns.indices(self.shape[1])
        values: NDArray[np.floating] = self.columns[
            rows, slice(self.start + first, self.start + last)
        ]
        return values


def split_like(columns: Columns, parts: Sequence[Columns]) -> tuple[Columns, ...]:
    """Split columns into as many and as wide ones as `parts`."""
    stops = np.cumsum([part.shape[1] for part in parts]).tolist()
    starts = [0, *stops[:-1]]
    return tuple(ColumnRange(columns, a, b) for a, b in zip(starts, stops, strict=True))


@dataclass(frozen=True)
class Recorded:
    """The recordings of the subjects of one scores store.

    Attributes
    ----------
    responses, summaries : SideBySide, (n_stimuli, n_targets) and (n_stimuli, n_summaries)
        One part per subject, in the order of the store's groups.
    timed : tuple of bool
        Per subject, whether its summaries are those of MEG.
    sessions : tuple of array of str, (n_stimuli,)
        Per subject, the session in which each stimulus was shown; "" where it was in several.
    weights : array, (n_stimuli,)
        Repeats averaged in each row, of mean 1.
    """

    responses: SideBySide
    summaries: SideBySide
    timed: tuple[bool, ...]
    sessions: tuple[NDArray[np.str_], ...]
    weights: Array

    @classmethod
    def of(cls, responses: Sequence[Reference], store: Store, root: Path) -> "Recorded":
        """Open the responses of a scores store's subjects."""
        opened = [reference.open(root).dataset(dask=False) for reference in responses]
        attrs = store.described(ScoresAttrs)
        groups = list(zip(opened, attrs.groups, strict=True))
        summaries = list(zip(opened, attrs.summary_groups, strict=True))
        weights = opened[-1]["n_repeats"].values.astype(np.float64)
        return cls(
            SideBySide(tuple(_targets(data, group) for data, group in groups)),
            SideBySide(tuple(_summaries(data, group) for data, group in summaries)),
            tuple(group.windows is not None for group in attrs.summary_groups),
            tuple(np.array(data["stimulus_session"].values.tolist()) for data in opened),
            weights / weights.mean(),
        )


def _targets(data: xr.Dataset, group: TargetGroup) -> Columns:
    responses = data["responses"]
    if group.modality == "fmri":
        return VoxelColumns(responses)
    return SensorColumns(responses, _edges(group.windows))


def _summaries(data: xr.Dataset, group: SummaryGroup) -> Columns:
    """Region means (fMRI), or sensor x window means (MEG)."""
    if group.windows is None:
        return region_means(data, group.names)
    return SensorColumns(data["responses"], _edges(group.windows))


def _edges(windows: Sequence[Window] | None) -> tuple[tuple[float, float], ...] | None:
    return None if windows is None else tuple((start, stop) for _, start, stop in windows)


def region_means(data: xr.Dataset, names: Sequence[str]) -> Array:
    """Return the mean response of every region `roi:hemisphere`, (n_stimuli, n_regions).

    Voxels that are NaN for any stimulus are left out of their region's mean; a region without
    others is NaN.
    """
    voxels = VoxelColumns(data["responses"])
    sites = zip(data["roi"].values, data["hemisphere"].values, strict=True)
    region = np.array([f"{roi}:{hemisphere}" for roi, hemisphere in sites], dtype=object)
    sums, counts = np.zeros((voxels.shape[0], len(names))), np.zeros(len(names))
    for start in range(0, voxels.shape[1], VOXELS_AT_ONCE):
        columns = slice(start, start + VOXELS_AT_ONCE)
        values = voxels[slice(None), columns].astype(np.float64)
        finite = np.isfinite(values).all(axis=0)
        for i, name in enumerate(names):
            inside = finite & (region[columns] == name)
            sums[:, i] += values[:, inside].sum(axis=1)
            counts[i] += inside.sum()
    return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)
