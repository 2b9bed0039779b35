"""What units of extract and encode need, against what a process was measured to use."""

import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import yaml

from gradenc_core.ridge.cost import plan_solver
from hpc.forecast.memory import extraction_bytes, room_note, shapes_of
from hpc.forecast.shapes import StudyShapes, shaped
from hpc.plan.encode import encode_plans, encoding_spec
from hpc.plan.extract import extract_plans
from hpc.plan.stages import all_plans, ingest_plans
from hpc.plan.store_plan import StorePlan
from hpc.plan.subjects import Targets
from hpc.run.advance import create_stores, items, plan_stage
from hpc.run.start import start
from hpc.run.state import stage_state
from hpc.study.resolve import resolve
from hpc.study.resolved import Resolved
from hpc.study.study import load_study
from jobs.encode import LIBRARIES
from jobs.runner import run_items
from jobs.spec import Reference
from storage_schemas.protocol.attempts import begin
from storage_schemas.protocol.commit import commit
from storage_schemas.protocol.seal import seal

MICRO_BATCH = 8

MEASURE = """
import json, sys
from pathlib import Path

import numpy as np
from jobs.runner import run_items

root, item, micro_batch, memory, libraries = json.loads(sys.argv[1])
exec(f"import {libraries}")

def n_bytes(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))

how = {"job": "test", "round_": 0, "micro_batch": micro_batch, "threads": 1, "memory": memory}
outcomes = []
before = n_bytes("VmRSS")  # the libraries
run_items([item], root=Path(root), report=outcomes.append, **how)
assert [(outcome.committed, outcome.traceback) for outcome in outcomes] == [(len(item), None)]
print(json.dumps([before, n_bytes("VmHWM")]))
"""


def test_the_least_is_below_what_is_measured(small_data: dict, tmp_path: Path) -> None:
    """Weights, signals and features are a good part of it each: 45, 8 and 59 MiB of 275."""
    changes = {
        "models": [small_data["models"][0] | {"image_size": 128}],
        "tokens": "patches",
        "projection": "none",
        "extraction": {"stimuli_per_shard": 64},
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(small_data | changes))
    study = load_study(tmp_path / "study.yaml")
    run = start(study, tmp_path / "run")
    here = {"job": "test", "round_": 0, "micro_batch": MICRO_BATCH, "threads": 1}
    run_items(items(stage_state(run, "prepare", run.stores("prepare"))), root=run.root, **here)
    for store in run.stores("prepare"):
        seal(store)
    stores = create_stores(run, "extract", plan_stage(run, "extract"))
    shards = (item for item in items(stage_state(run, "extract", stores)) if len(item) == 3)
    before, most = _measured(run.root, next(shards), None, "timm, torchvision, jobs.extract")
    resolved = Resolved.read(run.resolved)
    n_stimuli = len(resolved.stimulus_ids)
    least = extraction_bytes(study, resolved, resolved.models[0], n_stimuli, MICRO_BATCH, False)
    assert (most - before) / 4 < least < most - before


def _measured(root: Path, item: list, memory: float | None, libraries: str) -> tuple[int, int]:
    """Return the bytes of a process before it runs one item, and the most that it then has."""
    told = subprocess.run(
        [
            sys.executable,
            "-c",
            MEASURE,
            json.dumps([str(root), item, MICRO_BATCH, memory, libraries]),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    before, most = json.loads(told.stdout)
    return before, most


def test_a_unit_of_encode_stays_within_its_plan(small_study: Path, tmp_path: Path) -> None:
    """Two bands, scores and their bootstrap, rows read again for every block."""
    changes = ["projection=192", "encoding.alpha_choice=kfold"]
    study = load_study(small_study, [*changes, "encoding.permutations=2"])
    responses = [{"modality": "fmri", "stimuli": 6000, "shared": 6000, "voxels": 1500}]
    with shaped(study, StudyShapes(responses=responses)) as (study, resolved, subjects):
        targets = [Targets.of_subject(subject) for subject in subjects]
        sealed = defaultdict(lambda: Reference(stage="planned", identity="planned", seal="planned"))
        for plan in ingest_plans(resolved, subjects):
            sealed[f"ingest/{plan.label}"] = _filled(plan, tmp_path)
        for plan in extract_plans(study, resolved, targets, sealed):
            if plan.kind == "features":
                sealed[f"extract/{plan.label}"] = _filled(plan, tmp_path)
        scores = (p for p in encode_plans(study, resolved, targets, sealed) if p.kind == "scores")
        both = next(p for p in scores if p.attrs["bands"].startswith("forward+"))
        shapes, banded = shapes_of(study, resolved, both)
    options = encoding_spec(study).ridge_options
    solver = plan_solver(shapes, options, banded)
    limit = solver.memory - 1
    assert not plan_solver(shapes, options, banded, limit).hold_rows
    item, libraries = (
        [(both.create(tmp_path).reference, 0)],
        "jobs.encode, hpc.node.worker, distributed",
    )
    before, most = _measured(tmp_path, item, limit + LIBRARIES, libraries)
    assert before < LIBRARIES
    assert before + limit / 3 < most < LIBRARIES + limit


def _filled(plan: StorePlan, root: Path) -> Reference:
    """Create a store of noise and seal it."""
    store, rng = plan.create(root), np.random.default_rng(0)
    dtypes = {array.name: array.dtype for array in store.arrays.values()}
    for unit in store.units:
        arrays = {
            name: rng.random([b - a for a, b in region], dtype=np.float32).astype(dtypes[name])
            for name, region in unit.regions.items()
        }
        attempt = begin(store, unit, "test", 0)
        assert attempt is not None
        commit(store, unit, arrays, {}, attempt)
        attempt.finish("committed")
    seal(store)
    reference = Reference.of(store)
    assert reference is not None
    return reference


def test_components_count_in_the_least(small_study: Path) -> None:
    least = []
    for kind in ("random", "pca"):
        study = load_study(small_study, [f"projection_kind={kind}"])
        resolved, _ = resolve(study)
        (model,) = resolved.models
        least.append(extraction_bytes(study, resolved, model, 96, 8, on_gpu=False))
    assert least[1] - least[0] == 4 * 2 * 16 * sum(model.widths)


def test_plan_says_where_gradients_may_be_untested(small_study: Path) -> None:
    def note(*changes: str) -> str:
        study = load_study(small_study, list(changes))
        resolved, subjects = resolve(study)
        return room_note(study, resolved, all_plans(study, resolved, subjects))

    assert note() == ""
    wide = "encoding.baseline_width=64"
    said = note(wide)
    assert said.startswith("planted: U is tested if at most 36 components hold 99.9 %")
    assert "how many images unrecorded_images lacks" in said
    assert note(wide, "unrecorded_images={generated: 4000}") == ""
    assert note("signals=[forward]", "objectives=[]", wide) == ""
