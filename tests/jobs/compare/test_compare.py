"""Every table of stage compare, worked out on paper for the hand-made study of `conftest.py`."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations_with_replacement, permutations
from math import factorial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from jobs.compare.inputs import mean_r
from storage_schemas.files import read_json
from storage_schemas.runs.run import run_stores

NAN = np.nan
DEPTH = dict(zip(["l1", "l2", "l3", "l4", "l5", "l6"], [0.5, 0.6, 0.7, 0.8, 0.9, 1.0], strict=True))
CORRELATE = {"pearson": stats.pearsonr, "spearman": stats.spearmanr}

# Points of subject 01: V1 twice, V2 left and right, V3, V4, LO, FFA; the voxel in right V1 is not
# significant. V3's profile above its least is 0.4 in l3 and 0.2 in l4: its centre is 0.7 + 0.1 / 3.
# Region V1's mean profile is 0.4 in l1, 0.35 in l2, 0.2 elsewhere: l1 is best and the centre is
# (0.2 * 0.5 + 0.15 * 0.6) / 0.35 = 19 / 35.
FIRST_DEPTH = {
    ("voxel", "argmax"): [0.5, 0.6, 0.6, 0.6, 0.7, 0.8, 0.9, 1.0],
    ("voxel", "centre_of_mass"): [0.5, 0.6, 0.6, 0.6, 0.7 + 0.1 / 3, 0.8, 0.9, 1.0],
    ("region", "argmax"): [0.5, 0.6, 0.6, 0.7, 0.8, 0.9, 1.0],
    ("region", "centre_of_mass"): [19 / 35, 0.6, 0.6, 0.7 + 0.1 / 3, 0.8, 0.9, 1.0],
}
FIRST_POSITION = {
    ("voxel", "distance"): [3, 3, 10, 15, 20, 30, 40, 50],
    ("voxel", "ventral"): [0, 0, 1, 1, 2, 3, NAN, 4],
    ("region", "distance"): [3, 10, 15, 20, 30, 40, 50],
    ("region", "ventral"): [0, 1, 1, 2, 3, NAN, 4],
}
FIRST_REGION = {"voxel": [0, 0, 1, 1, 2, 3, 4, 5], "region": [0, 1, 1, 2, 3, 4, 5]}
# Subject 02 has one voxel a region, so that voxels and regions agree; the last two are swapped.
SECOND_DEPTH = [0.5, 0.6, 0.7, 0.8, 1.0, 0.9]
SECOND_POSITION = {"distance": [0, 10, 20, 30, 40, 50], "ventral": [0, 1, 2, 3, NAN, 4]}

Points = tuple[np.ndarray, np.ndarray, np.ndarray]


def points(subject: str, position: str, resolution: str, how: str) -> Points:
    """Depth, position and region of each point that has a position."""
    if subject == "01":
        depth, place = FIRST_DEPTH[resolution, how], FIRST_POSITION[resolution, position]
        region = FIRST_REGION[resolution]
    else:
        depth, place, region = SECOND_DEPTH, SECOND_POSITION[position], list(range(6))
    known = np.isfinite(place)
    return np.array(depth)[known], np.array(place, float)[known], np.array(region)[known]


def p_over_all_orders(own: Points, method: str) -> float:
    """Permute the regions' mean positions (Pearson: voxels keep their offset) in all 6! orders."""
    depth, position, region = own
    centre = np.array([position[region == r].mean() for r in range(6)])
    if method == "spearman":
        centre, offset = stats.rankdata(centre), 0 * position
    else:
        offset = position - centre[region]
    scores = [
        CORRELATE[method](depth, centre[list(order)][region] + offset).statistic
        for order in permutations(range(6))
    ]
    return float(np.mean(np.array(scores) >= scores[0] - 1e-9))


def interval_over_all_draws(subjects: Sequence[Points], method: str) -> tuple[float, float]:
    """Draw regions with replacement in all ways that leave three: quantiles of the mean score."""
    present = sorted({int(r) for own in subjects for r in own[2]})
    means, weights = [], []
    for draw in combinations_with_replacement(present, len(present)):
        times = [draw.count(r) for r in present]
        if sum(n > 0 for n in times) < 3:
            continue
        rows = [[i for r in draw for i in np.flatnonzero(own[2] == r)] for own in subjects]
        means.append(
            np.mean(
                [
                    CORRELATE[method](own[0][i], own[1][i]).statistic
                    for own, i in zip(subjects, rows, strict=True)
                ]
            )
        )
        weights.append(1 / np.prod([factorial(n) for n in times]))
    order = np.argsort(means)
    share = np.cumsum(np.array(weights)[order]) / np.sum(weights)
    low, high = np.searchsorted(share, [0.025, 0.975])
    return np.array(means)[order][low], np.array(means)[order][high]


def stouffer(p: Sequence[float]) -> float:
    return float(stats.norm.sf(stats.norm.isf(p).sum() / np.sqrt(len(p))))


def tables_of(run: Path) -> xr.Dataset:
    (store,) = run_stores(run, "compare")
    return store.dataset().load()


def verdict_of(run: Path) -> tuple[str, str]:
    """Return the verdict as the store's number says it, and its sentence."""
    (store,) = run_stores(run, "compare")
    verdict = store.dataset()["verdict"]
    record = read_json(store.record_path(store.units[0]))
    assert record is not None
    judged = record["facts"]["verdicts"]["unique:energy"]
    names = dict(
        zip(verdict.attrs["flag_values"], verdict.attrs["flag_meanings"].split(), strict=True)
    )
    said = [names[value] for value in verdict.values.tolist()]
    assert said == ["not_judged", "not_judged", judged["verdict"]]
    return said[2], judged["sentence"]


@pytest.fixture(scope="module")
def tables(hand_made: Any, compare: Callable) -> xr.Dataset:
    return tables_of(compare(hand_made))


ALL_CELLS = [
    (position, resolution, how, method)
    for position in ("distance", "ventral")
    for resolution in ("voxel", "region")
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
    own = points("01", "distance", "voxel", "argmax")
    assert p.sel(fmri_subject="01").item() == pytest.approx(p_over_all_orders(own, method))
    # Two neighbours are swapped: as high scores only the true order (1) and five such swaps.
    assert p.sel(fmri_subject="02").item() == pytest.approx(6 / 720)
    combined = tables["spatial_combined_p"].sel(at | {"kstar": "argmax"}).item()
    assert combined == pytest.approx(stouffer(p.values))


def test_a_map_of_five_regions_has_a_score_and_no_p(tables: xr.Dataset) -> None:
    on_ladder = tables.sel(signal="forward", position="ventral")
    assert np.isfinite(on_ladder["spatial_score"]).all()
    assert np.isnan(on_ladder["spatial_p"]).all()
    assert np.isnan(on_ladder["spatial_combined_p"]).all()


@pytest.mark.parametrize("method", ["pearson", "spearman"])
@pytest.mark.parametrize("position", ["distance", "ventral"])
def test_spatial_interval_is_of_the_mean_over_resampled_regions(
    tables: xr.Dataset, position: str, method: str
) -> None:
    """1,000 draws against all of them, weighed by their probability."""
    at = {"signal": "forward", "position": position, "correlation": method}
    interval = tables["spatial_interval"].sel(at | {"resolution": "voxel", "kstar": "argmax"})
    subjects = [points(s, position, "voxel", "argmax") for s in ("01", "02")]
    low, high = interval_over_all_draws(subjects, method)
    assert interval.sel(bound="low").item() == pytest.approx(low, abs=0.04)
    assert interval.sel(bound="high").item() == pytest.approx(high, abs=0.01)


def test_region_profiles_are_means_of_significant_voxels(tables: xr.Dataset) -> None:
    profile = tables["region_profile"].sel(signal="forward", fmri_subject="01")
    np.testing.assert_allclose(profile.sel(region="V1"), [0.4, 0.35, 0.2, 0.2, 0.2, 0.2], rtol=1e-6)
    np.testing.assert_allclose(profile.sel(region="V2"), [0.2, 0.6, 0.2, 0.2, 0.2, 0.2], rtol=1e-6)
    np.testing.assert_allclose(profile.sel(region="V3"), [0.2, 0.2, 0.6, 0.4, 0.2, 0.2], rtol=1e-6)
    unique = tables["region_profile"].sel(signal="unique:energy")
    first = unique.sel(fmri_subject="01")
    # 0.08 and 0.07 in l1; l6 does not enter; no voxel of FFA is significant in U.
    expected = [0.075, 0.02, 0.02, 0.02, 0.02, NAN]
    np.testing.assert_allclose(first.sel(region="V1"), expected, rtol=1e-5)
    assert np.isnan(unique.sel(region="FFA")).all()


def test_region_depth_is_the_kstar_of_the_mean_profile(tables: xr.Dataset) -> None:
    depth = tables["region_depth"].sel(signal="forward")
    first, second = (depth.sel(fmri_subject=s) for s in ("01", "02"))
    np.testing.assert_allclose(first.sel(kstar="argmax"), [0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    np.testing.assert_allclose(
        first.sel(kstar="centre_of_mass"), [19 / 35, 0.6, 0.7 + 0.1 / 3, 0.8, 0.9, 1.0], rtol=1e-6
    )
    for how in ("argmax", "centre_of_mass"):
        np.testing.assert_allclose(second.sel(kstar=how), SECOND_DEPTH, rtol=1e-6)


def test_region_position_is_the_mean_of_all_its_voxels(tables: xr.Dataset) -> None:
    position = tables["region_position"]
    # V1: two voxels 3 mm from their centroid, and the right one, which is its own.
    np.testing.assert_allclose(position.sel(fmri_subject="01"), [2, 12.5, 20, 30, 40, 50])
    np.testing.assert_allclose(position.sel(fmri_subject="02"), [0, 10, 20, 30, 40, 50])


def test_counts_of_significant_voxels(tables: xr.Dataset) -> None:
    """Right V1's best of six layers has p = 6 * P(z > 2.2) = 0.083; in U only FFA stays below."""
    counts = tables["significant_voxels"]
    assert counts.sel(signal="forward").values.tolist() == [8, 6]
    assert counts.sel(signal="unique:energy").values.tolist() == [7, 5]


def test_the_order_of_unique_variance_is_of_usable_layers_only(tables: xr.Dataset) -> None:
    """V1 (twice), V2 (left and right), V3, V4, LO prefer l1, l1, l2, l2, l3, l4, l5."""
    cell = {
        "position": "distance",
        "resolution": "voxel",
        "kstar": "argmax",
        "correlation": "pearson",
    }
    score = tables["spatial_score"].sel(signal="unique:energy", **cell)
    first = np.corrcoef([0.5, 0.5, 0.6, 0.6, 0.7, 0.8, 0.9], [3, 3, 10, 15, 20, 30, 40])[0, 1]
    np.testing.assert_allclose(score, [first, 1])


def test_usable_layers_and_identifiable_signals(tables: xr.Dataset) -> None:
    usable = tables["usable"]
    assert usable.sel(signal="forward").values.tolist() == [1] * 6
    for signal in ("gradient:energy", "unique:energy"):
        assert usable.sel(signal=signal).values.tolist() == [1] * 5 + [0]
    # Layers 5 and 6 of the gradient are alike (CKA .999), but the sixth does not enter.
    assert tables["identifiable"].values.tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("source", "pair", "cka", "expected"),
    [
        ("gradient:energy", (1, 2), 0.995, [1, 0, 0]),
        ("forward", (0, 5), 0.96, [0, 1, 1]),
    ],
)
def test_one_stimulus_set_in_which_layers_are_alike_is_enough(
    hand_made: Any,
    compare: Callable,
    source: str,
    pair: tuple[int, int],
    cka: float,
    expected: list[int],
) -> None:
    run = compare(replace(hand_made, cka={**hand_made.cka, source: [{}, {pair: cka}]}))
    assert tables_of(run)["identifiable"].values.tolist() == expected
    assert verdict_of(run)[0] == "not_identifiable"


def test_latency_is_the_mean_of_the_windows_at_the_peak(tables: xr.Dataset) -> None:
    latency = tables["latency"].sel(signal="forward")
    # l3 is at 96 % of its peak in the window after it.
    np.testing.assert_allclose(latency.sel(meg_subject="01"), [0.1, 0.2, 0.35, 0.4, 0.5, 0.6])
    np.testing.assert_allclose(latency.sel(meg_subject="03"), [0.1, NAN, 0.35, 0.4, 0.6, 0.5])
    unique = tables["latency"].sel(signal="unique:energy", meg_subject="01")
    np.testing.assert_allclose(unique, [0.5, 0.4, 0.35, 0.2, 0.1, NAN])


def test_onset_is_where_a_curve_stays_above_half_its_peak(tables: xr.Dataset) -> None:
    onset = tables["onset"].sel(signal="forward")
    # l5 is at 60 % of its peak in the window before it.
    np.testing.assert_allclose(onset.sel(meg_subject="01"), [0.1, 0.2, 0.3, 0.4, 0.4, 0.6])
    np.testing.assert_allclose(onset.sel(meg_subject="03"), [0.1, NAN, 0.3, 0.4, 0.5, 0.5])


def test_curves_are_means_of_significant_sensors_in_common_windows(tables: xr.Dataset) -> None:
    curve = tables["curve"].sel(signal="forward", meg_subject="01")
    assert curve["window"].values.tolist() == [f"w{i}" for i in range(1, 8)]
    np.testing.assert_allclose(
        curve.sel(layer="l3"), [0.1, 0.1, 0.5, 0.48, 0.1, 0.1, 0.8], rtol=1e-6
    )
    np.testing.assert_allclose(
        curve.sel(layer="l5"), [0.1, 0.1, 0.1, 0.3, 0.5, 0.1, 0.8], rtol=1e-6
    )
    assert np.isnan(tables["curve"].sel(signal="unique:energy", layer="l6")).all()
    assert (tables["significant_sensors"] == 2).all()


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


def test_temporal_p_is_of_replicates_about_their_own_mean(tables: xr.Dataset) -> None:
    """r* = corr(depth, T*_l - mean_b T*_l), two-sided; the observed value counts once."""
    at = {"signal": "forward", "correlation": "pearson"}
    centred = np.array(THIRD_REPLICATES) - np.mean(THIRD_REPLICATES, axis=0)
    null = np.array([np.corrcoef(NO_L2, row)[0, 1] for row in centred])
    observed = np.corrcoef(NO_L2, THIRD_REPLICATES[0])[0, 1]
    p = (1 + (np.abs(null) >= observed).sum()) / (1 + 4)
    assert tables["temporal_p"].sel(at | {"meg_subject": "03"}).item() == pytest.approx(p)
    both = tables["temporal_p"].sel(at).values
    z = stats.norm.isf(both / 2).sum() / np.sqrt(2)  # both scores are positive
    combined = tables["temporal_combined_p"].sel(at).item()
    assert combined == pytest.approx(2 * stats.norm.sf(z))


def test_temporal_score_of_unique_variance_falls(tables: xr.Dataset) -> None:
    at = {"signal": "unique:energy", "correlation": "spearman"}
    np.testing.assert_allclose(tables["temporal_score"].sel(at), [-1, -1])
    # One replicate of subject 01 swaps two neighbours of five: rho = -(1 - 6 * 2 / 120) = -0.9.
    expected = np.quantile([-1, -1, -0.95, -1], [0.025, 0.975])
    swapped = tables["temporal_interval"].sel(at)
    np.testing.assert_allclose(swapped, expected)


def test_p_of_unique_variance_by_subject_and_together(tables: xr.Dataset) -> None:
    """Of 19 permutations none exceeds the largest U, but one in subject 02 of fMRI."""
    fmri, meg = (tables[f"gradient_p_{m}"].sel(signal="unique:energy") for m in ("fmri", "meg"))
    np.testing.assert_allclose(fmri, [1 / 20, 2 / 20])
    np.testing.assert_allclose(meg, [1 / 20, 1 / 20])
    together = tables["gradient_p"].sel(signal="unique:energy").item()
    assert together == pytest.approx(stouffer([0.05, 0.1, 0.05, 0.05]))
    for name in ("gradient_p", "gradient_p_fmri", "gradient_p_meg"):
        assert np.isnan(tables[name].sel(signal=["forward", "gradient:energy"])).all()


def test_a_fold_without_r_leaves_no_mean_over_folds() -> None:
    """As in the bootstrap's and the permutations' replicates, with which it is compared."""
    r = xr.DataArray([[[0.2, np.nan], [0.4, 0.6]]], dims=("measure", "fold", "target"))
    np.testing.assert_allclose(mean_r(r.assign_coords(measure=["r"])), [0.3, np.nan])


def changed(study: Any, **places: str) -> Any:
    """Return the study with other best layers of the regions in U, in both subjects."""
    people = {}
    for name, person in study.fmri.items():
        voxels = [
            replace(voxel, u={places[voxel.roi]: 0.08}) if voxel.roi in places else voxel
            for voxel in person.voxels
        ]
        people[name] = replace(person, voxels=voxels)
    return replace(study, fmri=people)


def test_verdict_backprop_like(hand_made: Any, compare: Callable) -> None:
    verdict, sentence = verdict_of(compare(hand_made))
    assert verdict == "backprop_like"
    # Stouffer's z of 1/20, 2/20, 1/20 and 1/20 is (3 * 1.645 + 1.282) / 2 = 3.11.
    assert "(U: p < 0.001)" in sentence
    # The third layer peaks half a window late, in one replicate of one subject a window early.
    late = np.corrcoef(range(5), [5, 4, 3.5, 2, 1])[0, 1]
    swapped = np.corrcoef(range(5), [5, 4, 2.5, 3, 1])[0, 1]
    high = np.quantile([late, late, (late + swapped) / 2, late], 0.975)
    assert f"temporal score {late:.2f} [{late:.2f}, {high:.2f}]" in sentence


def test_verdict_misaligned(hand_made: Any, compare: Callable) -> None:
    run = compare(changed(hand_made, V1="l5", V2="l4", V3="l3", V4="l2", LO="l1"))
    verdict, sentence = verdict_of(run)
    assert verdict == "misaligned"
    # Half of the mean forward score of the two subjects.
    first = np.corrcoef(FIRST_DEPTH["voxel", "argmax"], FIRST_POSITION["voxel", "distance"])[0, 1]
    least = (first + 33 / 35) / 4
    assert f"is below {least:.2f}, the smallest effect of interest" in sentence
    assert "temporal order" not in sentence


def test_verdict_undecided(hand_made: Any, compare: Callable) -> None:
    run = compare(changed(hand_made, V1="l3", V2="l2", V3="l1", V4="l5", LO="l4"))
    verdict, sentence = verdict_of(run)
    assert verdict == "undecided"
    assert "neither show nor exclude" in sentence


def test_verdict_no_gradient_signal(hand_made: Any, compare: Callable) -> None:
    people = {name: replace(person, higher=10) for name, person in hand_made.fmri.items()}
    sensors = {name: replace(person, higher=10) for name, person in hand_made.meg.items()}
    verdict, sentence = verdict_of(compare(replace(hand_made, fmri=people, meg=sensors)))
    assert verdict == "no_gradient_signal"
    # 10 of 19 permutations reach the largest U in each of the four.
    assert f"p = {stats.norm.sf(2 * stats.norm.isf(11 / 20)):.3f}" in sentence


@pytest.mark.parametrize(("missing", "tables"), [("fmri", "spatial_"), ("meg", "temporal_")])
def test_a_modality_that_nobody_was_recorded_in_has_no_tables(
    hand_made: Any, compare: Callable, missing: str, tables: str
) -> None:
    run = compare(replace(hand_made, **{missing: {}}))
    assert verdict_of(run)[0] == "backprop_like"
    found = tables_of(run)
    assert not [name for name in found if str(name).startswith(tables)]
    assert f"gradient_p_{missing}" not in found
    other = "meg" if missing == "fmri" else "fmri"
    p = found[f"gradient_p_{other}"].sel(signal="unique:energy").values
    assert found["gradient_p"].sel(signal="unique:energy").item() == pytest.approx(stouffer(p))
