"""What a user opens: every kind of store by its labels, lazily, and nothing that is unfinished."""

import shutil
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import pytest
import xarray as xr

from storage_schemas.kinds.classes import SIGNAL_CLASSES, classes_layout
from storage_schemas.kinds.collinearity import collinearity_layout
from storage_schemas.kinds.comparisons import (
    FMRI_TABLES,
    JUDGED_TABLES,
    NOT_JUDGED,
    VERDICT_TABLES,
    VERDICTS,
    comparisons_layout,
)
from storage_schemas.kinds.coordinates import stimulus_coords, window_coords
from storage_schemas.kinds.features import features_layout
from storage_schemas.kinds.prepared import prepared_layout
from storage_schemas.kinds.responses import responses_layout
from storage_schemas.kinds.schema import flag_value, flags
from storage_schemas.kinds.scores import (
    BANDED_MEASURES,
    BEYOND_MEASURES,
    SINGLE_MEASURES,
    scores_layout,
)
from storage_schemas.kinds.stability import stability_layout
from storage_schemas.layout import Layout
from storage_schemas.protocol import attempts
from storage_schemas.protocol.commit import commit, withdraw
from storage_schemas.protocol.new_store import NewStore
from storage_schemas.protocol.seal import seal
from storage_schemas.protocol.store import Store
from storage_schemas.results.open import open_run
from storage_schemas.runs.run import create_run, read_run, record_stores

pytestmark = pytest.mark.filterwarnings("error")

LAYERS = [("layer1.0", 0.25), ("layer2.1", 0.5), ("fc", 1.0)]
STIMULI = [f"cats/{i}.png" for i in range(7)]
DIGESTS = [f"{i:064x}" for i in range(7)]
SESSIONS = ["1", "1", "1", "2", "2", "", ""]
RULES = {"fold_rule": "keep_categories", "permute_within": "session"}
UNGROUPED = {"summary_groups": [], **RULES}
GROUPS = [
    {"subject": "01", "modality": "fmri", "start": 0, "stop": 5, "windows": None},
    {"subject": "01", "modality": "meg", "start": 5, "stop": 17, "windows": None},
]
RESAMPLED = {"n_folds": 4, "n_targets": 17, "n_summaries": 6, "n_permutations": 2}
RESAMPLED |= {"n_resampled": 4, "n_bootstrap": 3}
RELIABILITY = [0.64, 0.2, np.nan]
BEYOND, BOTH = "baseline+gradient:energy", "forward+gradient:energy"
BANDS = ["forward", "gradient:energy", BEYOND, BOTH]
MEASURES = {BEYOND: BEYOND_MEASURES, BOTH: BANDED_MEASURES}

FMRI = xr.Dataset(
    coords={
        "roi": ("voxel", ["V1", "V1", "V2", "LO", "FFA"]),
        "hemisphere": ("voxel", ["L", "R", "L", "L", "R"]),
        **{axis: ("voxel", np.arange(5.0), {"units": "mm"}) for axis in "xyz"},
        **{axis: ("voxel", np.arange(5)) for axis in "ijk"},
    },
    attrs={"volume_shape": [5, 5, 5], "affine": np.eye(4).ravel().tolist()},
)
MEG = xr.Dataset(
    coords={
        "sensor": ("sensor", ["MEG 01", "MEG 02", "MEG 03"]),
        **{f"sensor_{axis}": ("sensor", np.arange(3.0), {"units": "m"}) for axis in "xyz"},
        "sensor_type": ("sensor", ["mag"] * 3),
        "sensor_loc": (("sensor", "loc"), np.zeros((3, 12))),
        "time": ("time", np.array([0.0, 0.1, 0.2, 0.3]), {"units": "s"}),
    },
)


VERDICT = {"verdict": "misaligned", "sentence": "Gradients do predict the brain, but later."}


def fill(root: Path, kind: str, label: str, layout: Layout, **attrs: Any) -> Store:
    """Create, commit and seal a store with made-up arrays."""
    stage, spec = f"stage-{kind}", {"label": label}
    store = Store.create(root, NewStore(stage, kind, label, spec, layout, attrs))
    rng = np.random.default_rng(zlib.crc32(label.encode()))
    for unit in store.units:
        attempt = attempts.begin(store, unit, job="test", round_=0)
        assert attempt is not None
        arrays = {
            name: rng.uniform(1, 3, [b - a for a, b in region]).astype(store.arrays[name].dtype)
            for name, region in unit.regions.items()
        }
        if kind == "stability" and attrs["source"] != "forward":
            arrays["reliability"][:] = RELIABILITY
        if kind == "scores":
            arrays["scores"][..., 1, [0, 7]] = np.nan  # one fold of one voxel, one sensor and time
        facts = {}
        if kind == "responses":
            arrays["ncsnr"].flat[0] = 0.1  # a noise ceiling of about .02
        if kind == "comparisons":
            meanings = store.arrays["verdict"].attrs
            names = [NOT_JUDGED, NOT_JUDGED, VERDICT["verdict"]]
            arrays["verdict"][:] = [flag_value(meanings, name) for name in names]
            arrays["order_verdict"][:] = arrays["verdict"][:, None]
            facts = {"verdicts": {"unique:energy": VERDICT}}
        commit(store, unit, arrays, facts, attempt)
        attempt.finish("committed")
    seal(store)
    return store


def features(n: int, first: int = 0) -> Layout:
    chosen = slice(first, first + n)
    return features_layout(
        LAYERS, STIMULI[chosen], DIGESTS[chosen], n_features=8, stimuli_per_shard=3
    )


def scores(bands: str) -> Layout:
    coords = stimulus_coords(STIMULI, DIGESTS) | {
        f"stimulus_{part}": ("stimulus", np.arange(7) % 4) for part in ("fold", "block")
    }
    return scores_layout(LAYERS, coords, measures=MEASURES.get(bands, SINGLE_MEASURES), **RESAMPLED)


def responses(targets: xr.Dataset, *dims: str) -> Layout:
    return responses_layout(STIMULI, DIGESTS, SESSIONS, targets, dims)


def comparisons() -> Layout:
    signals = ["forward", "gradient:energy", "unique:energy"]
    return comparisons_layout(signals, LAYERS, ["V1", "V2"], ["distance"], ["01"], [], [])


def all_stores(root: Path) -> list[Store]:
    stability = stability_layout(LAYERS, ["shift", "noise", "jpeg"], 4)
    tiny = {"model": "tiny"}
    sources = ["forward", "gradient:energy"]
    return [
        fill(root, "prepared", "tiny", prepared_layout(), **tiny),
        *(
            fill(root, "classes", f"{s}-c", classes_layout(LAYERS), **tiny, source=s)
            for s in sources[1:]
        ),
        fill(root, "responses", "01-fmri", responses(FMRI, "voxel"), subject="01", modality="fmri"),
        fill(
            root,
            "responses",
            "01-meg",
            responses(MEG, "sensor", "time"),
            subject="01",
            modality="meg",
        ),
        *(fill(root, "features", f"tiny-{s}", features(7), **tiny, source=s) for s in sources),
        *(
            fill(root, "collinearity", s, collinearity_layout(LAYERS), **tiny, source=s)
            for s in sources
        ),
        *(fill(root, "stability", f"{s}-s", stability, **tiny, source=s) for s in sources),
        *(
            fill(root, "scores", b, scores(b), bands=b, groups=GROUPS, **tiny, **UNGROUPED)
            for b in BANDS
        ),
        fill(root, "comparisons", "tiny", comparisons(), **tiny, control=False),
    ]


def make_run(folder: Path, stores: Sequence[Store], root: Path) -> Path:
    create_run(folder, "study", root)
    for stage in dict.fromkeys(store.path.parent.name for store in stores):
        own = [store for store in stores if store.path.parent.name == stage]
        record_stores(folder, stage, own)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "first"
    return make_run(folder, all_stores(folder / "stores"), folder / "stores")


def raw(run: Path, kind: str, label: str) -> xr.Dataset:
    (data,) = run.glob(f"stores/stage-{kind}/*-{label}/data.zarr")
    return xr.open_dataset(data, engine="zarr", consolidated=False)


def test_tree_has_every_kind(run: Path) -> None:
    tree = open_run(run)
    assert tree.attrs == {"run": "study"}
    leaves = {node.path: set(node.dataset.data_vars) for node in tree.leaves}
    scored = {"r", "r2", "alpha", "unique"}
    scored |= {"r_normalised", "reliability", "r_disattenuated", "unique_disattenuated"}
    stable = {"cosine", "reliability", "precision_error"}
    responded = {"responses", "n_repeats", "target_repeats", "ncsnr"}
    assert leaves == {
        "/prepared/tiny": {"weights_digest", "signal_class"},
        "/responses/01/fmri": responded,
        "/responses/01/meg": responded,
        "/features/tiny/forward": {"features"},
        "/features/tiny/gradient:energy": {"features"},
        "/collinearity/tiny/forward": {"cka"},
        "/collinearity/tiny/gradient:energy": {"cka"},
        "/stability/tiny/forward": stable,
        "/stability/tiny/gradient:energy": stable,
        "/scores/tiny/01/fmri": scored,
        "/scores/tiny/01/meg": scored,
        "/comparisons/tiny": {
            *(VERDICT_TABLES | JUDGED_TABLES | FMRI_TABLES),
            *("sentence", "reliability", "region_profile_disattenuated"),
        },
    }


def test_tree_is_lazy(run: Path) -> None:
    for node in open_run(run).leaves:
        for name, variable in node.dataset.data_vars.items():
            assert isinstance(variable.data, dask.array.Array), (node.path, name)
            variable.compute()


def test_fmri_scores_and_coordinates(run: Path) -> None:
    scores = open_run(run)["/scores/tiny/01/fmri"].dataset
    assert scores["r"].dims == ("bands", "layer", "fold", "voxel")
    assert scores["r2"].dims == scores["unique"].dims == ("bands", "layer", "voxel")
    assert scores["bands"].values.tolist() == BANDS
    assert scores["layer"].values.tolist() == [name for name, _ in LAYERS]
    assert scores["layer_depth"].values.tolist() == [depth for _, depth in LAYERS]
    assert scores["roi"].values.tolist() == FMRI["roi"].values.tolist()
    assert scores["x"].attrs["units"] == "mm"
    np.testing.assert_array_equal(scores["ncsnr"], raw(run, "responses", "01-fmri")["ncsnr"])
    named = {"model": "tiny", "subject": "01", "modality": "fmri"}
    assert scores.attrs == named | RULES | FMRI.attrs
    for bands in BANDS:
        stored = raw(run, "scores", bands)["scores"][..., :5].sel(measure="r")
        np.testing.assert_array_equal(scores["r"].sel(bands=bands), stored)


def test_meg_targets_are_sensors_by_times(run: Path) -> None:
    scores = open_run(run)["/scores/tiny/01/meg"].dataset
    assert scores["alpha"].dims == ("bands", "layer", "fold", "sensor", "time")
    stored = raw(run, "scores", "forward")["scores"].sel(measure="alpha")
    for sensor in range(3):
        for time in range(4):
            np.testing.assert_array_equal(
                scores["alpha"][0, :, :, sensor, time], stored[..., 5 + 4 * sensor + time]
            )
    late = scores["r"].sel(sensor="MEG 02", time=0.2, bands="forward")
    np.testing.assert_array_equal(late, raw(run, "scores", "forward")["scores"][:, 0, :, 5 + 4 + 2])
    assert scores["ncsnr"].dims == ("sensor", "time")
    assert scores["time"].attrs["units"] == "s"


def test_meg_targets_may_be_sensors_by_windows(tmp_path: Path) -> None:
    windows = [(f"{i}", i / 10, i / 10 + 0.1) for i in range(4)]
    groups = [GROUPS[0] | {"windows": None}, GROUPS[1] | {"windows": windows}]
    coords = stimulus_coords(STIMULI, DIGESTS) | {
        f"stimulus_{part}": ("stimulus", np.arange(7)) for part in ("fold", "block")
    }
    coords |= window_coords("target", [None] * 5 + windows * 3, "target_")
    layout = scores_layout(LAYERS, coords, measures=SINGLE_MEASURES, **RESAMPLED)
    recorded = {"fmri": responses(FMRI, "voxel"), "meg": responses(MEG, "sensor", "time")}
    named = {"model": "tiny", "bands": "forward", "groups": groups, **UNGROUPED}
    stores = [
        *(
            fill(tmp_path, "responses", name, layout, subject="01", modality=name)
            for name, layout in recorded.items()
        ),
        fill(tmp_path, "scores", "forward", layout, **named),
    ]
    tree = open_run(make_run(tmp_path / "run", stores, tmp_path))
    assert "target_window" not in tree["/scores/tiny/01/fmri"].coords
    scores = tree["/scores/tiny/01/meg"].dataset
    assert scores["r"].dims == ("bands", "layer", "fold", "sensor", "window")
    assert "time" not in scores.coords
    assert "r_normalised" not in scores, "a mean over samples has no noise ceiling of its own"
    assert scores["r_disattenuated"].isnull().all(), "a run without stability has no reliability"
    assert scores["window_stop"].attrs["units"] == "s"
    late = scores["r"].sel(bands="forward", sensor="MEG 02", window="3")
    assert (float(late["window_start"]), float(late["window_stop"])) == windows[3][1:]
    stored = stores[-1].dataset().sel(measure="r")
    assert stored["target_window"].values[5 + 4 + 3] == "3"
    np.testing.assert_array_equal(late, stored["scores"][..., 5 + 4 + 3])


@pytest.mark.parametrize("modality", ["fmri", "meg"])
def test_r2_and_unique_are_pooled_over_folds(run: Path, modality: str) -> None:
    scores = open_run(run)[f"/scores/tiny/01/{modality}"].dataset
    group = next(group for group in GROUPS if group["modality"] == modality)
    for bands in BANDS:
        targets = raw(run, "scores", bands)["scores"][..., group["start"] : group["stop"]].astype(
            "float64"
        )
        sums = {
            m: targets.sel(measure=m).sum("fold", skipna=False).values
            for m in targets["measure"].values
        }
        shape = scores["r2"].shape[1:]
        expected = (1 - sums["sse"] / sums["sst"]).reshape(shape)
        np.testing.assert_allclose(scores["r2"].sel(bands=bands), expected, rtol=1e-12)
        assert np.isnan(expected).any(), "NaN in one fold must not pass for a score"
        unique = scores["unique"].sel(bands=bands)
        if bands == BOTH:
            expected = ((sums["sse_off"] - sums["sse"]) / sums["sst"]).reshape(shape)
            np.testing.assert_allclose(unique, expected, rtol=1e-12)
        elif bands == BEYOND:
            expected = ((sums["sst"] - sums["sse"]) / sums["total"]).reshape(shape)
            np.testing.assert_allclose(unique, expected, rtol=1e-12)
        else:
            assert np.isnan(unique).all()


@pytest.mark.parametrize("modality", ["fmri", "meg"])
def test_scores_stand_beside_those_divided_by_reliability(run: Path, modality: str) -> None:
    scores = open_run(run)[f"/scores/tiny/01/{modality}"].dataset.load()
    assert scores["reliability"].dims == ("bands", "layer")
    for bands in BANDS[1:]:
        np.testing.assert_array_equal(scores["reliability"].sel(bands=bands), RELIABILITY)
    for bands in ("gradient:energy", BEYOND):
        r, divided = (scores[name].sel(bands=bands) for name in ("r", "r_disattenuated"))
        np.testing.assert_allclose(divided[0], r[0] / 0.8, rtol=1e-6)
    for bands in (BEYOND, BOTH):
        u, divided = (scores[name].sel(bands=bands) for name in ("unique", "unique_disattenuated"))
        np.testing.assert_allclose(divided[0], u[0] / 0.64, rtol=1e-6)
    for name in ("r_disattenuated", "unique_disattenuated"):
        assert np.isnan(scores[name][1:, 1:]).all(), "below the least, or not known"
    assert np.isnan(scores["r_disattenuated"].sel(bands=BOTH)).all(), "of no single signal"
    forward = scores.sel(bands="forward")
    expected = forward["r"] / np.sqrt(forward["reliability"])
    np.testing.assert_allclose(forward["r_disattenuated"], expected, rtol=1e-6)


def test_compared_profiles_stand_beside_those_divided_by_reliability(run: Path) -> None:
    tables = open_run(run)["/comparisons/tiny"].dataset.load()
    name = "region_profile"
    divided = tables[f"{name}_disattenuated"]
    assert divided.dims == tables[name].dims
    for signal in ("gradient:energy", "unique:energy"):
        expected = tables[name].sel(signal=signal)[0] / 0.8
        np.testing.assert_allclose(divided.sel(signal=signal)[0], expected)
        assert np.isnan(divided.sel(signal=signal)[1:]).all()
    np.testing.assert_array_equal(tables["reliability"].sel(signal="unique:energy"), RELIABILITY)


@pytest.mark.parametrize("modality", ["fmri", "meg"])
def test_scores_stand_beside_those_divided_by_the_noise_ceiling(run: Path, modality: str) -> None:
    scores = open_run(run)[f"/scores/tiny/01/{modality}"].dataset.load()
    assert scores["r_normalised"].dims == scores["r"].dims
    ceiling = scores["noise_ceiling"].values
    assert (ceiling < 0.05).sum() == 1
    expected = scores["r"].values / np.sqrt(np.where(ceiling < 0.05, np.nan, ceiling))
    # What a baseline leaves of a response has another ceiling, which is not known.
    expected[BANDS.index(BEYOND)] = np.nan
    np.testing.assert_allclose(scores["r_normalised"], expected, rtol=1e-6)
    assert "NaN where the ceiling is below 0.05" in scores["r_normalised"].attrs["long_name"]


def test_a_verdict_is_shown_in_words_with_the_sentence_it_rests_on(run: Path) -> None:
    tables = open_run(run)["/comparisons/tiny"].dataset
    shown = tables[["verdict", "sentence"]].to_dataframe()
    assert shown.loc["unique:energy"].to_dict() == VERDICT
    assert shown.loc["forward"].to_dict() == {"verdict": "not_judged", "sentence": ""}
    assert "flag_values" not in tables["verdict"].attrs


def test_no_order_of_names_can_change_a_verdict(tmp_path: Path) -> None:
    """Flags are written and read by what the store says itself, whatever the code says today."""
    layout = comparisons()
    reversed_names = flags(VERDICTS[::-1])
    arrays = tuple(
        replace(array, attrs=reversed_names) if "verdict" in array.name else array
        for array in layout.arrays
    )
    store = fill(
        tmp_path, "comparisons", "x", replace(layout, arrays=arrays), model="tiny", control=False
    )
    assert store.dataset()["verdict"].values.tolist() == [5, 5, 2]
    tables = open_run(make_run(tmp_path / "run", [store], tmp_path))["/comparisons/tiny"]
    expected = ["not_judged", "not_judged", "misaligned"]
    assert tables["verdict"].values.tolist() == expected
    assert tables["order_verdict"].sel(order="spatial").values.tolist() == expected


def test_a_verdict_that_is_not_committed_has_no_word(tmp_path: Path) -> None:
    store = fill(tmp_path, "comparisons", "x", comparisons(), model="tiny", control=False)
    withdraw(store, store.units[0])
    run = make_run(tmp_path / "run", [store], tmp_path)
    tables = open_run(run, partial=True)["/comparisons/tiny"]
    assert tables["verdict"].values.tolist() == tables["sentence"].values.tolist() == [""] * 3
    assert not tables["committed"]


def test_signal_classes_are_by_source(run: Path) -> None:
    prepared = open_run(run)["/prepared/tiny"].dataset
    assert prepared["signal_class"].dims == ("source", "layer")
    assert prepared["source"].values.tolist() == ["gradient:energy"]
    stored = raw(run, "classes", "gradient:energy-c")["signal_class"].values
    assert prepared["signal_class"][0].values.tolist() == [SIGNAL_CLASSES[code] for code in stored]
    assert prepared["weights_digest"].shape == (32,)


def test_copied_run_opens(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "elsewhere" / "copy")
    xr.testing.assert_identical(open_run(tmp_path / "elsewhere" / "copy"), open_run(run))


def test_shared_stores_beside_the_run(tmp_path: Path) -> None:
    root = tmp_path / "shared"
    store = fill(root, "prepared", "tiny", prepared_layout(), model="tiny")
    run = make_run(tmp_path / "runs" / "a", [store], root)
    assert read_run(run).root == "../../shared"
    (tmp_path / "runs" / "a").rename(tmp_path / "runs" / "b")
    assert "/prepared/tiny" in open_run(tmp_path / "runs" / "b").groups


def test_images_without_recordings_are_no_stimuli_of_the_tree(tmp_path: Path) -> None:
    attrs = {"model": "tiny", "source": "forward"}
    shown = fill(tmp_path, "features", "a", features(3), **attrs)
    others = fill(tmp_path, "features", "b", features(4, first=3), **attrs, images="unrecorded")
    tree = open_run(make_run(tmp_path / "run", [shown, others], tmp_path))
    assert tree["/features/tiny/forward"]["stimulus"].values.tolist() == STIMULI[:3]
    assert tree["/unrecorded/tiny/forward"]["stimulus"].values.tolist() == STIMULI[3:]


def test_several_stimulus_sets_are_one_node(tmp_path: Path) -> None:
    attrs = {"model": "tiny", "source": "forward"}
    first = fill(tmp_path, "features", "a", features(5), **attrs)
    second = fill(tmp_path, "features", "b", features(4, first=3), **attrs)
    alike = [fill(tmp_path, "collinearity", n, collinearity_layout(LAYERS), **attrs) for n in "ab"]
    tree = open_run(make_run(tmp_path / "run", [first, second, *alike], tmp_path))
    joined = tree["/features/tiny/forward"].dataset
    assert joined["stimulus"].values.tolist() == STIMULI
    assert joined["stimulus_digest"].values.tolist() == DIGESTS
    np.testing.assert_array_equal(joined["features"][:, 5:], second.dataset()["features"][:, 2:])
    assert tree["/collinearity/tiny/forward/cka"].dims == ("stimulus_set", "layer", "other_layer")


def test_unsealed_stage_is_named(tmp_path: Path) -> None:
    store = fill(tmp_path, "features", "tiny", features(7), model="tiny", source="forward")
    run = make_run(tmp_path / "run", [store], tmp_path)
    withdraw(store, store.units[1])
    with pytest.raises(
        ValueError, match=r"stage stage-features is not finished.*2 of 3 units"
    ) as e:
        open_run(run)
    assert e.value.folders == {"run": run}
    assert "resume the run, or open it with partial=True" in str(e.value)


def test_scores_without_their_responses_are_refused(tmp_path: Path) -> None:
    store = fill(
        tmp_path,
        "scores",
        "x",
        scores("forward"),
        model="m",
        bands="forward",
        groups=GROUPS,
        **UNGROUPED,
    )
    with pytest.raises(ValueError, match="has scores of 01 fmri, whose responses"):
        open_run(make_run(tmp_path / "run", [store], tmp_path))


def test_two_stores_for_one_place_are_refused(tmp_path: Path) -> None:
    stores = [fill(tmp_path, "prepared", n, prepared_layout(), model="tiny") for n in "ab"]
    with pytest.raises(ValueError, match="two stores of this run hold /prepared/tiny"):
        open_run(make_run(tmp_path / "run", stores, tmp_path))


@pytest.mark.parametrize(
    "layout",
    [
        prepared_layout(),
        classes_layout(LAYERS),
        responses(FMRI, "voxel"),
        responses(MEG, "sensor", "time"),
        features(7),
        collinearity_layout(LAYERS),
        scores("forward"),
        scores(BEYOND),
        scores(BOTH),
    ],
    ids=lambda layout: "+".join(array.name for array in layout.arrays),
)
def test_every_kind_opens_in_plain_xarray(
    tmp_path: Path, layout: Layout, commit_all: Callable[[Store], None]
) -> None:
    store = Store.create(tmp_path, NewStore("s", "features", "x", {}, layout))
    commit_all(store)
    tree = xr.open_datatree(store.data, engine="zarr", consolidated=False)
    for array in layout.arrays:
        assert tree[array.name].dims == array.dims
        assert array.name in tree.data_vars, "an array named like a dimension is a coordinate"
        assert tree[array.name].shape == array.shape
        assert tree[array.name].attrs["units"] == array.units
    for name, coord in layout.coords.coords.items():
        assert tree[name].values.tolist() == coord.values.tolist()
        assert tree[name].attrs == coord.attrs
