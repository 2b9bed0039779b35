"""Pilots, and tasks that are cut to fit their time limit by what pilots took."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpc.config.profile import StageProfile, n_tasks
from hpc.run.budget import FILLED, fitted, gpu_hours, measured, over_budget, pilots
from hpc.run.drill import start_drill
from hpc.run.folder import RunFolder
from jobs.drill import Drill

stores = st.lists(st.sampled_from("abc"), min_size=1, max_size=2, unique=True).map(sorted)
items = st.lists(st.tuples(stores, st.integers(0, 9)), max_size=20).map(
    lambda found: [[(store, index) for store in names] for names, index in found]
)


@given(items, st.sets(st.sampled_from("abc")))
def test_one_item_of_each_kind_that_was_not_measured_goes_first(
    missing: list, known: set[str]
) -> None:
    first = pilots(missing, dict.fromkeys(known, 1.0))
    kinds = [tuple(store for store, _ in item) for item in first]
    assert len(kinds) == len(set(kinds))
    assert all(item in missing for item in first)
    unknown = {tuple(store for store, _ in item) for item in missing} - {
        kind for kind in map(tuple, (tuple(s for s, _ in i) for i in missing)) if set(kind) <= known
    }
    assert set(kinds) == unknown


@given(
    st.floats(0.1, 3600),
    st.integers(1, 600),
    st.integers(1, 4),
    st.integers(1, 400),
    st.integers(1, 20),
)
def test_tasks_fit_their_time_limit_unless_one_unit_does_not(
    seconds: float, minutes: int, ranks: int, n: int, slots: int
) -> None:
    asked = StageProfile(timeout_minutes=minutes, ranks_per_node=ranks, slots=slots)
    missing = [[("a", index)] for index in range(n)]
    cut = fitted(asked, missing, {"a": seconds})
    per_task = cut.units_per_task
    assert per_task is not None
    assert per_task == 1 or per_task * seconds / ranks <= FILLED * minutes * 60
    assert n_tasks("slurm", cut, n) * per_task >= n
    # Never larger tasks than the user wanted.
    assert n_tasks("slurm", cut, n) >= n_tasks("slurm", asked, n)


def test_without_a_measured_time_the_profile_stays() -> None:
    asked = StageProfile(slots=3)
    assert fitted(asked, [[("a", 0)]], {}) is asked


def test_times_are_measured_from_committed_units(
    drilled: Callable[..., RunFolder], computed: Callable[..., None], tmp_path: Path
) -> None:
    run = drilled(tmp_path / "run", 2)
    assert measured(run.stores("ingest")) == {}
    computed(run, "ingest")
    (store,) = run.stores("ingest")
    found = measured([store, *run.stores("prepare")])
    assert set(found) == {store.reference, *(s.reference for s in run.stores("prepare"))}
    assert all(0 < seconds < 60 for seconds in found.values())


@pytest.mark.parametrize(
    ("hours", "ranks", "stops"),
    [(3.9, 1, True), (4.0, 1, False), (2.0, 2, False), (None, 1, False)],
)
def test_the_limit_counts_gpus_that_units_share(
    tmp_path: Path, hours: float | None, ranks: int, stops: bool
) -> None:
    run = start_drill(tmp_path / "run", Drill())
    run.change(max_gpu_hours=hours)
    how = StageProfile(gpus_per_node=2, ranks_per_node=ranks)
    missing = [[("a", index), ("b", index)] for index in range(4)]
    sentence = over_budget(run, "extract", how, missing, {"a": 1800.0, "b": 60.0})
    assert (sentence is not None) == stops
    assert gpu_hours(run) == 0
    if sentence:
        assert "4 units of 1.8e+03 s as measured" in sentence
        assert f"`gradenc resume {run.path} --max-gpu-hours N`" in sentence


def test_a_stage_without_gpus_has_no_limit(tmp_path: Path) -> None:
    run = start_drill(tmp_path / "run", Drill())
    run.change(max_gpu_hours=0.1)
    assert over_budget(run, "encode", StageProfile(), [[("a", 0)]], {"a": 1e6}) is None
