"""Items are computed one after another, each while the one before it is written."""

import errno
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.drill import Drill, Fault
from jobs.runner import Outcome, run_items
from jobs.spec import DrillSpec
from storage_schemas.identity import canonical_json
from storage_schemas.kinds.drill import drill_layout
from storage_schemas.protocol.attempts import Attempt, latest_attempts
from storage_schemas.protocol.commit import committed_units
from storage_schemas.protocol.new_store import NewStore
from storage_schemas.protocol.store import Store

N_UNITS = 4


def drill_store(folder: Path, *faults: Fault) -> Store:
    drill = Drill(units={"extract": N_UNITS}, seconds=0, values=8, faults=faults)
    (folder / "drill.json").write_bytes(canonical_json(drill.model_dump(mode="json")))
    spec = DrillSpec(stage="extract", units=N_UNITS, values=8, seed=0, upstream=())
    layout = drill_layout(N_UNITS, 8)
    locations = {"drill": str(folder)}
    return Store.create(
        folder,
        NewStore(
            "extract", "drill", "drill", spec.canonical(), layout, {"stage": "extract"}, locations
        ),
    )


def run(
    store: Store,
    report: Callable[[Outcome], None] = lambda outcome: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> None:
    run_items(
        [[(store.reference, unit)] for unit in range(N_UNITS)],
        root=store.path.parents[1],
        job="test",
        round_=1,
        micro_batch=4,
        threads=1,
        should_stop=should_stop,
        report=report,
    )


def test_the_next_unit_is_computed_while_one_is_committed(tmp_path: Path) -> None:
    store = drill_store(tmp_path)
    seen: list[tuple[set[int], set[int]]] = []
    run(store, lambda outcome: seen.append((committed_units(store), set(latest_attempts(store)))))
    begun = [attempts for _, attempts in seen]
    assert begun == [{0, 1}, {0, 1, 2}, {0, 1, 2, 3}, {0, 1, 2, 3}]
    assert [committed for committed, _ in seen] == [{0}, {0, 1}, {0, 1, 2}, {0, 1, 2, 3}]
    assert {a.outcome for a in latest_attempts(store).values()} == {"committed"}


def test_a_unit_that_cannot_be_written_fails_alone(tmp_path: Path) -> None:
    store = drill_store(tmp_path)
    (blocked,) = store.owned_files(store.units[1])
    (store.data / blocked).mkdir(parents=True)
    outcomes: list[Outcome] = []
    run(store, outcomes.append)
    assert [outcome.committed for outcome in outcomes] == [1, 0, 1, 1]
    assert committed_units(store) == {0, 2, 3}
    attempt = latest_attempts(store)[1]
    assert attempt.outcome == "failed"
    assert blocked in attempt.error


def test_what_was_computed_is_committed_after_a_stop(tmp_path: Path) -> None:
    store = drill_store(tmp_path)
    run(store, should_stop=lambda: len(latest_attempts(store)) == 2)
    assert committed_units(store) == {0, 1}


def test_what_was_computed_is_committed_when_the_writer_raises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = drill_store(tmp_path)
    finish = Attempt.finish

    def full_disk(self: Attempt, *args: Any, **how: Any) -> None:
        if self.index == 0:
            raise OSError(errno.ENOSPC, "no space")
        finish(self, *args, **how)

    monkeypatch.setattr(Attempt, "finish", full_disk)
    with pytest.raises(OSError, match="no space"):
        run(store)
    assert latest_attempts(store)[1].outcome == "committed"
    assert committed_units(store) == {0, 1}
    assert "heartbeat" not in [thread.name for thread in threading.enumerate()]


@pytest.mark.parametrize("unit", range(N_UNITS))
def test_an_error_is_reported_in_its_turn(tmp_path: Path, unit: int) -> None:
    store = drill_store(tmp_path, Fault(stage="extract", unit=unit, accident="error"))
    outcomes: list[Outcome] = []
    run(store, outcomes.append)
    assert [outcome.committed for outcome in outcomes] == [int(i != unit) for i in range(N_UNITS)]
    assert "a drill's error" in (outcomes[unit].traceback or "")
