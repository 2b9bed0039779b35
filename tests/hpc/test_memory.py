"""What extraction needs at the least, against what a process was measured to use."""

import json
import subprocess
import sys
from pathlib import Path

import yaml

from hpc.advance import create_stores, items, plan_stage
from hpc.memory import extraction_bytes
from hpc.resolve import Resolved, resolve
from hpc.start import start
from hpc.state import stage_state
from hpc.study import load_study
from jobs.runner import run_items
from storage_schemas.seal import seal

MICRO_BATCH = 8

MEASURE = """
import json, sys
from pathlib import Path

import timm, torchvision
import jobs.extract
from jobs.runner import run_items

def kilobytes(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))

root, item, micro_batch = json.loads(sys.argv[1])
how = {"job": "test", "round_": 0, "micro_batch": micro_batch, "threads": 1}
outcomes = []
before = kilobytes("VmRSS")  # the libraries
run_items([item], root=Path(root), report=outcomes.append, **how)
assert [(outcome.committed, outcome.traceback) for outcome in outcomes] == [(len(item), None)]
print(1024 * (kilobytes("VmHWM") - before))
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
    shards = (item for item in items(stage_state(run, "extract", stores)) if len(item) == 2)
    told = subprocess.run(
        [sys.executable, "-c", MEASURE, json.dumps([str(run.root), next(shards), MICRO_BATCH])],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    resolved = Resolved.read(run.resolved)
    n_stimuli = len(resolved.stimulus_ids)
    least = extraction_bytes(study, resolved, resolved.models[0], n_stimuli, MICRO_BATCH, False)
    assert int(told.stdout) / 4 < least < int(told.stdout)


def test_components_count_in_the_least(small_study: Path) -> None:
    least = []
    for kind in ("random", "pca"):
        study = load_study(small_study, [f"projection_kind={kind}"])
        resolved, _ = resolve(study)
        (model,) = resolved.models
        least.append(extraction_bytes(study, resolved, model, 96, 8, on_gpu=False))
    assert least[1] - least[0] == 4 * 2 * 16 * sum(model.widths)
