"""What `gradenc resume` and `Run.resume` put right before anything is submitted."""

from collections.abc import Callable
from pathlib import Path

import pytest

from hpc.run.folder import RunFolder
from hpc.run.resume import resume
from hpc.run.state import stage_state
from jobs.drill import Fault
from storage_schemas.protocol.store import Store


@pytest.fixture
def run(
    drilled: Callable[..., RunFolder], computed: Callable[..., None], tmp_path: Path
) -> RunFolder:
    """Return a drill of which `prepare` is computed, with one unit that failed."""
    fault = Fault(stage="prepare", unit=3, accident="error")
    folder = drilled(tmp_path / "run", 1, faults=(fault,))
    computed(folder, "prepare")
    return folder


def prepared(run: RunFolder) -> Store:
    (store,) = run.stores("prepare")
    return store


def statuses(run: RunFolder) -> list[str]:
    state = stage_state(run, "prepare", run.stores("prepare"))
    return [unit.status for unit in state.units]


def flip_a_bit(store: Store, unit: int) -> None:
    """Change a byte of a unit's data; the size stays."""
    path = store.data / store.owned_files(store.units[unit])[0]
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_damaged_units_are_withdrawn_and_the_others_kept(run: RunFolder) -> None:
    assert statuses(run) == ["committed", "committed", "committed", "failed"]
    flip_a_bit(prepared(run), 1)
    repairs = resume(run)
    assert (repairs.files, repairs.units) == ((), 1)
    assert statuses(run) == ["committed", "pending", "committed", "pending"]


def test_the_quick_check_compares_sizes_only(run: RunFolder) -> None:
    store = prepared(run)
    flip_a_bit(store, 1)
    assert resume(run, deep=False).units == 0
    (store.data / store.owned_files(store.units[2])[0]).write_bytes(b"short")
    assert resume(run, deep=False).units == 1
    assert statuses(run)[1:3] == ["committed", "pending"]


def test_a_torn_plan_is_put_back_from_its_copy(run: RunFolder) -> None:
    plan = prepared(run).path / "plan.json"
    whole = plan.read_bytes()
    plan.write_bytes(whole[:40])
    repairs = resume(run)
    assert [Path(name).name for name in repairs.files] == ["plan.json"]
    assert plan.read_bytes() == whole


def test_units_that_are_not_named_stay_failed(run: RunFolder) -> None:
    with pytest.raises(ValueError, match="--only encode: nothing that failed"):
        resume(run, only=["encode"])
    assert run.round == 0
    resume(run, only=["error"])
    assert (run.round, statuses(run)[3]) == (1, "pending")


def test_wishes_that_are_not_given_stay(run: RunFolder) -> None:
    run.change(notify="tell", max_gpu_hours=2.0, pilot=True)
    run.cancel()
    resume(run, wishes={"notify": None, "max_gpu_hours": 5.0})
    kept = run.wishes
    assert (kept.notify, kept.max_gpu_hours, kept.pilot) == ("tell", 5.0, True)
    assert not kept.cancelled


def test_every_store_is_shown_while_it_is_checked(run: RunFolder) -> None:
    shown: list[str] = []

    def each(stores: list[Store]) -> list[Store]:
        shown.extend(store.reference for store in stores)
        return stores

    resume(run, each=each)
    assert shown == [prepared(run).reference]
