"""Why units wait or will not run, and which settings make two identities differ."""

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hpc.cli.app import app
from hpc.inspect.explain import differences, find_unit, missing, open_store, why
from hpc.run.folder import RunFolder
from hpc.run.submissions import decide
from jobs.drill import Fault
from storage_schemas.protocol.attempts import begin


@pytest.fixture
def run(drilled: Callable[..., RunFolder], tmp_path: Path) -> RunFolder:
    """Return a drill whose stage `ingest` has four units, none of them tried."""
    return drilled(tmp_path / "run", 2)


def reasons(run: RunFolder, unit: int) -> list[str]:
    (store,) = run.stores("ingest")
    return list(why(run, store, store.units[unit]))


def test_units_with_the_same_next_step_are_one_group(run: RunFolder) -> None:
    run.cancel()
    groups = {group.stage: group for group in missing(run)}
    assert len(groups["ingest"].units) == 4
    assert "the run is cancelled" in groups["ingest"].next_step
    printed = CliRunner().invoke(app, ["why", str(run.path)]).output
    (store,) = run.stores("ingest")
    first = f"4 units of stage ingest, the first is {store.unit_id(store.units[0])} "
    assert first in printed
    assert printed.count("the run is cancelled") == len(groups)


def test_a_cancelled_run_keeps_failed_and_pending_units_in_one_group(run: RunFolder) -> None:
    (store,) = run.stores("ingest")
    attempt = begin(store, store.units[1], "7_0", 0)
    assert attempt is not None
    attempt.finish("failed", error="ValueError: no")
    run.cancel()
    (group,) = (group for group in missing(run) if group.stage == "ingest")
    assert sorted(unit.index for unit in group.units) == [0, 1, 2, 3]


def test_every_missing_unit_is_in_one_group(run: RunFolder) -> None:
    (store,) = run.stores("ingest")
    for index, error in ((0, "ValueError: one"), (2, "ValueError: two"), (3, "ValueError: one")):
        attempt = begin(store, store.units[index], "7_0", 0)
        assert attempt is not None
        attempt.finish("failed", error=error)
    found = [sorted(u.index for u in group.units) for group in missing(run)]
    assert sorted(found) == [[0, 3], [1], [2]]


def test_a_single_unit_is_named_without_a_count(
    run: RunFolder, computed: Callable[..., None]
) -> None:
    computed(run, "ingest")
    (store,) = run.stores("ingest")
    store.record_path(store.units[2]).unlink()
    printed = CliRunner().invoke(app, ["why", str(run.path)]).output
    assert printed.startswith(store.unit_id(store.units[2]))
    assert "units of stage" not in printed


def test_more_groups_than_fit_are_counted_by_their_units(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    (store,) = run.stores("ingest")
    for index in range(2):
        attempt = begin(store, store.units[index], "7_0", 0)
        assert attempt is not None
        attempt.finish("failed", error=f"ValueError: {index}")
    monkeypatch.setattr("hpc.cli.explain._SHOWN", 1)
    printed = CliRunner().invoke(app, ["why", str(run.path)]).output
    assert printed.splitlines()[-1] == "and 3 more units"


def test_a_unit_that_was_not_tried_waits_for_the_run(run: RunFolder) -> None:
    *_, last = reasons(run, 0)
    assert last == f"it will run when the run goes on: `gradenc resume {run.path}`"


def test_a_unit_whose_stage_has_tasks_waits_for_them(
    run: RunFolder, left: Callable[..., object]
) -> None:
    (store,) = run.stores("ingest")
    left(run, "ingest", [[[(store.reference, 0)]]])
    assert reasons(run, 0)[-1] == "it will run: tasks of its stage are running or in the queue"


def test_a_unit_in_progress_shows_its_attempt(run: RunFolder) -> None:
    (store,) = run.stores("ingest")
    begin(store, store.units[1], "7_3", 0, restarts=2)
    *_, attempt, last = reasons(run, 1)
    assert "attempt 1 by 7_3 restart 2 on " in attempt
    assert attempt.endswith(": running, alive")
    assert last == "it is running now"


def test_a_failed_unit_names_its_error_and_the_remedy(
    drilled: Callable[..., RunFolder], computed: Callable[..., None], tmp_path: Path
) -> None:
    fault = Fault(stage="prepare", unit=2, accident="error")
    run = drilled(tmp_path / "run", 1, faults=(fault,))
    computed(run, "prepare")
    (store,) = run.stores("prepare")
    *_, last = why(run, store, store.units[2])
    assert "it failed (ValueError: a drill's error in unit 2); mend the cause, then" in last
    committed = list(why(run, store, store.units[0]))
    assert committed[1].startswith("it will not run: it is committed")
    assert committed[2] == "its store is not sealed yet: other units are missing"


def test_a_decision_that_the_user_must_take_is_the_reason(run: RunFolder) -> None:
    decide(run, "ingest", "raise max_memory_gb")
    assert "it will not run by itself: raise max_memory_gb; `gradenc resume" in reasons(run, 0)[-1]
    run.next_round()
    assert "it will run when the run goes on" in reasons(run, 0)[-1]


def test_a_damaged_unit_says_which_file_differs(
    run: RunFolder, computed: Callable[..., None]
) -> None:
    computed(run, "ingest")
    (store,) = run.stores("ingest")
    owned = store.data / store.owned_files(store.units[1])[0]
    content = bytearray(owned.read_bytes())
    content[-1] ^= 1
    owned.write_bytes(content)
    assert any(owned.name in sentence for sentence in reasons(run, 1))
    assert "it is committed, and its files agree" in reasons(run, 0)[1]


def test_a_unit_is_found_by_its_id_and_by_no_other_number(run: RunFolder) -> None:
    (store,) = run.stores("ingest")
    for unit in store.units:
        found, same = find_unit(run, store.unit_id(unit))
        assert (found.reference, same.index) == (store.reference, unit.index)
    for number in ("4", "-1", "x", "", "²"):
        with pytest.raises(ValueError, match="lists unfinished ones"):
            find_unit(run, f"{store.identity[:12]}-{number}")


def test_differences_follow_references_to_the_stage_where_they_begin(
    drilled: Callable[..., RunFolder], tmp_path: Path
) -> None:
    one = drilled(tmp_path / "one", 3)
    other = drilled(tmp_path / "other", 3, seed=1)
    same = drilled(tmp_path / "same", 3)
    (first,), (second,), (third,) = (run.stores("extract") for run in (one, other, same))
    assert list(differences(first, third)) == []
    found = list(differences(first, second))
    assert "seed: 0 -> 1" in found
    assert any("-> prepare: seed: 0 -> 1" in sentence for sentence in found)


def test_an_earlier_store_that_is_gone_is_named_by_its_identity(
    drilled: Callable[..., RunFolder], tmp_path: Path
) -> None:
    one = drilled(tmp_path / "one", 3)
    other = drilled(tmp_path / "other", 3, seed=1)
    (gone,) = one.stores("prepare")
    gone.path.rename(tmp_path / "elsewhere")
    (first,), (second,) = one.stores("extract"), other.stores("extract")
    assert any(gone.identity[:12] in sentence for sentence in differences(first, second))


def test_a_store_is_found_by_a_file_in_it_and_nothing_else(run: RunFolder) -> None:
    (store,) = run.stores("ingest")
    assert open_store(store.path / "plan.json").identity == store.identity
    assert open_store(store.data).identity == store.identity
    with pytest.raises(ValueError, match="is no store: give <root>/<stage>/"):
        open_store(run.path)


def test_the_stores_of_two_runs_are_compared_by_their_labels(
    drilled: Callable[..., RunFolder], tmp_path: Path
) -> None:
    one, other = drilled(tmp_path / "one", 1), drilled(tmp_path / "other", 2, seed=1)
    printed = CliRunner().invoke(app, ["explain", str(one.path), str(other.path)]).output
    (prepared,) = one.stores("prepare")
    assert f"prepare/{prepared.label}: {prepared.identity[:12]} -> " in printed
    assert "    seed: 0 -> 1" in printed
    (ingested,) = other.stores("ingest")
    assert f"ingest/{ingested.label}: only in {other.path}" in printed.replace("\n", "")
