"""Columns read from the response stores are those of the whole arrays, at every border."""

import tracemalloc

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from gradenc_core.ridge.targets import TARGET_WIDTH
from jobs.recorded import SensorColumns, SideBySide, VoxelColumns, region_means

WINDOWS = ((0.0, 0.2), (0.1, 0.4))


def voxels(seed: int, n_voxels: int = 7) -> xr.DataArray:
    values = np.random.default_rng(seed).standard_normal((5, n_voxels)).astype(np.float32)
    return xr.DataArray(values, dims=("stimulus", "voxel"))


def sensors(seed: int, n_sensors: int = 3) -> xr.DataArray:
    values = np.random.default_rng(seed).standard_normal((5, n_sensors, 4)).astype(np.float32)
    times = {"time": [0.0, 0.1, 0.2, 0.3]}
    return xr.DataArray(values, dims=("stimulus", "sensor", "time"), coords=times)


class CopiedOnRead:
    """An array whose slices are copies, as those on disk are."""

    def __init__(self, data: xr.DataArray) -> None:
        self.data, self.shape = data, data.shape

    def __getitem__(self, index):
        return self.data["time"] if index == "time" else self.data[index].copy()


def means(data: xr.DataArray) -> np.ndarray:
    values = data.values.astype(np.float64)
    both = [values[..., :2].mean(axis=-1), values[..., 1:].mean(axis=-1)]
    return np.stack(both, axis=-1).reshape(len(values), -1)


@settings(deadline=None)  # the first example imports what xarray needs
@given(st.integers(0, 31), st.integers(1, 32))
def test_any_slice_of_columns_is_that_of_the_subjects_side_by_side(start: int, width: int) -> None:
    parts = (
        VoxelColumns(voxels(0)),
        SensorColumns(sensors(1), None),
        SensorColumns(sensors(2), WINDOWS),
        VoxelColumns(voxels(3, 1)),
        SensorColumns(sensors(4, 1), None),
    )
    whole = np.concatenate(
        [
            voxels(0).values,
            sensors(1).values.reshape(5, -1),
            means(sensors(2)),
            voxels(3, 1).values,
            sensors(4, 1).values.reshape(5, -1),
        ],
        axis=1,
    )
    columns = SideBySide(parts)
    assert columns.shape == whole.shape == (5, 30)
    chosen = slice(min(start, 29), start + width)
    found = columns[slice(None), chosen]
    np.testing.assert_allclose(found, whole[:, chosen], rtol=1e-12)


@pytest.mark.parametrize("windows", [None, WINDOWS])
def test_no_more_than_a_sensor_is_in_memory_besides_the_columns(windows) -> None:
    """A block of window means covers hundreds of sensors, whose samples are gigabytes."""
    n_stimuli, n_sensors, n_times = 500, 40, 100
    one = n_stimuli * n_times * 4
    values = np.zeros((n_stimuli, n_sensors, n_times), dtype=np.float32)
    times = {"time": np.linspace(0, 0.4, n_times)}
    data = xr.DataArray(values, dims=("stimulus", "sensor", "time"), coords=times)
    columns = SensorColumns(CopiedOnRead(data), windows)
    tracemalloc.start()
    block = columns[slice(None), slice(0, 80)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert block.shape == (n_stimuli, 80)
    assert peak < 4 * one + 4 * block.nbytes


@pytest.mark.parametrize("at_once", [2, 4096])
def test_region_means_leave_voxels_with_a_nan_out(monkeypatch, at_once: int) -> None:
    monkeypatch.setattr("jobs.recorded.VOXELS_AT_ONCE", at_once)
    responses = voxels(0)
    responses[2, 1] = responses[0, 6] = np.nan
    roi = np.array(["V1", "V1", "V1", "V2", "V1", "V2", "V4"], dtype=object)
    side = np.array(["L", "L", "L", "L", "R", "L", "L"], dtype=object)
    data = xr.Dataset(
        {"responses": responses}, {"roi": ("voxel", roi), "hemisphere": ("voxel", side)}
    )
    found = region_means(data, ["V1:L", "V1:R", "V2:L", "V4:L"])
    values = responses.values.astype(np.float64)
    want = [values[:, [0, 2]].mean(axis=1), values[:, 4], values[:, [3, 5]].mean(axis=1)]
    np.testing.assert_allclose(found[:, :3], np.stack(want, axis=1))
    assert np.isnan(found[:, 3]).all()


def test_region_means_take_less_memory_than_a_block_of_targets() -> None:
    n, n_voxels = 200, 3 * TARGET_WIDTH
    site = {
        "roi": ("voxel", np.array(["V1"] * n_voxels, dtype=object)),
        "hemisphere": ("voxel", np.array(["L"] * n_voxels, dtype=object)),
    }
    responses = (("stimulus", "voxel"), np.zeros((n, n_voxels), dtype=np.float32))
    data = xr.Dataset({"responses": responses}, site)
    tracemalloc.start()
    region_means(data, ["V1:L"])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * 8 * TARGET_WIDTH * n
