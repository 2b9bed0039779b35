"""A planted study on a SLURM, from its files to its comparisons: the same bytes as without."""

import subprocess
import sys
import time
from pathlib import Path

from hpc.devcluster.cluster import DevCluster
from hpc.run.folder import RunFolder
from hpc.run.state import is_complete, is_stuck, run_state
from jobs.spec import STAGES
from storage_schemas import open_run
from storage_schemas.protocol.seal import run_digest

GRADENC = str(Path(sys.executable).with_name("gradenc"))
LIMIT_S = 400.0

PROFILE = """
name = "study"
scheduler = "slurm"
[common]
partition = "main"
timeout_minutes = 10
memory_gb = 2
micro_batch = 32
[prepare]
threads = 2
[extract]
partition = "gpu"
threads = 2
slots = 2
ranks_per_node = 2
gpus_per_node = 2
[encode]
nodes = 2
ranks_per_node = 2
"""


def gradenc(*words: object) -> None:
    subprocess.run([GRADENC, *map(str, words)], check=True, capture_output=True, timeout=LIMIT_S)


def digest_of(path: Path) -> str:
    run = RunFolder.open(path)
    return run_digest([store for stage in STAGES for store in run.stores(stage)])


def test_a_study_has_the_same_bytes_with_slurm_as_without(
    cluster: DevCluster, small_run: Path, small_study: Path, tmp_path: Path
) -> None:
    """Two ranks of a node share the features; encode is Dask on four ranks of two nodes."""
    (tmp_path / "study.toml").write_text(PROFILE)
    how = ("--profile", tmp_path / "study.toml", "--no-wait")
    gradenc("submit", small_study, "--run", tmp_path / "there", *how)
    run = RunFolder.open(tmp_path / "there")
    deadline = time.monotonic() + LIMIT_S
    while not is_complete(states := run_state(run)):
        assert time.monotonic() < deadline
        assert not is_stuck(run, states)
        time.sleep(1)
    assert digest_of(tmp_path / "there") == digest_of(small_run)
    assert "/comparisons/planted" in open_run(run.path).groups
    while not run.report.exists():
        assert time.monotonic() < deadline
        time.sleep(1)
