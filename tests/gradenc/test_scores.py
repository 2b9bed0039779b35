"""Scores in a notebook: those of a study, aligned by name."""

import numpy as np
import pytest
import xarray as xr
from threadpoolctl import ThreadpoolController, threadpool_limits

import gradenc as ge
from gradenc import scores as door

N, TARGETS = 40, 3


@pytest.fixture(scope="module")
def features() -> xr.DataArray:
    rng = np.random.default_rng(0)
    return xr.DataArray(
        rng.standard_normal((2, N, 5)),
        dims=("layer", "stimulus", "feature"),
        coords={
            "layer": ["early", "late"],
            "layer_depth": ("layer", [0.5, 1.0]),
            "stimulus": [f"image{i:02d}" for i in range(N)],
            "stimulus_digest": ("stimulus", [f"{i:064x}" for i in range(N)]),
        },
    )


@pytest.fixture(scope="module")
def betas(features: xr.DataArray) -> xr.DataArray:
    rng = np.random.default_rng(1)
    values = features.values[1] @ rng.standard_normal((5, TARGETS))
    values += rng.standard_normal(values.shape)
    coords = {"stimulus": features.stimulus.values, "voxel": ["a", "b", "c"]}
    return xr.DataArray(values, dims=("stimulus", "voxel"), coords=coords)


def test_scores_are_those_that_a_study_stores(finished: ge.Run) -> None:
    tree = finished.results
    features = tree["features/planted/forward"].to_dataset()["features"].load()
    responses = tree["responses/sub-01/fmri"].to_dataset()["responses"]
    responses = responses.drop_vars([n for n in responses.coords if n not in ("stimulus",)]).load()
    shown = features.sel(stimulus=responses.stimulus.values)
    found = ge.encode(shown, responses, folds=4, alpha_choice="gcv")
    stored = tree["scores/planted/sub-01/fmri"].to_dataset()["r"].sel(bands="forward")
    expected = stored.transpose("layer", "fold", "voxel").values
    np.testing.assert_allclose(found.r.values, expected, atol=1e-5)


def test_rows_are_matched_by_name(features: xr.DataArray, betas: xr.DataArray) -> None:
    plain = ge.encode(features, betas.values)
    assert plain.r.dims == ("layer", "fold", "target")
    shuffled = betas.isel(stimulus=np.random.default_rng(2).permutation(N))
    named = ge.encode(features, shuffled)
    assert named.r.dims == ("layer", "fold", "voxel")
    np.testing.assert_array_equal(named.r.values, plain.r.values)
    assert named.voxel.values.tolist() == ["a", "b", "c"]
    assert named.layer_depth.values.tolist() == [0.5, 1.0]
    assert (named.r.sel(layer="late") > named.r.sel(layer="early")).all()


def test_r2_is_one_minus_the_share_of_the_error(
    features: xr.DataArray, betas: xr.DataArray
) -> None:
    scores = ge.encode(features, betas)
    noise = betas - betas.mean("stimulus")
    late, early = scores.sel(layer="late"), scores.sel(layer="early")
    assert (late.r2 <= late.r**2 + 1e-6).all(), "no prediction beats its own regression line"
    assert float(late.r2.mean()) > 0.2 > float(early.r2.mean())
    scaled = ge.encode(features, 1000 * noise).sel(layer="late")
    np.testing.assert_allclose(scaled.r2, late.r2, atol=1e-4)


def test_sensors_and_times_stay_apart(features: xr.DataArray) -> None:
    values = np.random.default_rng(0).standard_normal((N, 2, 4))
    epochs = xr.DataArray(values, dims=("stimulus", "sensor", "time"))
    scores = ge.encode(features.sel(layer="late"), epochs)
    assert scores.r.dims == ("fold", "sensor", "time")
    alone = ge.encode(features.sel(layer="late"), epochs.isel(sensor=1))
    np.testing.assert_array_equal(scores.r.values[:, 1], alone.r.values)


def test_own_folds_are_taken(features: xr.DataArray, betas: xr.DataArray) -> None:
    own = np.arange(N) % 4
    bare = features.drop_vars("stimulus_digest")
    assert ge.encode(bare, betas, folds=own).sizes["fold"] == 4
    with pytest.raises(ValueError, match="no coordinate stimulus_digest"):
        ge.encode(bare, betas)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b.isel(stimulus=slice(1, None)), "1 stimuli, such as image00, have no response"),
        (lambda b: xr.concat([b, b[:2]], "stimulus"), "such as image00, image01, have several"),
        (lambda b: b.assign_coords(stimulus=["x", *b.stimulus.values[1:]]), "have no response"),
        (lambda b: b.values[1:], "responses has 39 rows, features has 40 stimuli"),
        (lambda b: b.rename(stimulus="trial"), "name the one along which images differ"),
    ],
)
def test_responses_of_other_stimuli_are_refused(features, betas, change, message) -> None:
    with pytest.raises(ValueError, match=message):
        ge.encode(features, change(betas))


def test_targets_of_all_blocks_are_scored_in_order(features: xr.DataArray) -> None:
    rng = np.random.default_rng(3)
    x = features.sel(layer="late")
    own = rng.standard_normal((N, 2100))
    own[:, [0, 1023, 1024, 2099]] += 3 * x.values[:, :1]
    scores = ge.encode(x, own, alpha_choice="gcv")
    assert scores.r.shape == (5, 2100)
    assert set(np.argsort(scores.r.mean("fold").values)[-4:]) == {0, 1023, 1024, 2099}
    alone = ge.encode(x, own[:, 1024:1026], alpha_choice="gcv")
    np.testing.assert_array_equal(scores.r.values[:, 1024:1026], alone.r.values)


def test_a_block_of_targets_has_one_blas_thread(
    features: xr.DataArray, betas: xr.DataArray, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, score = set(), door.score_targets

    def watched(*given):
        seen.update(one["num_threads"] for one in blas.info())
        return score(*given)

    monkeypatch.setattr(door, "score_targets", watched)
    blas = ThreadpoolController().select(user_api="blas")
    with threadpool_limits(2, user_api="blas"):
        ge.encode(features, betas)
        assert {one["num_threads"] for one in blas.info()} == {2}
    assert seen == {1}


def test_a_number_of_folds_of_any_integer_type_is_taken(features, betas) -> None:
    xr.testing.assert_identical(
        ge.encode(features, betas, folds=np.int64(4)), ge.encode(features, betas, folds=4)
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"folds": 3.0}, "folds is 3.0; give their number"),
        ({"folds": True}, "folds is True; give their number"),
        ({"features": "a Dataset"}, "features is a Dataset; give a variable of what extract"),
        ({"responses": "by layer"}, "responses has a dimension 'layer'"),
    ],
)
def test_mistaken_arguments_are_named(features, betas, given, message) -> None:
    arguments = {"features": features, "responses": betas, "folds": 4} | given
    if "features" in given:
        arguments["features"] = features.to_dataset(name="forward")
    if "responses" in given:
        arguments["responses"] = betas.rename(voxel="layer")
    with pytest.raises(ValueError, match=message):
        ge.encode(**arguments)
