"""A development cluster of this test session's own; of every xdist worker, its own."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpc.devcluster.cluster import DevCluster, start_cluster

GUARD = """
import shutil, sys
from pathlib import Path
from hpc.devcluster.cluster import open_cluster
sys.stdin.read()
folder = Path(sys.argv[1])
if (folder / "cluster.json").exists():
    open_cluster(folder).down()
shutil.rmtree(folder)
"""
"""Takes the cluster down when its stdin ends: also when this process is killed."""


@pytest.fixture(scope="session")
def cluster() -> Iterator[DevCluster]:
    """Start a cluster, point SLURM's commands at it, take it down at the end."""
    folder = Path(tempfile.mkdtemp(prefix="gradenc-slurm-", dir="/tmp"))
    guard = subprocess.Popen(
        [sys.executable, "-c", GUARD, str(folder)], stdin=subprocess.PIPE, start_new_session=True
    )
    try:
        with pytest.MonkeyPatch.context() as patch:
            cluster = start_cluster(folder)
            patch.setenv("SLURM_CONF", str(cluster.conf))
            yield cluster
    finally:
        guard.communicate()
        assert guard.returncode == 0
