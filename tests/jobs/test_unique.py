"""Stage encode beyond the baseline: what is stored, against the parts put together by hand."""

from pathlib import Path

import numpy as np
import pytest

from gradenc_core.ridge.encode import score_targets
from gradenc_core.ridge.factorise import factorise
from gradenc_core.ridge.resample import permutation_scores
from gradenc_core.unique.residuals import Within, baseline_components
from jobs.recorded import Recorded
from jobs.rows import layers
from jobs.spec import ScoresSpec
from jobs.unique import feature_columns
from storage_schemas.protocol.commit import facts_of
from storage_schemas.protocol.store import Store
from storage_schemas.runs.run import run_stores

LAYER = 2


@pytest.fixture(scope="module")
def beyond(small_run: Path) -> dict[str, Store]:
    """Return the small run's scores of sources beyond the baseline, by bands."""
    scores = (store for store in run_stores(small_run, "encode") if store.kind == "scores")
    found = {store.attrs["bands"]: store for store in scores}
    return {bands: store for bands, store in found.items() if bands.startswith("baseline+")}


def test_a_layers_scores_are_those_of_residual_coordinates(
    beyond: dict[str, Store], small_run: Path
) -> None:
    store, root = beyond["baseline+gradient:classification"], small_run / "stores"
    spec, data = ScoresSpec.model_validate(store.spec), store.dataset().load()
    recorded = Recorded.of(spec.responses, store, root)
    assert spec.beyond is not None
    folds = data["stimulus_fold"].values
    n_training = len(folds) - int(np.bincount(folds).max())
    baseline = baseline_components(
        layers(spec.beyond.baseline, root), None, spec.beyond.n_scalars, n_training
    )
    seen = Within.of(
        baseline.recorded,
        folds,
        data["stimulus_block"].values,
        recorded.weights,
        spec.encoding.seed,
    )
    features = layers(spec.features[0], root)[LAYER][slice(None)]
    design = factorise(seen.features(features), seen.folds, None, spec.encoding.ridge_options)
    expected = score_targets(design, seen.responses(recorded.responses))
    scores = data["scores"].isel(layer=LAYER)
    for name in ("r", "sse", "sst", "alpha"):
        stored = scores.sel(measure=name).values
        np.testing.assert_allclose(stored, getattr(expected, name), rtol=1e-5, atol=1e-6)
    y = recorded.responses[slice(None), slice(None)]
    centred = y - np.average(y, axis=0, weights=recorded.weights)
    total = scores.sel(measure="total").sum("fold").values
    np.testing.assert_allclose(total, recorded.weights @ centred**2, rtol=1e-5)
    permuted = permutation_scores(design, seen.responses(recorded.summaries), 19, 0)
    stored = data["permutation"].isel(layer=LAYER).values
    np.testing.assert_allclose(stored, permuted, atol=1e-6)
    timed = (data["summary_window"] != "").values
    np.testing.assert_allclose(data["bootstrap"].isel(layer=LAYER).values[0], permuted[0, timed])


def test_gradients_have_drawn_targets_and_controls_have_none(beyond: dict[str, Store]) -> None:
    gradient = beyond.pop("baseline+gradient:classification")
    data = gradient.dataset().load()
    null, simulated = data["null"].values, data["simulated"]
    assert abs(null.mean()) < 0.02
    assert simulated.dims == ("layer", "share", "driver", "tuning")
    assert np.isfinite(simulated).all()
    # A layer sees targets that its own gradient drives, the better the more it drives them.
    by_share = simulated.mean(["tuning", "driver", "layer"]).values
    assert (np.diff(by_share) > 0).all()
    assert by_share[-1] > 0.15
    assert set(beyond) == {"baseline+baseline", "baseline+forward"}
    for control in beyond.values():
        assert {"null", "simulated"}.isdisjoint(control.arrays)


def test_the_baselines_size_is_committed_with_every_unit(beyond: dict[str, Store]) -> None:
    for store in beyond.values():
        for unit in store.units:
            said = facts_of(store, unit)["baseline"]
            assert 0.999 <= said["kept"] < 1
            assert 10 < said["components"] <= said["columns"] == 36
            assert not said["learned"]


def test_a_baseline_without_room_gives_no_numbers_and_says_why(
    small_data: dict, run_here, tmp_path: Path
) -> None:
    import yaml

    encoding = small_data["encoding"] | {"baseline_width": 64, "permutations": 3, "bootstrap": 2}
    changes = {"encoding": encoding, "layers": ["layer2.0", "layer4.0"]}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(small_data | changes))
    run = run_here(tmp_path / "study.yaml", tmp_path / "run")
    (store,) = (s for s in run.stores("encode") if s.label.startswith("planted-baseline-gradient"))
    for name in ("scores", "bootstrap", "permutation", "null", "simulated"):
        assert np.isnan(store.dataset()[name].values).all()
    said = facts_of(store, store.units[0])["baseline"]["untested"]
    assert "name more images in unrecorded_images" in said
    verdicts = facts_of(run.stores("compare")[0], run.stores("compare")[0].units[0])["verdicts"]
    assert verdicts["unique:classification"]["verdict"] == "undecided"
    assert said in verdicts["unique:classification"]["sentence"]


def test_the_copy_of_the_baseline_holds_the_readout_beside_its_last_layer(
    beyond: dict[str, Store], small_run: Path
) -> None:
    root = small_run / "stores"
    spec = ScoresSpec.model_validate(beyond["baseline+baseline"].spec)
    (baseline,) = spec.features
    *_, before, last, readout = (rows[slice(None)] for rows in layers(baseline, root))
    end = len(spec.layers) - 1
    np.testing.assert_array_equal(feature_columns(baseline, spec, end - 1, root), before)
    both = np.hstack([last, readout])
    np.testing.assert_array_equal(feature_columns(baseline, spec, end, root), both)
