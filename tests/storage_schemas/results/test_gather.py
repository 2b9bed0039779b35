"""Scores of models and subjects side by side, each under its own labels."""

import numpy as np
import pytest
import xarray as xr

from storage_schemas.results.gather import gather_scores
from storage_schemas.results.tree import with_indexes

pytestmark = pytest.mark.filterwarnings("error")

LAYERS = {"small": ["conv", "fc"], "large": ["conv", "conv2", "fc"]}
ROIS = {"01": ["V1", "V4"], "02": ["V4", "V4"]}


def leaf(model: str, subject: str) -> xr.Dataset:
    """Every value tells its model, layer, subject and voxel."""
    base = 100 * list(LAYERS).index(model) + 1000 * list(ROIS).index(subject)
    layers = LAYERS[model]
    r = base + 10 * np.arange(len(layers))[:, None] + np.arange(2.0)
    coords = {
        "bands": ["forward"],
        "layer": np.array(layers, dtype=object),
        "layer_depth": ("layer", np.linspace(0, 1, len(layers))),
        "roi": ("voxel", np.array(ROIS[subject], dtype=object)),
    }
    return with_indexes(xr.Dataset({"r": (("bands", "layer", "voxel"), r[None])}, coords))


def tree(*pairs: tuple[str, str]) -> xr.DataTree:
    return xr.DataTree.from_dict({f"/scores/{m}/{s}/fmri": leaf(m, s) for m, s in pairs})


ALL = [(model, subject) for model in LAYERS for subject in ROIS]


def test_every_value_keeps_its_labels() -> None:
    gathered = gather_scores(tree(*ALL), "fmri")
    assert dict(gathered.sizes) == {"bands": 1, "layer": 5, "voxel": 4}
    for model, subject in ALL:
        found = gathered.sel(model=model, subject=subject)
        own = leaf(model, subject)
        np.testing.assert_array_equal(found["r"], own["r"])
        for name in ("layer", "layer_depth", "roi"):
            np.testing.assert_array_equal(found[name], own[name])
    assert gathered["r"].sel(subject="02", roi="V4").sizes["voxel"] == 2


def test_labels_of_one_dimension_are_selected_together() -> None:
    gathered = gather_scores(tree(*ALL), "fmri")
    chosen = gathered.sel(model="large", layer="fc", subject="02", roi="V4", bands="forward")
    np.testing.assert_array_equal(chosen["r"], leaf("large", "02")["r"].values[0, [2]])
    # One entry that is left keeps its dimension, whatever the labels of the others.
    assert gathered["r"].sel(roi="V1").dims == ("bands", "layer", "voxel")
    several = gathered["r"].sel(roi=["V4", "V1"], model=["small"])
    np.testing.assert_array_equal(several, gathered["r"][:, :2])
    # What was selected can be selected from again.
    assert several.sel(subject="01", roi="V1").sizes == {"bands": 1, "layer": 2, "voxel": 1}


def test_labelled_results_calculate_and_concatenate() -> None:
    own = leaf("small", "01")
    difference = own["r"].sel(layer="fc") - own["r"].sel(layer="conv")
    assert difference.sel(roi="V4").values.tolist() == [[10.0]]
    how = {"data_vars": "minimal", "coords": "minimal", "compat": "override", "join": "exact"}
    both = xr.concat([own, leaf("small", "02")], "voxel", **how)
    assert both.sel(roi="V4").sizes["voxel"] == 3
    assert own.rename(roi="area").sel(area="V1").sizes["voxel"] == 1
    assert "roi" not in own.isel(voxel=0).xindexes


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        ({"roi": "V9"}, KeyError, "roi: nothing is 'V9'; there are V1, V4"),
        ({"roi": ["V1", "V9"]}, KeyError, "nothing is 'V9'"),
        ({"roi": slice("V1", "V4")}, ValueError, "labels have no order; give one or a list"),
        ({"roi": "V1", "method": "nearest"}, ValueError, "leave out `method`"),
    ],
)
def test_labels_that_are_not_there_are_named(
    labels: dict, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        leaf("small", "01").sel(**labels)


def test_a_choice_of_models_and_subjects() -> None:
    gathered = gather_scores(tree(*ALL), "fmri", models=["large"], subjects=["02"])
    np.testing.assert_array_equal(gathered["r"], leaf("large", "02")["r"])


def test_one_model_never_takes_the_labels_of_anothers_subject() -> None:
    """The subjects have equally many voxels, so nothing but the labels tells them apart."""
    apart = tree(("small", "01"), ("large", "02"))
    with pytest.raises(
        ValueError, match="no fmri scores of the model 'small' and the subject '02'"
    ):
        gather_scores(apart, "fmri")
    np.testing.assert_array_equal(
        gather_scores(apart, "fmri", models=["large"], subjects=["02"])["r"],
        leaf("large", "02")["r"],
    )


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"modality": "eeg"}, "modality is 'eeg'; give one of fmri, meg"),
        ({"modality": "meg"}, "has no meg scores"),
        ({"models": ["smal"]}, "no scores of the model 'smal'; there are of small, large"),
        ({"subjects": ["03"]}, "no scores of the subject '03'; there are of 01, 02"),
        ({"models": []}, "no model is chosen; there are scores of small, large"),
    ],
)
def test_what_is_not_there_is_named(choice: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gather_scores(tree(*ALL), **{"modality": "fmri", **choice})
