"""Every table of stage compare, worked out on paper for the hand-made study of `conftest.py`."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from gradenc_core.compare.reference import (
    Confusion,
    Curves,
    Reference,
    Regions,
    space_reference,
    time_reference,
)
from gradenc_core.compare.surrogates import moran_p
from jobs.compare import judged
from jobs.compare.inputs import Scores
from storage_schemas.files import read_json
from storage_schemas.kinds.schema import flag_names
from storage_schemas.runs.run import run_stores

NAN = np.nan
COMPARED = ["forward", "gradient:energy", "unique:energy"]
CONTROLS = ["unique:baseline", "unique:forward"]
DEPTH = dict(zip(["l1", "l2", "l3", "l4", "l5", "l6"], [0.5, 0.6, 0.7, 0.8, 0.9, 1.0], strict=True))
CORRELATE = {"pearson": stats.pearsonr, "spearman": stats.spearmanr}

# Points of subject 01: V1 twice, V2 left and right, V3, V4, LO, FFA; the voxel in right V1 is not
# significant. V3's profile above its least is 0.4 in l3 and 0.2 in l4: its centre is 0.7 + 0.1 / 3.
# FFA's is 0.4 in l6 and 0.3 in l5: its centre is 0.67 / 0.7.
# Region V1's mean profile is 0.4 in l1, 0.35 in l2, 0.2 elsewhere: l1 is best and the centre is
# (0.2 * 0.5 + 0.15 * 0.6) / 0.35 = 19 / 35.
FIRST_DEPTH = {
    ("voxel", "argmax"): [0.5, 0.6, 0.6, 0.6, 0.7, 0.8, 0.9, 1.0],
    ("voxel", "centre_of_mass"): [0.5, 0.6, 0.6, 0.6, 0.7 + 0.1 / 3, 0.8, 0.9, 0.67 / 0.7],
    ("region", "argmax"): [0.5, 0.6, 0.6, 0.7, 0.8, 0.9, 1.0],
    ("region", "centre_of_mass"): [19 / 35, 0.6, 0.6, 0.7 + 0.1 / 3, 0.8, 0.9, 0.67 / 0.7],
    # The mean response of right V1 enters, significant or not: l6 predicts it best.
    ("mean_response", "argmax"): [0.5, 1.0, 0.6, 0.6, 0.7, 0.8, 0.9, 1.0],
    ("mean_response", "centre_of_mass"): [
        *(19 / 35, 1, 0.6, 0.6, 0.7 + 0.1 / 3, 0.8, 0.9),
        0.67 / 0.7,
    ],
}
FIRST_POSITION = {
    ("voxel", "distance"): [3, 3, 10, 15, 20, 30, 40, 50],
    ("voxel", "ventral"): [0, 0, 1, 1, 2, 3, NAN, 4],
    ("region", "distance"): [3, 10, 15, 20, 30, 40, 50],
    ("region", "ventral"): [0, 1, 1, 2, 3, NAN, 4],
    ("mean_response", "distance"): [3, 0, 10, 15, 20, 30, 40, 50],
    ("mean_response", "ventral"): [0, 0, 1, 1, 2, 3, NAN, 4],
}
FIRST_REGION = {
    "voxel": [0, 0, 1, 1, 2, 3, 4, 5],
    "region": [0, 1, 1, 2, 3, 4, 5],
    "mean_response": [0, 0, 1, 1, 2, 3, 4, 5],
}
# Subject 02 has one voxel a region, so that voxels and regions agree; the last two are swapped.
SECOND_DEPTH = {
    "argmax": [0.5, 0.6, 0.7, 0.8, 1.0, 0.9],
    "centre_of_mass": [0.5, 0.6, 0.7, 0.8, 0.67 / 0.7, 0.9],
}
SECOND_POSITION = {"distance": [0, 10, 20, 30, 40, 50], "ventral": [0, 1, 2, 3, NAN, 4]}

Points = tuple[np.ndarray, np.ndarray, np.ndarray]


def points(subject: str, position: str, resolution: str, how: str) -> Points:
    """Depth, position and region of each point that has a position."""
    if subject == "01":
        depth, place = FIRST_DEPTH[resolution, how], FIRST_POSITION[resolution, position]
        region = FIRST_REGION[resolution]
    else:
        depth, place, region = SECOND_DEPTH[how], SECOND_POSITION[position], list(range(6))
    known = np.isfinite(place)
    return np.array(depth)[known], np.array(place, float)[known], np.array(region)[known]


def p_over_all_orders(subjects: Sequence[Points], method: str) -> float:
    """Permute the regions' mean positions in all 6! orders, the same way in all subjects.

    Pearson: voxels keep their offset.
    """
    scores = np.zeros(720)
    for depth, position, region in subjects:
        centre = np.array([position[region == r].mean() for r in range(6)])
        offset = position - centre[region]
        if method == "spearman":
            centre, offset = stats.rankdata(centre), 0 * position
        scores += [
            CORRELATE[method](depth, centre[list(order)][region] + offset).statistic
            for order in permutations(range(6))
        ]
    return float(np.mean(scores >= scores[0] - 1e-9))


def jackknife(subjects: Sequence[Points], method: str) -> tuple[float, float]:
    """Leave regions out of all subjects, one by one: t interval of Fisher's z of the mean."""
    present = sorted({int(r) for own in subjects for r in own[2]})

    def z(left_out: int | None) -> float:
        kept = [(own[0][own[2] != left_out], own[1][own[2] != left_out]) for own in subjects]
        mean = np.mean([CORRELATE[method](x, y).statistic for x, y in kept])
        return float(np.arctanh(min(mean, 0.999)))

    without = np.array([z(r) for r in present])
    n = len(present)
    reach = stats.t.ppf(0.975, n - 1) * np.sqrt((n - 1) * without.var())
    return float(np.tanh(z(None) - reach)), float(np.tanh(z(None) + reach))


def tables_of(run: Path) -> xr.Dataset:
    (store,) = run_stores(run, "compare")
    return store.dataset().load()


def verdict_of(run: Path) -> tuple[str, str]:
    """Return the verdict as the store's number says it, and its sentence."""
    (store,) = run_stores(run, "compare")
    verdict = store.dataset()["verdict"]
    record = read_json(store.record_path(store.units[0]))
    assert record is not None
    own = record["facts"]["verdicts"]["unique:energy"]
    names = dict(
        zip(verdict.attrs["flag_values"], verdict.attrs["flag_meanings"].split(), strict=True)
    )
    said = [names[value] for value in verdict.values.tolist()]
    assert said == [*["not_judged"] * 2, own["verdict"], *["not_judged"] * 2]
    return said[2], own["sentence"]


@pytest.fixture(scope="module")
def tables(hand_made: Any, compare: Callable) -> xr.Dataset:
    return tables_of(compare(hand_made))


ALL_CELLS = [
    (position, resolution, how, method)
    for position in ("distance", "ventral")
    for resolution in ("voxel", "region", "mean_response")
    for how in ("argmax", "centre_of_mass")
    for method in ("pearson", "spearman")
]


@pytest.mark.parametrize("cell", ALL_CELLS)
def test_spatial_score_of_every_cell_and_subject(
    tables: xr.Dataset, cell: tuple[str, str, str, str]
) -> None:
    position, resolution, how, method = cell
    at = {
        "signal": "forward",
        "position": position,
        "resolution": resolution,
        "kstar": how,
        "correlation": method,
    }
    subjects = [points(s, position, resolution, how) for s in ("01", "02")]
    expected = [CORRELATE[method](own[0], own[1]).statistic for own in subjects]
    np.testing.assert_allclose(tables["spatial_score"].sel(at), expected)
    assert tables["spatial_mean"].sel(at).item() == pytest.approx(np.mean(expected))
    low, high = tables["spatial_interval"].sel(at)
    # A perfect order is perfect in every resample, but for rounding.
    assert low.item() - 1e-9 <= np.mean(expected) <= high.item() + 1e-9


@pytest.mark.parametrize("method", ["pearson", "spearman"])
def test_spatial_p_is_over_all_orders_of_six_regions(tables: xr.Dataset, method: str) -> None:
    at = {"signal": "forward", "position": "distance", "resolution": "voxel", "correlation": method}
    p = tables["spatial_p"].sel(at | {"kstar": "argmax"})
    subjects = [points(subject, "distance", "voxel", "argmax") for subject in ("01", "02")]
    own = p_over_all_orders(subjects[:1], method)
    assert p.sel(fmri_subject="01").item() == pytest.approx(own)
    # Two neighbours are swapped: as high scores only the true order (1) and five such swaps.
    assert p.sel(fmri_subject="02").item() == pytest.approx(6 / 720)
    combined = tables["spatial_combined_p"].sel(at | {"kstar": "argmax"}).item()
    assert combined == pytest.approx(p_over_all_orders(subjects, method))


def test_a_map_of_five_regions_has_a_score_and_no_p(tables: xr.Dataset) -> None:
    at = {"signal": "forward", "position": "ventral"}
    assert np.isfinite(tables["spatial_score"].sel(at)).all()
    assert np.isnan(tables["spatial_p"].sel(at)).all()
    assert np.isnan(tables["spatial_combined_p"].sel(at)).all()


@pytest.mark.parametrize("method", ["pearson", "spearman"])
@pytest.mark.parametrize("position", ["distance", "ventral"])
def test_spatial_interval_is_the_jackknife_over_regions_of_the_mean(
    tables: xr.Dataset, position: str, method: str
) -> None:
    at = {"signal": "forward", "position": position, "correlation": method}
    interval = tables["spatial_interval"].sel(at | {"resolution": "voxel", "kstar": "argmax"})
    low, high = jackknife([points(s, position, "voxel", "argmax") for s in ("01", "02")], method)
    assert interval.sel(bound="low").item() == pytest.approx(low)
    assert interval.sel(bound="high").item() == pytest.approx(high)


UNIQUE_DEPTH = [0.5, 0.9, 0.6, 0.6, 0.7, 0.8, 0.9, 0.9]
"""Layers that 01's mean responses prefer beyond the baseline; l6 is no layer of the gradient."""


def both_depths() -> tuple[Points, Points]:
    """Depths beyond the baseline and of the five forward layers, of mean responses of 01."""
    # Right V1 prefers l6 in r: without it all its layers are alike, and it has no k*.
    kept = [0, 2, 3, 4, 5, 6, 7]
    unique = np.array(UNIQUE_DEPTH)[kept]
    forward = np.array([0.5, 0.6, 0.6, 0.7, 0.8, 0.9, 0.9])
    place = np.array(FIRST_POSITION["mean_response", "distance"], float)[kept]
    region = np.array(FIRST_REGION["mean_response"])[kept]
    return (unique, forward, region), (unique - 0.5 * forward, place, region)


def test_agreement_is_of_targets_and_layers_that_both_signals_have(tables: xr.Dataset) -> None:
    at = {
        "signal": "unique:energy",
        "resolution": "mean_response",
        "kstar": "argmax",
        "correlation": "pearson",
    }
    assert tables["agreement_score"].sel({**at, "fmri_subject": "01"}).item() == pytest.approx(1)
    # 02: l6 of LO counts as no layer.
    assert tables["agreement_score"].sel({**at, "fmri_subject": "02"}).item() == pytest.approx(1)
    assert np.isnan(tables["agreement_score"].sel(signal="forward")).all()


def test_the_contrast_is_the_slope_of_the_gradients_depth_less_half_the_forward_one(
    tables: xr.Dataset,
) -> None:
    at = {
        "signal": "unique:energy",
        "position": "distance",
        "resolution": "mean_response",
        "kstar": "argmax",
    }
    depth, place, _ = both_depths()[1]
    expected = np.polyfit(place, depth, 1)[0]
    assert tables["contrast"].sel({**at, "fmri_subject": "01"}).item() == pytest.approx(expected)
    both = tables["contrast"].sel(at)
    assert tables["contrast_mean"].sel(at).item() == pytest.approx(both.mean().item())
    assert tables["contrast_p"].sel(at).item() == pytest.approx(1, abs=0.01)


def test_preferred_depths_of_folds_that_differ_by_a_constant_are_reliable(
    tables: xr.Dataset,
) -> None:
    at = {"signal": "forward", "kstar": "argmax"}
    found = tables["kstar_reliability"].sel(at)
    np.testing.assert_allclose(found.sel(resolution=["voxel", "region"]), 1)
    assert np.isnan(found.sel(resolution="mean_response")).all(), "not stored by fold"
    cell = {**at, "position": "distance", "resolution": "voxel"}
    score = tables["spatial_score"].sel({**cell, "correlation": "pearson"})
    np.testing.assert_allclose(tables["spatial_over_ceiling"].sel(cell), score)


def test_layers_within_a_standard_error_of_the_best_are_ties(tables: xr.Dataset) -> None:
    """Two folds at +-0.04: 0.6 and 0.2 are no ties, 0.08 and 0.05 are."""
    ties = tables["tied_voxels"]
    assert ties.sel(signal="forward").values.tolist() == [0, 0]
    assert ties.sel(signal="unique:energy").values.tolist() == [1, 0]
    sets = tables["kstar_set"].sel(fmri_subject="01")
    assert sets.sel(signal="forward", region="V3").values.tolist() == [0, 0, 1, 0, 0, 0]
    np.testing.assert_array_equal(
        sets.sel(signal="unique:energy", region="V3"), [0, 0, 1, 1, 0, NAN]
    )
    assert np.isnan(sets.sel(signal="unique:energy", region="FFA")).all()


def test_all_voxels_stand_beside_the_selected_ones_with_their_numbers(tables: xr.Dataset) -> None:
    first = {"signal": "forward", "fmri_subject": "01"}
    # Right V1 is not selected: 0.22 in l6.
    of_all = tables["region_profile_all"].sel({**first, "region": "V1"})
    np.testing.assert_allclose(of_all, [1 / 3, 0.3, 0.2, 0.2, 0.2, 0.62 / 3], rtol=1e-6)
    counts = tables["region_voxels"].sel(fmri_subject="01")
    assert counts.values.tolist() == [3, 2, 1, 1, 1, 1]
    assert tables["region_selected"].sel(first).values.tolist() == [2, 2, 1, 1, 1, 1]


def test_p_over_maps_as_smooth_is_of_places_that_all_subjects_have(tables: xr.Dataset) -> None:
    at = {"signal": "forward", "position": "distance", "kstar": "argmax"}
    place = 10.0 * np.arange(6)
    expected = moran_p(
        [np.array([0.5, 0.6, 0.7, 0.8, 0.9, 1.0]), np.array(SECOND_DEPTH["argmax"])],
        [np.array([3.0, 10, 20, 30, 40, 50]), np.array(SECOND_POSITION["distance"], float)],
        np.abs(place[:, None] - place),
        0,
    )
    found = tables["spatial_moran_p"].sel(at).item()
    assert found == pytest.approx(expected, abs=0.001)


def test_two_regions_of_six_people_are_tested_over_people(
    hand_made: Any, compare: Callable
) -> None:
    v1, v2 = hand_made.fmri["02"].voxels[:2]
    other = replace(hand_made.fmri["02"], voxels=[v1, v2])
    person = replace(other, voxels=[v1, replace(v2, r={"l3": 0.6}, beyond={"l3": 0.08})])
    people = {f"{i:02d}": person if i else other for i in range(6)}
    found = tables_of(compare(replace(hand_made, fmri=people, meg={})))
    at = {"signal": "forward", "position": "distance", "resolution": "region", "kstar": "argmax"}
    np.testing.assert_allclose(found["people_slope"].sel(at), [0.01, *[0.02] * 5])
    assert found["people_p"].sel(at).item() == pytest.approx(1 / 2**6)
    assert np.isnan(found["spatial_combined_p"].sel(at)).all()


def test_two_people_have_no_test_over_people(tables: xr.Dataset) -> None:
    assert np.isfinite(tables["people_mean"].sel(signal="forward", position="distance")).all()
    assert np.isnan(tables["people_p"]).all()


def test_region_profiles_are_means_of_significant_voxels(tables: xr.Dataset) -> None:
    profile = tables["region_profile"].sel(signal="forward", fmri_subject="01")
    np.testing.assert_allclose(profile.sel(region="V1"), [0.4, 0.35, 0.2, 0.2, 0.2, 0.2], rtol=1e-6)
    np.testing.assert_allclose(profile.sel(region="V2"), [0.2, 0.6, 0.2, 0.2, 0.2, 0.2], rtol=1e-6)
    np.testing.assert_allclose(profile.sel(region="V3"), [0.2, 0.2, 0.6, 0.4, 0.2, 0.2], rtol=1e-6)
    unique = tables["region_profile"].sel(signal="unique:energy")
    first = unique.sel(fmri_subject="01")
    # 0.08 and 0.07 in l1; l6 does not enter; no voxel of FFA is significant beyond the baseline.
    expected = [0.075, 0.02, 0.02, 0.02, 0.02, NAN]
    np.testing.assert_allclose(first.sel(region="V1"), expected, rtol=1e-5)
    assert np.isnan(first.sel(region="FFA")).all()


def test_region_depth_is_the_kstar_of_the_mean_profile(tables: xr.Dataset) -> None:
    depth = tables["region_depth"].sel(signal="forward")
    first, second = (depth.sel(fmri_subject=s) for s in ("01", "02"))
    np.testing.assert_allclose(first.sel(kstar="argmax"), [0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    np.testing.assert_allclose(
        first.sel(kstar="centre_of_mass"),
        [19 / 35, 0.6, 0.7 + 0.1 / 3, 0.8, 0.9, 0.67 / 0.7],
        rtol=1e-6,
    )
    for how in ("argmax", "centre_of_mass"):
        np.testing.assert_allclose(second.sel(kstar=how), SECOND_DEPTH[how], rtol=1e-6)


def test_region_position_is_the_mean_of_all_its_voxels(tables: xr.Dataset) -> None:
    position = tables["region_position"]
    # V1: two voxels 3 mm from their centroid, and the right one, which is its own.
    np.testing.assert_allclose(position.sel(fmri_subject="01"), [2, 12.5, 20, 30, 40, 50])
    np.testing.assert_allclose(position.sel(fmri_subject="02"), [0, 10, 20, 30, 40, 50])


def test_counts_of_significant_voxels(tables: xr.Dataset) -> None:
    """Right V1's best of six layers has p = 6 * P(z > 2.2) = 0.083; beyond, 0.03 is as noise."""
    counts = tables["significant_voxels"]
    assert counts.sel(signal="forward").values.tolist() == [8, 6]
    assert counts.sel(signal="unique:energy").values.tolist() == [7, 6]


def test_the_order_of_unique_variance_is_of_usable_layers_only(tables: xr.Dataset) -> None:
    """V1 (twice), V2 (left and right), V3, V4, LO of 01 prefer l1, l1, l2, l2, l3, l4, l5."""
    cell = {
        "position": "distance",
        "resolution": "voxel",
        "kstar": "argmax",
        "correlation": "pearson",
    }
    score = tables["spatial_score"].sel(signal="unique:energy", **cell)
    first = np.corrcoef([0.5, 0.5, 0.6, 0.6, 0.7, 0.8, 0.9], [3, 3, 10, 15, 20, 30, 40])[0, 1]
    second = np.corrcoef([0.5, 0.6, 0.7, 0.8, 0.9, 0.9], SECOND_POSITION["distance"])[0, 1]
    np.testing.assert_allclose(score, [first, second])


def test_usable_layers_and_identifiable_signals(tables: xr.Dataset) -> None:
    usable = tables["usable"]
    assert usable.sel(signal="forward").values.tolist() == [1] * 6
    for signal in ("gradient:energy", "unique:energy"):
        assert usable.sel(signal=signal).values.tolist() == [1] * 5 + [0]
    # Layers 5 and 6 of the gradient are alike (CKA .999), but the sixth does not enter.
    assert tables["identifiable"].values.tolist() == [1, 1, 1, 0, 0], "controls have no order"
    assert not usable.sel(signal=CONTROLS).any()


@pytest.mark.parametrize(
    ("source", "pair", "cka", "expected"),
    [
        ("gradient:energy", (1, 2), 0.995, [1, 0, 0, 0, 0]),
        ("forward", (0, 5), 0.96, [0, 1, 1, 0, 0]),
    ],
)
def test_one_stimulus_set_in_which_layers_are_alike_is_enough_and_decides_nothing(
    hand_made: Any,
    compare: Callable,
    source: str,
    pair: tuple[int, int],
    cka: float,
    expected: list[int],
) -> None:
    run = compare(replace(hand_made, meg={}, cka={**hand_made.cka, source: [{}, {pair: cka}]}))
    assert tables_of(run)["identifiable"].values.tolist() == expected
    assert verdict_of(run)[0] == "backprop_like"


def test_latency_is_the_mean_of_the_windows_at_the_peak(tables: xr.Dataset) -> None:
    latency = tables["latency"].sel(signal="forward")
    # l3 is at 96 % of its peak in the window after it.
    np.testing.assert_allclose(latency.sel(meg_subject="01"), [0.2, 0.3, 0.45, 0.5, 0.6, 0.7])
    np.testing.assert_allclose(latency.sel(meg_subject="03"), [0.2, NAN, 0.45, 0.5, 0.7, 0.6])
    unique = tables["latency"].sel(signal="unique:energy", meg_subject="01")
    np.testing.assert_allclose(unique, [0.6, 0.5, 0.45, 0.3, 0.2, NAN])


def test_onset_is_where_a_curve_stays_above_half_its_peak(tables: xr.Dataset) -> None:
    onset = tables["onset"].sel(signal="forward")
    # l5 is at 60 % of its peak in the window before it.
    np.testing.assert_allclose(onset.sel(meg_subject="01"), [0.2, 0.3, 0.4, 0.5, 0.5, 0.7])
    np.testing.assert_allclose(onset.sel(meg_subject="03"), [0.2, NAN, 0.4, 0.5, 0.6, 0.6])


def test_curves_are_means_of_significant_sensors_in_common_windows(tables: xr.Dataset) -> None:
    curve = tables["curve"].sel(signal="forward", meg_subject="01")
    assert curve["window"].values.tolist() == [f"w{i}" for i in range(1, 10)]
    np.testing.assert_allclose(
        curve.sel(layer="l3"), [0.1, 0.1, 0.1, 0.5, 0.48, 0.1, 0.1, 0.1, 0.8], rtol=1e-6
    )
    np.testing.assert_allclose(
        curve.sel(layer="l5"), [0.1, 0.1, 0.1, 0.1, 0.3, 0.5, 0.1, 0.1, 0.8], rtol=1e-6
    )
    assert np.isnan(tables["curve"].sel(signal="unique:energy", layer="l6")).all()
    assert (tables["significant_sensors"].sel(signal=COMPARED) == 2).all()


def peaks(*seconds: float) -> np.ndarray:
    """Latencies as they are found: l3 (the third) half a window later."""
    found = np.array(seconds)
    found[2] += 0.05
    return found


DEPTHS = np.array(list(DEPTH.values()))
NO_L2 = DEPTHS[[0, 2, 3, 4, 5]]
FIRST_REPLICATES = [
    peaks(0.1, 0.2, 0.3, 0.4, 0.5, 0.6),
    peaks(0.2, 0.1, 0.3, 0.4, 0.5, 0.6),
    peaks(0.1, 0.2, 0.3, 0.4, 0.6, 0.5),
    peaks(NAN, NAN, 0.3, 0.4, 0.5, 0.6),
]
# Without l2, which has no peak.
THIRD_REPLICATES = [
    np.array([0.1, 0.35, 0.4, 0.6, 0.5]),
    np.array([0.1, 0.35, 0.4, 0.5, 0.6]),
    np.array([0.2, 0.15, 0.4, 0.6, 0.5]),
    np.array([0.1, 0.35, 0.4, 0.6, 0.5]),
]


@pytest.mark.parametrize("method", ["pearson", "spearman"])
def test_temporal_score_and_interval_of_the_forward_signal(tables: xr.Dataset, method: str) -> None:
    at = {"signal": "forward", "correlation": method}
    of = CORRELATE[method]
    observed = [of(DEPTHS, FIRST_REPLICATES[0]).statistic, of(NO_L2, THIRD_REPLICATES[0]).statistic]
    np.testing.assert_allclose(tables["temporal_score"].sel(at), observed)
    assert tables["temporal_mean"].sel(at).item() == pytest.approx(np.mean(observed))
    # The fourth replicate of subject 01 has four peaks: it has no score, nor has the mean in it.
    assert tables["dropped_replicates"].sel(at).values.tolist() == [1, 0]
    means = [
        (of(DEPTHS, first).statistic + of(NO_L2, third).statistic) / 2
        for first, third in zip(FIRST_REPLICATES[:3], THIRD_REPLICATES[:3], strict=True)
    ]
    expected = np.quantile(means, [0.025, 0.975])
    np.testing.assert_allclose(tables["temporal_interval"].sel(at), expected)


def null_of(replicates: Sequence[np.ndarray], depths: np.ndarray) -> np.ndarray:
    """Return r* = corr(depth, T*_l - mean_b T*_l) of replicates with a peak in five layers."""
    centred = np.array(replicates) - np.nanmean(replicates, axis=0)
    full = centred[np.isfinite(centred).sum(axis=1) >= 5]
    return np.array([np.corrcoef(depths, row)[0, 1] for row in full])


def test_temporal_p_is_of_replicates_about_their_own_mean(tables: xr.Dataset) -> None:
    """Two-sided; the observed value counts once."""
    at = {"signal": "forward", "correlation": "pearson"}
    third = null_of(THIRD_REPLICATES, NO_L2)
    observed = np.corrcoef(NO_L2, THIRD_REPLICATES[0])[0, 1]
    p = (1 + (np.abs(third) >= observed).sum()) / (1 + 4)
    assert tables["temporal_p"].sel(at | {"meg_subject": "03"}).item() == pytest.approx(p)
    # Over subjects: the mean within each replicate; subject 01 has no score in the fourth.
    means = (null_of(FIRST_REPLICATES, DEPTHS) + third[:3]) / 2
    mean = (np.corrcoef(DEPTHS, FIRST_REPLICATES[0])[0, 1] + observed) / 2
    combined = tables["temporal_combined_p"].sel(at).item()
    assert combined == pytest.approx((1 + (np.abs(means) >= mean).sum()) / (1 + 3))


def timing_of(tables: xr.Dataset, kind: str, name: str, signal: str) -> np.ndarray:
    return np.asarray(tables[f"timing_{kind}"].sel(signal=signal, timing=name).values)


def test_slopes_lags_and_contrasts_of_latencies(tables: xr.Dataset) -> None:
    """Relative depth and latency rise by 0.1 and 0.1 s a layer; the third layer is 0.05 s late."""
    five = DEPTHS[:5]
    forward, gradient = peaks(0.2, 0.3, 0.4, 0.5, 0.6), peaks(0.6, 0.5, 0.4, 0.3, 0.2)

    def slope(latency: np.ndarray) -> float:
        return float(np.polyfit(five, latency, 1)[0])

    signal = "unique:energy"
    np.testing.assert_allclose(timing_of(tables, "score", "slope", signal), slope(gradient))
    # Of subject 03 four layers have both latencies, which are too few.
    lag = np.array([0.4, 0.2, 0, -0.2, -0.4])
    found = {name: timing_of(tables, "score", name, signal) for name in tables["timing"].values}
    np.testing.assert_allclose(found["lag"], [lag.mean(), NAN], atol=1e-9)
    np.testing.assert_allclose(found["lag_slope"], [slope(lag), NAN])
    np.testing.assert_allclose(found["contrast"], [slope(gradient) + 0.5 * slope(forward), NAN])
    by_layer = tables["lag"].sel(signal=signal, meg_subject="01")
    np.testing.assert_allclose(by_layer, [*lag, NAN], atol=1e-9)
    by_layer = tables["lag"].sel(signal=signal, meg_subject="03")
    np.testing.assert_allclose(by_layer, [0.4, NAN, 0, -0.2, -0.5, NAN], atol=1e-9)
    np.testing.assert_allclose(timing_of(tables, "mean", "lag_slope", signal), slope(lag))
    # Of the forward signal only the slope is defined.
    assert np.isfinite(timing_of(tables, "score", "slope", "forward")).all()
    assert np.isnan(timing_of(tables, "score", "lag", "forward")).all()


def test_intervals_of_lags_pair_the_replicates_of_both_signals(tables: xr.Dataset) -> None:
    gradient = [peaks(0.6, 0.5, 0.4, 0.3, 0.2)] * 4
    gradient[2] = peaks(0.6, 0.5, 0.3, 0.4, 0.2)
    # The fourth replicate of the forward signal has three of these layers.
    lags = [g - f[:5] for g, f in zip(gradient[:3], FIRST_REPLICATES[:3], strict=True)]
    slopes = [np.polyfit(DEPTHS[:5], lag, 1)[0] for lag in lags]
    expected = np.quantile(slopes, [0.025, 0.975])
    np.testing.assert_allclose(
        timing_of(tables, "interval", "lag_slope", "unique:energy"), expected
    )


def test_no_layer_of_this_study_is_highest_at_an_edge(tables: xr.Dataset) -> None:
    assert (tables["edge_peaks"].sel(signal=COMPARED) == 0).all()


def test_a_layer_that_is_highest_at_an_edge_of_the_search_window_is_counted(
    hand_made: Any, compare: Callable
) -> None:
    """The search window ends after 0.65 s, so that l6 is highest in its last window."""
    found = tables_of(
        compare(
            replace(
                hand_made,
                options=hand_made.options.model_copy(update={"search_window": (0.0, 0.75)}),
            )
        )
    )
    assert found["edge_peaks"].sel(signal="forward").values.tolist() == [1, 1]
    latency = found["latency"].sel(signal="forward")
    assert np.isnan(latency.sel(layer="l6", meg_subject="01"))
    assert np.isnan(latency.sel(layer="l5", meg_subject="03"))


def test_temporal_score_of_unique_variance_falls(tables: xr.Dataset) -> None:
    at = {"signal": "unique:energy", "correlation": "spearman"}
    np.testing.assert_allclose(tables["temporal_score"].sel(at), [-1, -1])
    # One replicate of subject 01 swaps two neighbours of five: rho = -(1 - 6 * 2 / 120) = -0.9.
    expected = np.quantile([-1, -1, -0.95, -1], [0.025, 0.975])
    swapped = tables["temporal_interval"].sel(at)
    np.testing.assert_allclose(swapped, expected)


def test_p_beyond_the_baseline_by_subject_order_and_together(tables: xr.Dataset) -> None:
    """Of 119 permutations none exceeds the largest r, but one in subject 02 of fMRI."""
    fmri, meg = (tables[f"gradient_p_{m}"].sel(signal="unique:energy") for m in ("fmri", "meg"))
    np.testing.assert_allclose(fmri, [1 / 120, 2 / 120])
    np.testing.assert_allclose(meg, [1 / 120, 1 / 120])
    # In that one permutation the mean of the two is below the observed one.
    np.testing.assert_allclose(tables["signal_p"].sel(signal="unique:energy"), [1 / 120] * 2)
    assert tables["gradient_p"].sel(signal="unique:energy").item() == pytest.approx(2 / 120)
    for name in ("signal_p", "gradient_p", "gradient_p_fmri", "gradient_p_meg"):
        assert np.isnan(tables[name].sel(signal=["forward", "gradient:energy"])).all()


def test_controls_have_a_p_and_no_order(tables: xr.Dataset) -> None:
    """In 60 of 119 permutations they predict more than was observed."""
    np.testing.assert_allclose(tables["signal_p"].sel(signal=CONTROLS), 61 / 120)
    np.testing.assert_allclose(tables["control_p"].sel(signal="unique:energy"), [61 / 120] * 2)
    assert np.isnan(tables["control_p"].drop_sel(signal="unique:energy")).all()
    for name in ("spatial_score", "region_profile_all", "curve", "timing_score", "observed_order"):
        assert np.isnan(tables[name].sel(signal=CONTROLS)).all(), name


def test_a_fold_without_r_leaves_no_mean_over_folds() -> None:
    """As in the bootstrap's and the permutations' replicates, with which it is compared."""
    folds = np.array([[[0.2, NAN]], [[0.4, 0.6]]])
    scores = Scores(folds, folds, folds, None, None, 9, ["V1"], None)
    np.testing.assert_allclose(scores.values, [[0.3, NAN]])


CONFUSION = Confusion(
    np.repeat(
        np.where(np.eye(5, dtype=bool), 1.0, 0.25)[:, None, :, None]
        * np.array([0.02, 0.05, 0.1, 0.2])[:, None, None],
        2,
        axis=-1,
    ),
    [0.02, 0.08, 0.25, 0.6],
)


def mean_responses(best: Sequence[int], strength: Sequence[float]) -> np.ndarray:
    """Return what five layers predict of mean responses, beyond the baseline: 0.015 but of one."""
    profile = np.full((5, len(best)), 0.015)
    profile[best, range(len(best))] = strength
    return profile


@pytest.fixture(scope="module")
def seen(hand_made: Any, compare: Callable) -> dict[str, tuple[tuple[Any, ...], Reference]]:
    """Compare with another seed; return what both references were asked for, and what they said."""
    calls: dict[str, tuple[tuple[Any, ...], Reference]] = {}

    def listen(place: Callable[..., Reference]) -> Callable[..., Reference]:
        def heard(*given: Any) -> Reference:
            found = place(*given)
            calls[place.__name__] = given, found
            return found

        return heard

    study = replace(hand_made, options=hand_made.options.model_copy(update={"seed": 7}))
    with pytest.MonkeyPatch.context() as patch:
        for place in (space_reference, time_reference):
            patch.setattr(judged, place.__name__, listen(place))
        run = compare(study)
    tables = tables_of(run).sel(signal="unique:energy")
    assert_reference(tables.sel(order="spatial"), calls["space_reference"][1])
    assert_reference(tables.sel(order="temporal"), calls["time_reference"][1])
    return calls


def test_the_order_in_space_is_that_of_mean_responses_and_their_forward_layers(
    seen: dict[str, Any],
) -> None:
    (subjects, depth, *others), _ = seen["space_reference"]
    assert others == ["argmax", 0.025, 7]
    np.testing.assert_array_equal(depth, DEPTHS[:5])
    noise = np.full((119, 5, 8), 0.01)
    noise[:, 1] = 0.05
    noise[::2] *= -1
    # FFA, LO, V1 left and right, V2 left and right, V3, V4.
    strength = np.array([3, 8, 7.5, 3, 8, 8, 8, 8]) * 0.0075
    profile = mean_responses([4, 4, 0, 4, 1, 1, 2, 3], strength)
    profile[3, 6] = 0.0375
    # Right V1 prefers l6 alone: of the others, equal, noise prefers the first or the second.
    driver = np.tile([4, 4, 0, 0, 1, 1, 2, 3], (119, 1))
    driver[1::2, 3] = 1
    first = Regions(
        profile=profile,
        noise=noise,
        driver=driver,
        position=np.array([50.0, 40, 3, 0, 10, 15, 20, 30]),
        region=np.array([5, 4, 0, 0, 1, 1, 2, 3]),
        confusion=CONFUSION,
    )
    noise = noise[..., :6].copy()
    noise[0, 3, 1] = 0.065
    driver = np.tile([4, 4, 0, 1, 2, 3], (119, 1))
    driver[0, 1] = 3  # the activations have that noise too
    second = Regions(
        profile=mean_responses([4, 4, 0, 1, 2, 3], [0.06] * 6),
        noise=noise,
        driver=driver,
        position=np.array([50.0, 40, 0, 10, 20, 30]),
        region=np.array([5, 4, 0, 1, 2, 3]),
        confusion=CONFUSION,
    )
    for found, expected in zip(subjects, [first, second], strict=True):
        assert_same(found, expected)


def test_the_order_in_time_is_that_of_mean_curves_and_half_the_forward_speed(
    seen: dict[str, Any], tables: xr.Dataset
) -> None:
    (subjects, depth, times, window, slowest, *others), _ = seen["time_reference"]
    assert (window, others) == ((0, 0.85), [0.025, 7])
    np.testing.assert_array_equal(depth, DEPTHS[:5])
    np.testing.assert_allclose(times, np.arange(1, 10) / 10)
    assert slowest == -0.5 * np.mean(timing_of(tables, "score", "slope", "forward"))
    curves = tables["curve"].sel(signal="unique:energy", layer=[f"l{i}" for i in range(1, 6)])
    noise = np.full((119, 5, 9), 0.15)
    for found, name in zip(subjects, ["01", "03"], strict=True):
        assert_same(found, Curves(curves.sel(meg_subject=name).values, noise, CONFUSION))


def test_the_forward_order_and_agreement_are_those_of_the_judged_cell(tables: xr.Dataset) -> None:
    found = tables.sel(signal="unique:energy")
    at = {"signal": "forward", "position": "distance", "correlation": "pearson"}
    cell = {"resolution": "mean_response", "kstar": "argmax"}
    p = found["forward_order_p"].sel(order="spatial").item()
    subjects = [points(s, "distance", "mean_response", "argmax") for s in ("01", "02")]
    assert p == tables["spatial_combined_p"].sel(at | cell).item()
    assert p == pytest.approx(p_over_all_orders(subjects, "pearson"))
    agrees = found["agreement_combined_p"].sel(correlation="pearson", **cell).item()
    assert found["agrees_p"].sel(order="spatial").item() == agrees < 0.01
    # In time one-sided, of two-sided p: the forward slope is above 0, the mean lag is 0.
    two_sided = tables["timing_combined_p"].sel(signal="forward", timing="slope").item()
    assert found["forward_order_p"].sel(order="temporal").item() == two_sided / 2
    assert found["agrees_p"].sel(order="temporal").item() == 0.5


def assert_same(found: Regions | Curves, expected: Regions | Curves) -> None:
    given, wanted = vars(found).copy(), vars(expected).copy()
    for own in (given, wanted):
        confusion = own.pop("confusion")
        own |= {"scores": confusion.scores, "shares": confusion.shares}
    assert set(given) == set(wanted)
    for name, value in wanted.items():
        np.testing.assert_allclose(given[name], value, rtol=1e-6, err_msg=name)


def assert_reference(found: xr.Dataset, expected: Reference) -> None:
    names = ("observed_order", "no_order_p", "backprop_p", "power")
    numbers = (expected.observed, expected.none_p, expected.backprop_p, expected.power)
    np.testing.assert_allclose([found[name].item() for name in names], numbers)
    assert np.isfinite(numbers).all()


def test_gradients_before_the_activations_do_not_come_after_them(
    hand_made: Any, compare: Callable
) -> None:
    """All layers of the gradient peak 0.1 s before those of the activations, and fall alike."""
    early = meg_person(hand_made, forward=RISING_LATE, unique=FALLING_EARLY)
    found = tables_of(compare(replace(hand_made, fmri={}, meg={"01": early})))
    own = found.sel(signal="unique:energy", order="temporal")
    two_sided = found["timing_combined_p"].sel(signal="unique:energy", timing="lag").item()
    assert own["agrees_p"].item() == 1 - two_sided / 2
    assert own["agrees_p"].item() > 0.5


RISING_LATE, FALLING_EARLY = (0.5, 0.5, 0.6, 0.6, 0.7, 0.7), (0.4, 0.4, 0.3, 0.3, 0.2, None)


def meg_person(study: Any, forward: Sequence[float], unique: Sequence[float | None]) -> Any:
    peaks_of = {"forward": forward, "gradient:energy": unique, "unique:energy": unique}
    return replace(study.meg["01"], peaks=peaks_of, replicates={})


def test_without_a_forward_sweep_there_is_no_reference_in_time(
    hand_made: Any, compare: Callable
) -> None:
    """Activations sweep back: half of that is no speed of backpropagation."""
    falling = (0.7, 0.6, 0.5, 0.4, 0.3, 0.2)
    person = meg_person(hand_made, forward=falling, unique=FALLING_EARLY)
    run = compare(replace(hand_made, fmri={}, meg={"01": person}))
    own = tables_of(run).sel(signal="unique:energy", order="temporal")
    assert np.isnan([own[n] for n in ("observed_order", "no_order_p", "backprop_p")]).all()
    assert own["forward_order_p"] > 0.5
    assert verdict_of(run)[0] == "undecided"


def changed(study: Any, **places: str) -> Any:
    """Return the study in space alone, with other best layers of regions beyond the baseline."""
    people = {}
    for name, person in study.fmri.items():
        voxels = [
            replace(voxel, beyond={places[voxel.roi]: 0.08}) if voxel.roi in places else voxel
            for voxel in person.voxels
        ]
        people[name] = replace(person, voxels=voxels)
    return replace(study, fmri=people, meg={})


def test_verdict_backprop_like(hand_made: Any, compare: Callable) -> None:
    run = compare(replace(hand_made, meg={}))
    verdict, sentence = verdict_of(run)
    assert verdict == "backprop_like"
    assert "In space (fMRI), gradients predict responses" in sentence
    assert "Nothing is said of the order in time" in sentence
    assert verdicts_by_order(run) == {"spatial": "backprop_like"}


def test_verdict_misaligned(hand_made: Any, compare: Callable) -> None:
    run = compare(changed(hand_made, V1="l5", V2="l4", V3="l3", V4="l2", LO="l1", FFA="l1"))
    assert verdict_of(run)[0] == "misaligned"
    own = tables_of(run).sel(signal="unique:energy", order="spatial")
    assert own["backprop_p"] < 0.05 < own["no_order_p"]


def test_verdict_undecided(hand_made: Any, compare: Callable) -> None:
    run = compare(changed(hand_made, V1="l1", V2="l3", V3="l2", V4="l1", LO="l5"))
    verdict, sentence = verdict_of(run)
    assert verdict == "undecided"
    assert "it is open in which order" in sentence


def test_verdict_no_gradient_signal(hand_made: Any, compare: Callable) -> None:
    people = {name: replace(person, higher=10) for name, person in hand_made.fmri.items()}
    sensors = {name: replace(person, higher=10) for name, person in hand_made.meg.items()}
    verdict, sentence = verdict_of(compare(replace(hand_made, fmri=people, meg=sensors)))
    assert verdict == "no_gradient_signal"
    # The same 10 of 119 permutations reach the largest r in each of the four.
    assert f"p = {11 / 120:.3f}" in sentence


def test_verdict_not_identifiable_where_a_layers_gradient_looks_like_any_other(
    hand_made: Any, compare: Callable
) -> None:
    run = compare(replace(hand_made, meg={}, alike=1.0))
    assert verdict_of(run)[0] == "not_identifiable"
    assert tables_of(run)["power"].sel(signal="unique:energy") < 0.5


def test_a_signal_in_one_modality_alone_is_judged_there_alone(
    hand_made: Any, compare: Callable
) -> None:
    sensors = {name: replace(person, higher=60) for name, person in hand_made.meg.items()}
    run = compare(replace(hand_made, meg=sensors))
    assert verdicts_by_order(run) == {"spatial": "backprop_like", "temporal": "no_gradient_signal"}
    assert verdict_of(run)[0] == "backprop_like"


def test_the_level_is_divided_by_the_number_of_modalities(
    hand_made: Any, compare: Callable
) -> None:
    """4 of 120 is at most .05 where one modality was recorded, and above .025 where two were."""
    people = {name: replace(person, higher=3) for name, person in hand_made.fmri.items()}
    both = replace(hand_made, fmri=people)
    assert verdicts_by_order(compare(both))["spatial"] == "no_gradient_signal"
    assert verdicts_by_order(compare(replace(both, meg={})))["spatial"] == "backprop_like"


def test_no_verdict_where_a_control_predicts_as_well(hand_made: Any, compare: Callable) -> None:
    run = compare(replace(hand_made, controls=0, of_controls=2.0))
    verdict, sentence = verdict_of(run)
    assert verdict == "undecided"
    assert "controls predict beyond the baseline too (p = 0.008)" in sentence
    tables = tables_of(run).sel(signal="unique:energy")
    np.testing.assert_allclose(tables["control_p"], [1 / 120] * 2)
    np.testing.assert_allclose(tables["exceeds_p"], [1, 1])


def test_a_control_that_predicts_less_forbids_nothing(hand_made: Any, compare: Callable) -> None:
    """Sensors follow gradients with r = .6, and a control with .03."""
    run = compare(replace(hand_made, fmri={}, controls=0))
    assert "controls predict" not in verdict_of(run)[1]
    exceeds = tables_of(run)["exceeds_p"]
    assert exceeds.sel(signal="unique:energy").item() == pytest.approx(1 / 120)
    assert np.isnan(exceeds.drop_sel(signal="unique:energy")).all()


def test_why_a_subject_could_not_be_tested_stands_in_the_sentence(
    hand_made: Any, compare: Callable
) -> None:
    run = compare(replace(hand_made, meg={}, no_room=["01"]))
    verdict, sentence = verdict_of(run)
    assert verdict == "backprop_like"
    assert "01 (fmri) could not be tested: the baseline has 600 components" in sentence
    tables = tables_of(run)
    p = tables["gradient_p_fmri"].sel(signal="unique:energy")
    np.testing.assert_allclose(p, [NAN, 2 / 120])
    assert tables["signal_p"].sel(signal="unique:energy").item() == pytest.approx(2 / 120)


def test_too_few_permutations_test_nothing(hand_made: Any, compare: Callable) -> None:
    """1 of 120 can be no smaller, so that it never reaches .005."""
    strict = hand_made.options.model_copy(update={"significance": 0.005})
    run = compare(replace(hand_made, meg={}, options=strict))
    verdict, sentence = verdict_of(run)
    assert verdict == "undecided"
    assert "119 permutations are too few: no p can reach 0.005" in sentence
    assert "raise encoding.permutations to 199 or more" in sentence
    assert np.isnan(tables_of(run)["signal_p"]).all()


def test_a_signal_without_a_layer_of_its_own_is_undecided(
    hand_made: Any, compare: Callable
) -> None:
    run = compare(replace(hand_made, classes=["identical_to_forward"] * 6))
    verdict, sentence = verdict_of(run)
    assert verdict == "undecided"
    assert sentence.endswith("No layer has a gradient of its own.")
    found = tables_of(run)
    assert np.isfinite(found["spatial_mean"].sel(signal="forward")).any()
    assert np.isnan(found["spatial_mean"].sel(signal="unique:energy")).all()


def test_a_study_that_nothing_could_be_tested_in_is_undecided(
    hand_made: Any, compare: Callable
) -> None:
    run = compare(replace(hand_made, no_room=["01", "02"]))
    verdict, sentence = verdict_of(run)
    assert verdict == "undecided"
    assert sentence.count("could not be tested: the baseline has 600 components") == 2
    assert np.isnan(tables_of(run)["gradient_p"]).all()


def verdicts_by_order(run: Path) -> dict[str, str]:
    """Return the verdict on the gradient in every order."""
    tables = tables_of(run)
    codes = tables["order_verdict"].sel(signal="unique:energy")
    names = flag_names(codes.attrs)
    return {str(order): names[int(codes.sel(order=order))] for order in tables["order"].values}


@pytest.mark.parametrize(
    ("missing", "tables", "order"),
    [("fmri", "spatial_", "temporal"), ("meg", "temporal_", "spatial")],
)
def test_a_modality_that_nobody_was_recorded_in_has_no_tables(
    hand_made: Any, compare: Callable, missing: str, tables: str, order: str
) -> None:
    run = compare(replace(hand_made, **{missing: {}}))
    found = tables_of(run)
    assert not [name for name in found if str(name).startswith(tables)]
    assert f"gradient_p_{missing}" not in found
    assert found["order"].values.tolist() == [order]
    p = found["signal_p"].sel(signal="unique:energy", order=order)
    assert found["gradient_p"].sel(signal="unique:energy") == p
