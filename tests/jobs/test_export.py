"""Exports of a result that is not finished."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from gradenc_errors import Remedy
from jobs.export import NotExportable, export


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


def test_what_cannot_say_committed_takes_nothing_else(half: xr.Dataset, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"not committed, which \.nii\.gz cannot say"):
        export(half, "r", tmp_path / "r.nii.gz")
    assert not list(tmp_path.iterdir())
    export(half.sel(layer="conv"), "r", tmp_path / "r.nii.gz")
    export(half, "r", tmp_path / "r.csv")
    assert "False" in (tmp_path / "r.csv").read_text()


def test_a_map_is_named_after_what_was_selected(half: xr.Dataset, tmp_path: Path) -> None:
    export(half.sel(layer="conv"), "r", tmp_path / "r.nii.gz")
    assert '"r, conv"' in (tmp_path / "r.json").read_text()


@pytest.mark.parametrize(
    ("name", "remedy"),
    [("r.func.gii", Remedy.GIVE_SURFACE), ("r-ave.fif", Remedy.SELECT_OR_AVERAGE)],
)
def test_what_a_format_lacks_is_told_in_words_that_are_right_in_a_notebook(
    half: xr.Dataset, tmp_path: Path, name: str, remedy: Remedy
) -> None:
    with pytest.raises(NotExportable, match=name) as caught:
        export(half.sel(layer="conv"), "r", tmp_path / name)
    assert caught.value.remedy is remedy
    assert "--" not in str(caught.value)
