"""Units of a drill in this process: their noise, and which attempt meets which accident."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from jobs import drill as drill_job
from jobs.drill import Drill, Fault, OutOfMemoryError
from jobs.runner import GPU_IS_FULL, Arrays, Resources, Work
from jobs.spec import STAGES, DrillSpec, Reference, Unsealed
from storage_schemas.identity import canonical_json
from storage_schemas.kinds.drill import drill_layout
from storage_schemas.protocol.attempts import begin
from storage_schemas.protocol.commit import commit
from storage_schemas.protocol.new_store import NewStore
from storage_schemas.protocol.seal import seal
from storage_schemas.protocol.store import Store

VALUES = 8


def drill_store(
    folder: Path,
    stage: str = "extract",
    n_units: int = 3,
    seed: int = 0,
    upstream: tuple[Reference, ...] = (),
) -> Store:
    """Create a store of a drill whose folder is `folder`, which need not have a drill yet."""
    spec = DrillSpec(stage=stage, units=n_units, values=VALUES, seed=seed, upstream=upstream)
    layout, locations = drill_layout(n_units, VALUES), {"drill": str(folder)}
    attrs = {"stage": stage}
    new = NewStore(stage, "drill", "drill", spec.canonical(), layout, attrs, locations)
    return Store.create(folder, new)


def plan_accidents(folder: Path, *faults: Fault) -> None:
    drill = Drill(seconds=0, values=VALUES, faults=faults)
    (folder / "drill.json").write_bytes(canonical_json(drill.model_dump(mode="json")))


def attempt(store: Store, *units: int, micro_batch: int = 4) -> list[np.ndarray]:
    """Compute units of a store once and return their noise."""
    held = tuple((store, store.units[unit]) for unit in units)
    how = Resources(micro_batch=micro_batch, threads=1, memory=None)
    found: Iterator[tuple[Store, object, Arrays, object]] = drill_job.compute(
        Work(store.path.parents[1], held, how)
    )
    return [arrays["noise"] for _, _, arrays, _ in found]


def test_noise_is_known_by_seed_stage_and_unit_alone(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        plan_accidents(tmp_path / name)
    stores = [
        drill_store(tmp_path / "one"),
        drill_store(tmp_path / "one", seed=1),
        drill_store(tmp_path / "one", stage="prepare"),
    ]
    noises = [noise for store in stores for noise in attempt(store, 0, 1, 2)]
    assert {noise.shape for noise in noises} == {(1, VALUES)}
    assert len({noise.tobytes() for noise in noises}) == len(noises)
    again = drill_store(tmp_path / "two")
    (alone,) = attempt(again, 1, micro_batch=1)
    np.testing.assert_array_equal(alone, noises[1])


def test_an_accident_is_met_by_its_unit_as_often_as_planned(tmp_path: Path) -> None:
    store = drill_store(tmp_path)
    plan_accidents(tmp_path, Fault(stage="extract", unit=1, accident="error", times=2))
    (before,) = attempt(store, 0)
    for _ in range(2):
        with pytest.raises(ValueError, match="a drill's error in unit 1"):
            attempt(store, 1)
    (after,) = attempt(store, 1)
    assert len(list((tmp_path / "met").iterdir())) == 2
    np.testing.assert_array_equal(attempt(store, 0)[0], before)
    plan_accidents(tmp_path)
    np.testing.assert_array_equal(attempt(store, 1)[0], after)


def test_two_accidents_of_one_unit_are_met_by_one_attempt_each(tmp_path: Path) -> None:
    store = drill_store(tmp_path)
    faults = [Fault(stage="extract", unit=0, accident=a) for a in ("error", "gpu_memory")]
    plan_accidents(tmp_path, *faults)
    with pytest.raises(ValueError, match="error in unit 0"):
        attempt(store, 0)
    with pytest.raises(OutOfMemoryError):
        attempt(store, 0)
    assert len(attempt(store, 0)) == 1


def test_an_accident_of_another_stage_or_unit_is_not_met(tmp_path: Path) -> None:
    store = drill_store(tmp_path)
    others = [
        Fault(stage="encode", unit=0, accident="error"),
        Fault(stage="extract", unit=2, accident="error"),
    ]
    plan_accidents(tmp_path, *others)
    assert len(attempt(store, 0, 1)) == 2
    assert not (tmp_path / "met").exists()


def test_a_full_gpu_holds_a_single_image_and_reads_as_one(tmp_path: Path) -> None:
    store = drill_store(tmp_path)
    fault = Fault(stage="extract", unit=0, accident="gpu_memory", times=3)
    plan_accidents(tmp_path, fault)
    for micro_batch in (4, 2):
        with pytest.raises(OutOfMemoryError, match=f"batch of {micro_batch} does not") as caught:
            attempt(store, 0, micro_batch=micro_batch)
        assert GPU_IS_FULL.search(f"{type(caught.value).__name__}: {caught.value}")
    assert len(attempt(store, 0, micro_batch=1)) == 1


def test_a_torn_write_leaves_bytes_that_are_no_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class HungError(Exception):
        """The unit hangs from here on."""

    def hang(seconds: float) -> None:
        if seconds == float("inf"):
            raise HungError

    monkeypatch.setattr(drill_job, "_work", hang)
    store = drill_store(tmp_path)
    plan_accidents(tmp_path, Fault(stage="extract", unit=1, accident="torn"))
    with pytest.raises(HungError):
        attempt(store, 1)
    (torn,) = (store.data / name for name in store.owned_files(store.units[1]))
    assert torn.read_bytes() == b"torn"
    untouched = (store.data / name for name in store.owned_files(store.units[0]))
    assert not any(path.exists() for path in untouched)


def test_a_unit_waits_for_sealed_stores_as_those_of_a_study_do(tmp_path: Path) -> None:
    plan_accidents(tmp_path)
    earlier = drill_store(tmp_path, stage="prepare", n_units=1)
    (noise,) = attempt(earlier, 0)
    held = begin(earlier, earlier.units[0], "test", 0)
    assert held is not None
    commit(earlier, earlier.units[0], {"noise": noise}, {}, held)
    held.finish("committed")
    seal(earlier)
    reference = Reference.of(earlier)
    assert reference is not None
    assert len(attempt(drill_store(tmp_path, upstream=(reference,)), 0)) == 1
    other = reference.model_copy(update={"seal": "0" * 64})
    with pytest.raises(Unsealed, match="is not sealed with the digest 000000000000"):
        attempt(drill_store(tmp_path, upstream=(other,)), 0)


def test_a_drill_is_read_as_it_was_written_and_refuses_other_accidents() -> None:
    fault = Fault(stage="encode", unit=2, accident="hang", times=3)
    drill = Drill(units=dict.fromkeys(STAGES, 2), seed=5, faults=(fault,))
    text = json.dumps(drill.model_dump(mode="json"))
    assert Drill.model_validate_json(text) == drill
    for wrong in ({"accident": "fire"}, {"times": 0}, {"unit": "first"}, {"stages": "encode"}):
        with pytest.raises(ValidationError):
            Fault.model_validate(fault.model_dump() | wrong)
