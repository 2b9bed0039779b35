"""The benchmark of the cluster still runs, on a cluster of its own."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "cluster.py"


def test_the_benchmark_of_the_cluster_runs_at_toy_size() -> None:
    done = subprocess.run(
        [sys.executable, SCRIPT, "--toy"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout.splitlines()[-1])
    assert measured.keys() == {"overhead_per_unit_s", "submit_10k_units_s"}
