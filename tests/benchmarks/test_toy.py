"""Every benchmark still runs: at toy sizes, as a user starts it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
SCRIPTS = sorted(path.name for path in FOLDER.glob("[!_]*.py"))
NEEDS_SLURM = "cluster.py"
"""`tests/slurm/test_benchmark.py` runs it."""


@pytest.mark.parametrize("script", [name for name in SCRIPTS if name != NEEDS_SLURM])
def test_benchmark_runs_at_toy_size(script: str) -> None:
    done = subprocess.run(
        [sys.executable, FOLDER / script, "--toy"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])
