"""Names that the stores label an axis with are those that the science package computes by."""

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import xarray as xr

from gradenc_core.compare.space import POINTS, Brain, SpatialScore, kstar
from gradenc_core.compare.statistics import correlation
from gradenc_core.compare.time import TemporalScore
from gradenc_core.compare.verdict import Verdict
from gradenc_core.ridge.encode import EncodingScores
from gradenc_core.signals.classify import SignalClass
from jobs.compare import space, tables, time
from jobs.compare.evidence import SPATIAL_CELL, TEMPORAL_CELL
from jobs.compare.person import Person
from storage_schemas.kinds import comparisons
from storage_schemas.kinds.classes import SIGNAL_CLASSES
from storage_schemas.kinds.comparisons import (
    BOUNDS,
    CORRELATIONS,
    DISTANCE,
    KSTARS,
    NOT_JUDGED,
    RESOLUTIONS,
    TIMINGS,
    VERDICTS,
    comparisons_layout,
)
from storage_schemas.kinds.scores import BANDED_MEASURES
from storage_schemas.protocol.new_store import NewStore
from storage_schemas.protocol.store import Store

PROFILE, DEPTH = np.array([[0.1, 0.4], [0.3, 0.2], [0.2, 0.1]]), np.array([0.2, 0.6, 1.0])


def test_every_verdict_and_every_class_can_be_stored() -> None:
    assert set(VERDICTS) == {NOT_JUDGED, *Verdict}
    assert set(SIGNAL_CLASSES) == set(get_args(SignalClass))


def test_every_measure_is_computed() -> None:
    assert set(BANDED_MEASURES) <= set(EncodingScores.__dataclass_fields__)


def test_every_axis_of_the_spatial_scores_is_computed_by_its_names() -> None:
    assert set(RESOLUTIONS) == set(POINTS)
    assert kstar(PROFILE, DEPTH, KSTARS[KSTARS.index("argmax")]).tolist() == [0.6, 0.2]
    preferred = [kstar(PROFILE, DEPTH, how) for how in KSTARS]
    assert not np.array_equal(*preferred)
    found = [correlation(np.array([1.0, 2, 9]), np.array([1.0, 2, 3]), m) for m in CORRELATIONS]
    assert found[CORRELATIONS.index("spearman")] == pytest.approx(1)
    assert found[CORRELATIONS.index("pearson")] < 0.99


def test_a_name_that_is_not_known_is_refused() -> None:
    with pytest.raises(ValueError, match="'argmax' or 'centre_of_mass'"):
        kstar(PROFILE, DEPTH, "median")
    with pytest.raises(ValueError, match="'pearson' or 'spearman'"):
        correlation(DEPTH, DEPTH, "kendall")


def test_the_cell_that_a_verdict_reads_exists() -> None:
    axes = {
        "position": (DISTANCE,),
        "resolution": RESOLUTIONS,
        "kstar": KSTARS,
        "correlation": CORRELATIONS,
    }
    assert set(SPATIAL_CELL) == set(axes)
    assert all(label in axes[dim] for dim, label in (SPATIAL_CELL | TEMPORAL_CELL).items())


def test_every_quantity_in_time_is_filled_by_its_name() -> None:
    assert set(TIMINGS) == {"slope", *time.AGAINST_FORWARD}


def test_intervals_are_stored_by_the_names_of_their_bounds() -> None:
    assert set(BOUNDS) <= set(SpatialScore.__dataclass_fields__)
    assert set(BOUNDS) <= set(TemporalScore.__dataclass_fields__)


def spatial_scores(root: Path) -> xr.Dataset:
    """Fill the spatial scores of a real store, from a profile that rises over seven regions."""
    regions = [f"V{i}" for i in range(7)]
    layers = [(f"layer{i}", i / 4) for i in range(5)]
    attrs = {"model": "tiny", "control": False}
    layout = comparisons_layout(["forward"], layers, regions, [DISTANCE], ["01"], [], [])
    store = Store.create(root, NewStore("compare", "comparisons", "x", {}, layout, attrs))
    filled = tables.empty_tables(store)
    rng = np.random.default_rng(0)
    roi = np.repeat(np.array(regions, dtype=object), 6)
    position = np.repeat(np.arange(7.0), 6) + rng.uniform(size=42)
    profile = rng.uniform(0.1, 0.4, (5, 42)) + np.outer(np.arange(5), position) / 60
    hemisphere = np.full(42, "L", dtype=object)
    brain = Brain(profile, np.ones(42, dtype=bool), position, roi, hemisphere)
    at = {"signal": "forward", "position": DISTANCE}
    brains, folds = dict.fromkeys(RESOLUTIONS, brain), profile[None]
    person = Person("01", brains, np.zeros((42, 3)), folds, np.zeros((0, 5, 42)), None)
    space._fill_scores(filled, at, [person], filled["layer_depth"].values, seed=0)
    return filled


def test_another_order_of_labels_leaves_every_score_under_its_own_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = spatial_scores(tmp_path / "a")
    for name in ("RESOLUTIONS", "KSTARS", "CORRELATIONS", "BOUNDS"):
        monkeypatch.setattr(comparisons, name, getattr(comparisons, name)[::-1])
    turned = spatial_scores(tmp_path / "b")
    assert turned["kstar"].values.tolist() == list(reversed(plain["kstar"].values.tolist()))
    for name in ("spatial_score", "spatial_p", "spatial_mean", "spatial_interval"):
        same, other = xr.align(plain[name], turned[name], join="left")
        np.testing.assert_array_equal(same, other.reindex_like(same))
        assert len(np.unique(same)) > 4, "the scores differ, so a wrong label would show"
