"""What the page says of the hand-made study (`tests/jobs/conftest.py`) in each situation."""

import html
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from gradenc_core.compare.verdict import Verdict
from jobs.compare import evidence
from jobs.report import plots
from jobs.report.orders import CLAIMS
from jobs.report.page import COLOURS, TITLES, write_report
from jobs.report.words import (
    EXCHANGED,
    FOLD_RULES,
    WITHIN,
    judged_name,
    number,
    p_value,
    signal_title,
)
from jobs.spec import EncodingSpec
from storage_schemas.runs.run import run_stores

SCORE = r"\S+ \[\S+ \S+\]"
"""A mean with its interval, as the page prints it."""


@pytest.mark.parametrize(
    ("signal", "title"),
    [
        ("forward", "activations (r)"),
        ("gradient:random.3", "gradient, random.3 (r)"),
        ("signal:relevance", "signal, relevance (r)"),
        ("unique:energy", "gradient, energy beyond the baseline (r)"),
        ("unique:signal:relevance", "signal, relevance beyond the baseline (r)"),
    ],
)
def test_a_signal_is_not_called_a_gradient(signal: str, title: str) -> None:
    assert signal_title(signal) == title


@pytest.mark.parametrize(
    ("signal", "name"),
    [
        ("unique:dino", "objective dino"),
        ("unique:random.0", "control random.0"),
        ("unique:mismatched_dino", "control mismatched_dino"),
        ("unique:signal:surprise", "signal surprise"),
    ],
)
def test_a_verdict_is_about_an_objective_a_control_or_a_labs_own_signal(
    signal: str, name: str
) -> None:
    assert judged_name(signal) == name


def test_numbers_that_do_not_exist_are_undefined() -> None:
    assert (number(0.126), number(np.nan)) == ("0.13", "undefined")
    assert (p_value(0.0004), p_value(0.0126), p_value(np.nan)) == ("< 0.001", "0.013", "undefined")


def test_every_verdict_has_a_title_a_colour_and_what_it_claims() -> None:
    assert set(TITLES) == set(COLOURS) == set(CLAIMS) == set(Verdict)


def page_of(run: Path) -> str:
    """Write a run's page and return its text, one blank between words; figures by their title."""
    path = run / "report.html"
    write_report(run, path)
    body = path.read_text(encoding="utf-8").split("<body>")[1]
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


@pytest.fixture(scope="module")
def page(hand_made: Any, compare: Callable) -> str:
    return page_of(compare(hand_made))


def test_the_verdict_stands_first_with_its_sentence_and_what_it_claims(page: str) -> None:
    first = page.split("What each verdict rests on")[0]
    title = f"tiny, objective energy: {TITLES[Verdict.BACKPROP_LIKE]}"
    assert re.search(rf"{title} In space \(fMRI\), .* In time \(MEG or EEG\), ", first)
    assert "Nothing is said of the order in time." in first
    assert first.strip().endswith(CLAIMS[Verdict.BACKPROP_LIKE])
    assert "recordings of 01 (fmri, 300 stimuli), 01 (meg, 300 stimuli), 02 (fmri" in page


def test_every_order_is_listed_with_the_numbers_that_its_sentence_has(page: str) -> None:
    listed = page.split("What each verdict rests on")[1].split("fMRI decides")[0]
    signal = "tiny gradient, energy beyond the baseline (r)"
    (space,) = re.findall(rf"{re.escape(signal)} spatial (.*?) tiny", listed)
    assert space == (
        "backprop like 0.008 0.508 not needed 0.007 0.003 0.78 "
        "2.4 % of simulated studies without an order show as much of backpropagation's order, "
        "48.0 % of those with backpropagation as little 0.97"
    )
    (time,) = re.findall(rf"{re.escape(signal)} temporal (.*)", listed)
    assert time.startswith(
        "not identifiable 0.008 0.508 not needed 0.125 0.500 -1000 ms per unit of depth 0"
    )
    said = page.split("What each verdict rests on")[0]
    assert "r = 0.78 (no order p = 0.024, backpropagation p = 0.480, power 0.97)" in said


def test_a_signal_without_a_layer_of_its_own_has_a_page(hand_made: Any, compare: Callable) -> None:
    page = page_of(compare(replace(hand_made, classes=["identical_to_forward"] * 6)))
    assert "No layer has a gradient of its own." in page


def test_an_order_that_could_not_be_tested_has_no_place(hand_made: Any, compare: Callable) -> None:
    page = page_of(compare(replace(hand_made, meg={}, no_room=["01", "02"])))
    listed = page.split("What each verdict rests on")[1].split("fMRI decides")[0]
    undefined = " ".join(["undefined"] * 2)
    assert (
        f"spatial undecided {undefined} not needed 0.007 {undefined} not known undefined" in listed
    )
    assert "baseline of 9000 columns in 600 components" in page
    assert "not tested: the baseline has 600 components, too many" in page


def test_the_baseline_is_counted_with_its_scores(page: str) -> None:
    counted = page.split("What was counted")[1]
    for bands in ("gradient-energy", "baseline", "forward"):
        assert (
            f"tiny-baseline-{bands}-01: constant targets 6, baseline of 800 columns in 60 "
            "components, which keep 99.91 % of its variance, taken away exactly, within the stimuli"
        ) in counted


def test_controls_are_drawn_and_listed_nowhere_but_by_their_p(page: str) -> None:
    assert "p of the controls" in page
    model = page.split("Model tiny")[1].split("What was counted")[0]
    assert "baseline (r)" in model
    assert not re.search(r"(activations|baseline) beyond the baseline", model)


def test_what_was_found_is_what_was_judged(hand_made: Any, compare: Callable) -> None:
    run = compare(hand_made)
    (store,) = run_stores(run, "compare")
    tables = store.dataset().load().sel(signal="unique:energy")
    found = page_of(run).split("found (mean over subjects, 95 % interval)")[1].split("✓")[0]
    forward_space, space, forward_time, time, *lags = re.findall(SCORE, found)
    assert [lag[:5] for lag in lags] == ["0.00 ", "-2.00"]
    assert space.startswith(f"{tables['observed_order'].sel(order='spatial').item():.2f} [")
    assert time.startswith("-0.9")
    assert forward_space.startswith("0.7")
    assert forward_time.startswith("0.9")


def test_the_page_explains_the_cell_that_the_verdict_reads(
    hand_made: Any, compare: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = compare(hand_made)
    before = page_of(run)
    (store,) = run_stores(run, "compare")
    tables = store.dataset().load()
    cell = {"position": "ventral", "resolution": "voxel", "kstar": "centre_of_mass"}
    for dim, label in cell.items():
        monkeypatch.setitem(evidence.SPATIAL_CELL, dim, label)
    after = page_of(run)
    mean = tables["spatial_mean"].sel(signal="forward", correlation="pearson", **cell)
    found = "found (mean over subjects, 95 % interval)"
    assert f"{found} {mean.item():.2f} [" in after
    assert f"{found} {mean.item():.2f} [" not in before
    # Every subject's row moves with it.
    score = tables["spatial_score"].sel(signal="forward", correlation="pearson", **cell)
    row = f"01 activations (r) spatial {score.sel(fmri_subject='01').item():.2f} undefined"
    assert row in after
    assert row not in before


def test_predictions_are_marked_by_the_interval(page: str) -> None:
    table = page.split("hypothesis forward, space")[1]
    row = table.split("biologically plausible backpropagation")[1].split("reported finding")[0]
    # Right V1, of no region's order, widens the intervals in space.
    marked = "> 0 ? > 0 ? > 0 ✓ < 0 (deep layers first) ✓ > 0, larger for early layers ?"
    assert row.strip() == marked


def test_subjects_are_listed_with_how_many_are_significant(page: str) -> None:
    rows = page.split("Every subject")[1]
    assert "02 activations (r) spatial 0.94 0.008" in rows
    alone = r"\(alone: 2 of 2 at or below 0.05\)"
    assert re.search(rf"all 2 activations \(r\) spatial {SCORE} 0.\d+ {alone}", rows)


def test_slopes_lags_and_agreement_stand_beside_the_scores(page: str) -> None:
    rows = page.split("Every subject")[1]
    u = r"gradient, energy beyond the baseline \(r\)"
    assert re.search(rf"01 {u} agreement with activations 1.00 0.003", rows)
    # It peaks 0.1 s earlier with each tenth of depth; its third layer is 50 ms late.
    assert re.search(rf"01 {u} slope of latency, per unit of depth -1000 ms 0.\d+", rows)
    assert re.search(rf"01 {u} lag behind activations 0 ms", rows)
    assert re.search(rf"01 {u} slope of lag, per unit of depth -2000 ms 0.\d+", rows)
    assert not re.search(r"activations \(r\) (agreement|lag|slope of lag)", rows)


def test_the_level_is_the_studys(hand_made: Any, compare: Callable) -> None:
    options = hand_made.options.model_copy(update={"significance": 0.06})
    assert "of 2 at or below 0.06" in page_of(compare(replace(hand_made, options=options)))


def test_the_rules_of_folds_and_permutations_stand_beside_the_scores(
    hand_made: Any, compare: Callable
) -> None:
    rules = {"fold_rule": "keep_categories", "permute_within": "all"}
    shown = page_of(compare(replace(hand_made, **rules))).split("Model tiny")[1]
    said = shown.split("Layer by region")[0]
    assert "Every category was kept in one fold" in said
    assert "Permutations exchanged whole categories of all sessions" in said
    assert "(encoding.fold_rule: keep_categories)" in said
    assert "(encoding.permute_within: all)" in said


def test_every_rule_of_the_specification_has_words() -> None:
    rules = EncodingSpec.model_fields
    assert set(FOLD_RULES) == set(EXCHANGED) == set(get_args(rules["fold_rule"].annotation))
    assert set(WITHIN) == set(get_args(rules["permute_within"].annotation))


def test_layers_that_were_left_out_are_named(page: str) -> None:
    assert (
        "layers without a gradient of their own: gradient:energy, l6: identical_to_forward" in page
    )
    assert "01-fmri: 0 target(s) with missing values and 1 without any or constant" in page
    assert "without data (zero, NaN or constant) in a session" in page
    assert "averaged over the others: 2 in ses-02" in page
    owners = "from images with exactly 4 trials: the median target's ceiling of a mean of 4 trials"
    assert f"{owners} is 50.0 % of its variance" in page


def test_without_reliability_nothing_is_shown_divided(page: str) -> None:
    for title in ("Layer by region.", "Depth against position.", "Layer by time."):
        assert title in page
    assert "divided by reliability" not in page
    assert "Stability" not in page


@pytest.mark.parametrize(
    ("missing", "gone", "left"),
    [
        ("fmri", ["Layer by region", "Depth against position"], "Layer by time"),
        ("meg", ["Layer by time", "Depth against latency"], "Layer by region"),
    ],
)
def test_a_modality_that_was_not_recorded_is_said_and_not_drawn(
    hand_made: Any, compare: Callable, missing: str, gone: list[str], left: str
) -> None:
    page = page_of(compare(replace(hand_made, **{missing: {}})))
    found = page.split("found (mean over subjects, 95 % interval)")[1].split("✓")[0]
    assert found.count("not recorded") == (3 if missing == "meg" else 2)
    assert left in page
    assert not [title for title in (*gone, "Place and time together") if title in page]


def test_heat_maps_show_all_voxels_and_the_selection_beside_them(page: str) -> None:
    assert "Layer by region. Mean score of all voxels of each region" in page
    assert "Layer by region, significant voxels." in page
    assert page.index("Layer by region.") < page.index("Layer by region, significant voxels.")


def test_regions_are_labelled_with_how_many_voxels_and_people_they_are(
    hand_made: Any, compare: Callable
) -> None:
    (store,) = run_stores(compare(hand_made), "compare")
    tables = store.dataset().load()
    assert plots._region_sizes(tables)[0][:2] == ["V1\n4", "V2\n3"]
    forward, _, unique, *_ = plots._selections(tables)
    assert forward[:2] == ["V1\n3 of 4\n2 of 2", "V2\n3 of 3\n2 of 2"]
    assert unique[-1] == "FFA\n1 of 2\n1 of 2"


def test_two_regions_of_many_people_are_said_to_be_tested_over_people(
    hand_made: Any, compare: Callable
) -> None:
    v1, v2 = hand_made.fmri["02"].voxels[:2]
    person = replace(hand_made.fmri["02"], voxels=[v1, v2])
    people = {f"{i:02d}": person for i in range(6)}
    page = page_of(compare(replace(hand_made, fmri=people, meg={})))
    assert "2 regions: their order cannot be tested over regions (it needs 6)" in page
    assert "with 6 people it is tested over people" in page
    assert "all 6 activations (r) rise of depth with position, tested over people" in page
    assert "0.0100 per mm; 6 people rise, 0 fall 0.016" in page
    assert "0 of 6 at or below" not in page


def test_an_order_of_enough_regions_is_not_tested_over_people(page: str) -> None:
    assert "over people" not in page
