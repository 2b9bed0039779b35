"""The cluster: what faults, submission and workers cost and bring; prints one JSON line last.

Everything runs on the development cluster (`gradenc cluster up`), a real SLURM of this machine.

faults, fault_kinds (>= 12), lost_units (0), duplicate_units (0), digest_equal (true)
    The fault suite, tests/slurm/faults: accidents, kinds of them, units without a commit at the
    end, units that two attempts alive at once wrote, and whether every drill has the digest of one
    that met no accident. Its table names the jobs, SLURM's state, restarts and what was done.
overhead_per_unit_s
    Wall time per unit beyond the unit itself (0.5 s), from the submission of an array of 2 tasks
    with 20 such units each to the last commit.
submit_10k_units_s
    A stage of 10,000 units, from the last commit of the earlier ones to its array in the queue:
    sealing, planning, creating the store, submitting; median of 3.
speedup_workers (>= 1.5), worker_busy_share (>= 0.9)
    See benchmarks/dask_workers.py.

Usage: python benchmarks/cluster.py [--skip-faults] [--toy]

`--toy` leaves out the fault suite and the workers, which are run by themselves, and takes tiny
sizes for the rest; its figures mean nothing.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _timing import print_json, seconds
from rich.console import Console
from rich.table import Table

from hpc.config.profile import Profile
from hpc.devcluster.cluster import start_cluster
from hpc.run.advance import create_stores, plan_stage
from hpc.run.cancel import cancel_run
from hpc.run.drill import start_drill
from hpc.run.drive import step
from hpc.run.folder import RunFolder
from hpc.run.state import is_complete, run_state
from hpc.run.submissions import submissions
from jobs.drill import Drill
from jobs.runner import run_items
from jobs.spec import STAGES
from storage_schemas.protocol.commit import committed_units

HERE = Path(__file__).parent
TASKS, UNITS, UNIT_S = 2, 40, 0.5
PROFILE: dict[str, Any] = {
    "name": "benchmark",
    "scheduler": "slurm",
    **{stage: {"slots": TASKS, "timeout_minutes": 10, "memory_gb": 0.5} for stage in STAGES},
    "gate": {"timeout_minutes": 5, "memory_gb": 0.5},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--skip-faults", action="store_true")
    parser.add_argument("--toy", action="store_true", help="tiny sizes: does it still run?")
    options = parser.parse_args()
    units, many, repeats = (4, 40, 1) if options.toy else (UNITS, 10_000, 3)
    found: dict[str, Any] = {} if options.skip_faults or options.toy else faults()
    with tempfile.TemporaryDirectory(prefix="gc-", dir="/tmp") as folder:
        cluster = start_cluster(Path(folder) / "cluster")
        os.environ["SLURM_CONF"] = str(cluster.conf)
        try:
            found["overhead_per_unit_s"] = overhead_per_unit(Path(folder), units)
            times = [submit_many(Path(folder) / f"submit{i}", many) for i in range(repeats)]
            found["submit_10k_units_s"] = statistics.median(times)
        finally:
            cluster.down()
    if not options.toy:
        workers = dask_workers()
        found |= {key: workers[key] for key in ("speedup_workers", "worker_busy_share")}
    print_json(found)


def faults() -> dict[str, Any]:
    """Run the fault suite and sum up what it wrote down."""
    with tempfile.NamedTemporaryFile(suffix=".jsonl") as written:
        suite = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", HERE.parent / "tests/slurm/faults"],
            env=os.environ | {"GRADENC_FAULTS": written.name},
            cwd=HERE.parent,
            stdout=sys.stderr,
            check=False,
        )
        lines = [json.loads(line) for line in Path(written.name).read_text().splitlines()]
    Console().print(_table(lines))
    return {
        "faults": len(lines),
        "fault_kinds": len({line["fault"] for line in lines}),
        "suite_passed": suite.returncode == 0,
        "lost_units": sum(line["lost_units"] for line in lines),
        "duplicate_units": sum(line["duplicate_units"] for line in lines),
        "digest_equal": all(line["complete"] and line["digest_equal"] for line in lines),
    }


def _table(lines: list[dict[str, Any]]) -> Table:
    table = Table(title="faults")
    for column in ("fault", "job", "state", "restarts", "class", "action"):
        table.add_column(column, overflow="fold")
    for line in lines:
        tasks = line["tasks"] or [dict.fromkeys(("job_id", "state", "restarts", "failure"))]
        for task in tasks:
            values = [task["job_id"], task["state"], task["restarts"], task["failure"]]
            shown = ["" if value is None else str(value) for value in values]
            table.add_row(line["fault"], *shown, _action(line))
    return table


def _action(line: dict[str, Any]) -> str:
    """Say what was done about a fault, from what was submitted."""
    if line["submissions"] == 1:
        return "went on within its job"
    memory = dict.fromkeys(line["memory_gb"])
    raised = f", memory {' -> '.join(map(str, memory))} GB" if len(memory) > 1 else ""
    return f"{line['submissions'] - 1} more submission(s){raised}"


def overhead_per_unit(folder: Path, units: int) -> float:
    """Run an array of short units and return the time each took beyond its own work (s)."""
    run = prepared(folder / "overhead", units, UNIT_S)
    step(run, Profile.model_validate(PROFILE))
    (store,) = run.stores("extract")
    while len(committed_units(store)) < units:
        time.sleep(0.1)
    begun = next(s for s in submissions(run) if s.stage == "extract").path / "units.json"
    ended = max(path.stat().st_mtime for path in store.path.glob("commits/*/*.json"))
    finish(run)
    return (ended - begun.stat().st_mtime) * TASKS / units - UNIT_S


def submit_many(path: Path, units: int) -> float:
    """Return how long it takes to plan and submit a stage of many units (s)."""
    run = prepared(path, units, 1.0)
    took = seconds(lambda: step(run, Profile.model_validate(PROFILE)))
    cancel_run(run)
    return took


def prepared(path: Path, units: int, unit_s: float) -> RunFolder:
    """Return a drill whose stages before extract are committed."""
    counts = dict.fromkeys(STAGES, 1) | {"extract": units}
    run = start_drill(path, Drill(units=counts, seconds=unit_s, values=64))
    run.keep_profile(Profile.model_validate(PROFILE))
    for stage in ("prepare", "ingest"):
        (store,) = create_stores(run, stage, plan_stage(run, stage))
        items = [[(store.reference, 0)]]
        run_items(items, root=run.root, job="bench", round_=0, micro_batch=1, threads=1)
    return run


def finish(run: RunFolder) -> None:
    """Let the gates complete a run."""
    while not is_complete(run_state(run)):
        time.sleep(0.5)


def dask_workers() -> dict[str, Any]:
    """Return the measures of the benchmark of Dask's workers."""
    command = [sys.executable, HERE / "dask_workers.py"]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return dict(json.loads(printed.strip().splitlines()[-1]))


if __name__ == "__main__":
    main()
