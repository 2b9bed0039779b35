"""Units on the ranks of SLURM jobs: the suite of any place, and what only ranks can meet."""

import asyncio
import json
import runpy
import signal
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from distributed.comm import connect
from distributed.security import Security

from hpc.devcluster.cluster import DevCluster
from hpc.devcluster.processes import of_environment
from hpc.node.dask_ranks import _Scheduler, certified
from hpc.run.submit import SubmitOptions
from hpc.slurm.jobs import ENDED, State

SUITE = runpy.run_path(str(Path(__file__).parents[1] / "hpc" / "node" / "dask_suite.py"))
SCHEDULER, CLIENT = 0, 1


class OnSlurm(SUITE["Place"]):
    how = SubmitOptions(
        "slurm", SUITE["profile"](partition="main", ranks_per_node=4, memory_gb=2), "dask"
    )

    def __init__(self, cluster: DevCluster) -> None:
        self.cluster = cluster

    def state(self, task: Any) -> State:
        words = self.cluster.command("squeue", "-h", "-j", task.job, "-t", "all", "-o", "%T")
        return State(words.strip())

    def wait(self, task: Any, seconds: float = 120) -> None:
        SUITE["wait_until"](lambda: self.state(task) in ENDED, seconds)

    def tell_to_stop(self, task: Any) -> None:
        self.cluster.command("scancel", "--signal=USR2", task.job)

    def rank(self, task: Any, number: int) -> psutil.Process:
        marks = {
            "SLURM_CONF": str(self.cluster.conf),
            "SLURM_JOB_ID": raw_id(task),
            "SLURM_PROCID": str(number),
        }
        (process,) = (p for p in of_environment(marks) if p.cmdline()[0] == sys.executable)
        return process


@pytest.fixture
def place(cluster: DevCluster) -> OnSlurm:
    return OnSlurm(cluster)


class TestOnSlurm(SUITE["Suite"]):
    """The suite on four ranks: a scheduler, a client, two workers."""


def raw_id(task: Any) -> str:
    """Return the number by which SLURM knows an array's only task; the array's own."""
    return str(task.job.partition("_")[0])


def folder(task: Any, restart: int = 0) -> Path:
    path: Path = task.submission.path / f"dask-{raw_id(task)}-{restart}"
    return path


@pytest.mark.parametrize("rank", [SCHEDULER, CLIENT])
def test_without_scheduler_or_client_the_job_ends_soon(
    place: OnSlurm, tmp_path: Path, rank: int
) -> None:
    task = place.start(tmp_path / "run", SUITE["drill"](40, 1.0))
    task.until_committed(2)
    place.rank(task, rank).send_signal(signal.SIGKILL)
    place.wait(task, seconds=60)
    assert place.state(task) == State.FAILED
    assert ("DaskError: the Dask scheduler was lost" in task.log) == (rank == SCHEDULER)
    assert 2 <= len(task.committed) < 20


def test_a_scheduler_whose_end_fails_ends() -> None:
    """As where an attempt to connect is given up a second time, which asyncio refuses."""

    def refuse(reason: str) -> None:
        raise RuntimeError("Cannot change state of expiring Timeout")

    async def end() -> None:
        scheduler = await _Scheduler(port=0, dashboard=False)
        scheduler.rpc._connecting["tcp://127.0.0.1:1"].add(refuse)
        with pytest.raises(RuntimeError, match="expiring"):
            await scheduler.close()
        await asyncio.wait_for(scheduler.finished(), timeout=10)

    asyncio.run(end())


def test_without_workers_the_job_ends(place: OnSlurm, tmp_path: Path) -> None:
    task = place.start(tmp_path / "run", SUITE["drill"](6, 0.2, 0, 1))
    place.wait(task)
    assert place.state(task) == State.FAILED
    assert "DaskError: all Dask workers are gone" in task.log
    assert not {0, 1} & task.committed


def test_a_requeued_job_has_a_scheduler_of_its_own(place: OnSlurm, tmp_path: Path) -> None:
    task = place.start(tmp_path / "run", SUITE["drill"](16, 1.0))
    task.until_committed(2)
    place.cluster.command("scontrol", "requeue", task.job)
    SUITE["wait_until"]((folder(task, restart=1) / "scheduler.json").exists, 60)
    place.wait(task)
    assert place.state(task) == State.COMPLETED, task.log
    assert task.committed == set(range(16))
    made_by = [task.attempts(unit)[-1] for unit in range(16)]
    assert {(a.job, a.restarts) for a in made_by} == {(task.job, 0), (task.job, 1)}


def test_on_two_nodes_nobody_joins_without_the_jobs_certificate(
    place: OnSlurm, tmp_path: Path
) -> None:
    task = place.start(tmp_path / "run", SUITE["drill"](12, 1.0), nodes=2, ranks_per_node=2)
    task.until_committed(1)
    assert folder(task).stat().st_mode & 0o777 == 0o700
    address = json.loads((folder(task) / "scheduler.json").read_text())["address"]
    assert address.startswith("tls://")
    with pytest.raises(OSError, match=r"Timed out|closed"):
        greet(address.replace("tls://", "tcp://"))
    with pytest.raises(OSError, match=r"certificate|Timed out|closed"):
        greet(address, Security.temporary())
    greet(address, certified(folder(task) / "certificate.pem"))
    place.wait(task)
    assert place.state(task) == State.COMPLETED, task.log
    assert task.committed == set(range(12))
    assert not folder(task).exists()


def greet(address: str, security: Security | None = None) -> None:
    """Open a connection to a scheduler and say the first word."""

    async def speak() -> None:
        how = security.get_connection_args("client") if security else {}
        comm = await connect(address, timeout=2, **how)
        await comm.write({"op": "identity", "reply": True})
        await comm.read()
        await comm.close()

    asyncio.run(speak())
