"""Times of committed units in a store root."""

import tarfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from hpc.forecast.earlier_runs import encode_records, extract_records, pass_key
from hpc.forecast.memory import shapes_of
from hpc.plan.encode import encode_plans
from hpc.plan.extract import extract_plans
from hpc.plan.subjects import Targets
from hpc.study.resolve import resolve
from hpc.study.resolved import signal_spec
from hpc.study.study import load_study
from jobs.encode import stored_shapes
from jobs.spec import Reference, ScoresSpec
from storage_schemas.protocol.attempts import begin
from storage_schemas.protocol.commit import commit
from storage_schemas.protocol.seal import seal

FROZEN = Path(__file__).parents[2] / "storage_schemas" / "frozen" / "v1.tar.xz"


def test_stores_of_earlier_versions_are_passed_over(tmp_path: Path) -> None:
    with tarfile.open(FROZEN) as archive:
        archive.extractall(tmp_path, filter="data")
    root = tmp_path / "v1" / "stores"
    assert extract_records(root, on_gpu=False) == {}
    assert encode_records(root) == {}


@pytest.mark.parametrize("change", ["precision=bf16", "tokens=all", "layers=[layer4.0]"])
def test_passes_that_cost_otherwise_have_records_of_their_own(
    small_study: Path, tmp_path: Path, change: str
) -> None:
    keys = []
    for overrides, seconds in (([], 1.0), ([change], 100.0)):
        study = load_study(small_study, overrides)
        resolved, subjects = resolve(study)
        sealed = defaultdict(lambda: Reference(stage="prepare", identity="x", seal="x"))
        targets = [Targets.of_subject(subject) for subject in subjects]
        for plan in extract_plans(study, resolved, targets, sealed):
            if plan.kind != "features" or plan.attrs["source"] == "baseline":
                continue
            store = plan.create(tmp_path / "stores")
            for unit in store.units:
                attempt = begin(store, unit, "test", 0)
                shape = [b - a for a, b in unit.regions["features"]]
                commit(store, unit, {"features": np.ones(shape, np.float32)}, {}, attempt)
                n_images = unit.key["stop"] - unit.key["start"]
                attempt.finish("committed", used={"seconds": seconds * n_images, "gpu": None})
            seal(store)
        (model,) = resolved.models
        keys.append(pass_key(model.spec, signal_spec(study, model, "forward"), resolved.sources))
    records = extract_records(tmp_path / "stores", on_gpu=False)
    assert [records[key].seconds for key in keys] == [1.0, 100.0]


@pytest.mark.parametrize("change", ["unrecorded_images=null", "unrecorded_images={generated: 64}"])
@pytest.mark.parametrize("projection", ["16", "none"])
def test_records_are_of_the_shapes_that_were_planned(
    small_study: Path, tmp_path: Path, change: str, projection: str
) -> None:
    study = load_study(small_study, [change, f"projection={projection}"])
    resolved, subjects = resolve(study)
    targets = [Targets.of_subject(subject) for subject in subjects]
    sealed = defaultdict(lambda: Reference(stage="prepare", identity="x", seal="x"))
    for plan in extract_plans(study, resolved, targets, sealed):
        store = plan.create(tmp_path)
        made = Reference(stage="extract", identity=store.identity, seal="x")
        sealed[f"extract/{plan.label}"] = made
    for plan in encode_plans(study, resolved, targets, sealed):
        if plan.kind == "scores":
            store = plan.create(tmp_path)
            spec = ScoresSpec.model_validate(store.spec)
            planned, _ = shapes_of(study, resolved, plan)
            assert stored_shapes(spec, store, tmp_path) == planned
