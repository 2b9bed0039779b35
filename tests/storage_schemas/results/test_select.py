"""Selections by labels, and averages of a result that is not finished."""

import re
from typing import Any

import numpy as np
import pytest
import xarray as xr

from storage_schemas.results.select import average, parse_selection, select


@pytest.fixture
def half() -> xr.Dataset:
    """Scores of two layers, the second of which is not committed."""
    r = np.array([[0.5, 0.25], [np.nan, np.nan]])
    coords = {
        "layer": ["conv", "fc"],
        "committed": ("layer", [True, False]),
        **{axis: ("voxel", [0, 1]) for axis in "ijk"},
    }
    where = {"volume_shape": [2, 2, 2], "affine": np.eye(4).ravel().tolist()}
    return xr.Dataset({"r": (("layer", "voxel"), r)}, coords, where)


def test_a_mean_over_what_is_not_committed_is_not_committed(half: xr.Dataset) -> None:
    over_layers = average(half, ["layer"])
    assert not over_layers["committed"]
    assert np.isnan(over_layers["r"]).all()
    over_voxels = average(half, ["voxel"])
    assert over_voxels["committed"].values.tolist() == [True, False]
    assert over_voxels["r"][0] == 0.375
    done = select(half, parse_selection(half, ["committed=true"]))
    assert average(done, ["layer"])["r"].values.tolist() == [0.5, 0.25]


def test_a_mean_of_a_finished_run_skips_folds_without_a_score(half: xr.Dataset) -> None:
    finished = half.drop_vars("committed")
    assert average(finished, ["layer"])["r"].values.tolist() == [0.5, 0.25]


@pytest.fixture
def tables() -> xr.Dataset:
    coords = {
        "layer": ["conv", "fc"],
        "roi": ("voxel", ["V1", "V1", "V2"]),
        "x": ("voxel", [1.0, 2.5, 4.0]),
    }
    return xr.Dataset({"r": (("layer", "voxel"), np.arange(6.0).reshape(2, 3))}, coords)


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        (["layer=fc"], [3, 4, 5]),
        (["roi=V1", "layer=conv"], [0, 1]),
        (["layer=fc,conv", "roi=V2"], [[5], [2]]),
        (["x=2:4", "layer=conv"], [1, 2]),
        (["x=:2", "layer=conv"], [0]),
        (["x=4,1", "layer=conv"], [2, 0]),
    ],
)
def test_values_are_chosen_by_their_labels(
    tables: xr.Dataset, pairs: list[str], expected: list[Any]
) -> None:
    assert select(tables, parse_selection(tables, pairs))["r"].values.tolist() == expected


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ("layer", "write name=value"),
        ("area=V1", "there is no coordinate 'area' here; there are layer, roi, x"),
        ("x=near", "give a number, low:high, or numbers with commas"),
        ("roi=V9", "nothing is 'V9'; there are V1, V2"),
        ("roi=V1,V9", "nothing is ['V1', 'V9']; there are V1, V2"),
    ],
)
def test_a_selection_of_nothing_names_what_is_there(
    tables: xr.Dataset, pair: str, message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        select(tables, parse_selection(tables, [pair]))


def test_a_coordinate_that_is_not_there_is_named_in_python_too(tables: xr.Dataset) -> None:
    with pytest.raises(ValueError, match="no coordinate 'area' here; there are layer, roi, x"):
        select(tables, {"area": "V1"})
