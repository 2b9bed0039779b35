"""The development cluster itself: that it shows what real clusters do."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hpc.cli.app import app
from hpc.devcluster.cluster import ClusterError, DevCluster, open_cluster
from hpc.devcluster.processes import job_steps, of_environment, wait_until

FILL_A_NODE = ("--nodelist=n1", "--cpus-per-task=8")


class Jobs:
    """Jobs of one test; those that still run at its end are cancelled."""

    def __init__(self, cluster: DevCluster, folder: Path) -> None:
        self.cluster, self.folder, self.ids = cluster, folder, list[str]()

    def submit(self, script: str, *options: str) -> str:
        """Submit shell lines; their output goes to the file named by the job's number."""
        job = self.cluster.command(
            "sbatch", "--parsable", f"--output={self.folder}/%j", *options, f"--wrap={script}"
        ).strip()
        self.ids.append(job)
        return job

    def output(self, job: str) -> str:
        file = self.folder / job
        return file.read_text() if file.exists() else ""

    def squeue(self, job: str, what: str) -> str:
        return self.cluster.command(
            "squeue", "-h", "--states=all", f"--jobs={job}", f"--Format={what}"
        ).strip()

    def sacct(self, job: str) -> list[str]:
        """Return the states of a job's records, of every time it ran."""
        return self.cluster.command(
            "sacct", "-n", "-a", "-X", "-D", "-P", f"--jobs={job}", "--format=state"
        ).split()

    def wait(self, happened: Callable[[], bool], seconds: float = 30) -> None:
        wait_until(happened, "what the test waits for", seconds)


@pytest.fixture
def jobs(cluster: DevCluster, tmp_path: Path) -> Iterator[Jobs]:
    jobs = Jobs(cluster, tmp_path)
    yield jobs
    if jobs.ids:
        cluster.command("scancel", "--full", *jobs.ids)
    cluster.wait_for_nodes()


def test_every_node_is_idle(cluster: DevCluster) -> None:
    assert set(cluster.command("sinfo", "-h", "-o", "%t").split()) == {"idle"}
    assert len(cluster.command("sinfo", "-h", "-N", "-p", "main").splitlines()) == cluster.nodes


def test_an_array_runs_and_a_longer_one_is_refused(jobs: Jobs) -> None:
    array = jobs.submit("exit $((SLURM_ARRAY_TASK_ID == 3))", "--array=0-10")
    jobs.wait(lambda: sorted(jobs.sacct(array)) == ["COMPLETED"] * 10 + ["FAILED"])
    with pytest.raises(ClusterError, match="Invalid job array specification"):
        jobs.submit("true", "--array=0-11")


def test_no_more_jobs_are_accepted_than_the_qos_allows(jobs: Jobs) -> None:
    jobs.submit("sleep 60", "--qos=small", "--array=0-4")
    with pytest.raises(ClusterError, match="QOSMaxSubmitJobPerUserLimit"):
        jobs.submit("true", "--qos=small")


def test_two_jobs_of_a_node_are_given_different_gpus(jobs: Jobs) -> None:
    options = ("--nodelist=n2", "--gres=gpu:fake:1", "--partition=gpu")
    both = [jobs.submit("echo $CUDA_VISIBLE_DEVICES; sleep 2", *options) for _ in range(2)]
    jobs.wait(lambda: all(jobs.output(job) for job in both))
    assert sorted(jobs.output(job).strip() for job in both) == ["0", "1"]
    what = ("sacct", "-n", "-a", "-X", f"--jobs={both[0]}", "--format=AllocTRES%99")
    jobs.wait(lambda: "gres/gpu:fake=1" in jobs.cluster.command(*what))
    with pytest.raises(ClusterError, match="Requested node configuration is not available"):
        jobs.submit("true", "--gres=gpu:fake:3")


def test_a_job_over_its_memory_is_killed(jobs: Jobs, cluster: DevCluster) -> None:
    fill = "import time; kept = bytearray(400 << 20); time.sleep(60)"
    job = jobs.submit(f"python3 -c '{fill}'", "--mem=100M")
    killed = "OUT_OF_MEMORY" if cluster.cgroups else "FAILED"
    jobs.wait(lambda: jobs.sacct(job) == [killed])


def test_a_preempted_job_is_told_and_runs_again(jobs: Jobs) -> None:
    script = "trap 'echo told' USR2; echo started $SLURM_RESTART_COUNT; sleep 60 & wait; wait"
    low = jobs.submit(
        script, "--partition=low", "--open-mode=append", "--signal=B:USR2@30", *FILL_A_NODE
    )
    jobs.wait(lambda: "started" in jobs.output(low))
    high = jobs.submit("true", "--partition=high", *FILL_A_NODE)
    jobs.wait(lambda: "started 1" in jobs.output(low))
    assert "told" in jobs.output(low)
    jobs.wait(lambda: jobs.sacct(low) == ["PREEMPTED", "RUNNING"])
    assert jobs.sacct(high) == ["COMPLETED"]


def test_a_node_that_loses_power_is_noticed_and_comes_back(jobs: Jobs, cluster: DevCluster) -> None:
    beat = jobs.folder / "beat"
    job = jobs.submit(
        f"setsid sh -c 'while date +%N > {beat}; do sleep 0.1; done' & srun sleep 300",
        "--nodelist=n3",
    )
    jobs.wait(beat.exists)
    cluster.fail_node("n3")
    last = beat.read_text()
    jobs.wait(lambda: jobs.sacct(job)[:1] == ["NODE_FAIL"], seconds=60)
    assert beat.read_text() == last
    assert jobs.squeue(job, "RestartCnt") == "1"
    cluster.start_node("n3")
    cluster.wait_for_nodes()


def test_a_frozen_node_stands_still_with_its_jobs(jobs: Jobs, cluster: DevCluster) -> None:
    job = jobs.submit("while date +%N; do sleep 0.05; done", "--nodelist=n4")
    jobs.wait(lambda: bool(jobs.output(job)))
    cluster.freeze_node("n4")
    frozen = jobs.output(job)
    time.sleep(0.5)
    assert jobs.output(job) == frozen
    cluster.thaw_node("n4")
    jobs.wait(lambda: jobs.output(job) != frozen)


def test_jobs_outlive_the_accounting_daemon(jobs: Jobs, cluster: DevCluster) -> None:
    cluster.stop_slurmdbd()
    job = jobs.submit("true")
    jobs.wait(lambda: jobs.squeue(job, "State") == "COMPLETED")
    with pytest.raises(ClusterError, match="Connection refused"):
        jobs.sacct(job)
    cluster.start_slurmdbd()
    jobs.wait(lambda: jobs.sacct(job) == ["COMPLETED"])


def test_jobs_outlive_the_controller(jobs: Jobs, cluster: DevCluster) -> None:
    job = jobs.submit("echo started; sleep 3; echo ended")
    jobs.wait(lambda: "started" in jobs.output(job))
    cluster.stop_slurmctld()
    cluster.start_slurmctld()
    jobs.wait(lambda: jobs.squeue(job, "State") == "COMPLETED")
    assert jobs.output(job) == "started\nended\n"


def test_a_second_cluster_by_the_command(cluster: DevCluster) -> None:
    folder = cluster.folder / "second"
    words = ["cluster", "up", str(folder), "--nodes", "2", "--no-accounting", "--gpus", "0"]
    first = CliRunner().invoke(app, words)
    assert first.stdout == f"export SLURM_CONF={folder}/etc/slurm.conf\n"
    try:
        again = CliRunner().invoke(app, words)
        assert again.stdout == first.stdout
        assert "is up already" in again.stderr
        second = open_cluster(folder)
        assert second.command("srun", "hostname")
        second.command("sbatch", "--output=/dev/null", "--wrap=sleep 60")
        assert cluster.command("squeue", "-h") == ""
    finally:
        CliRunner().invoke(app, ["cluster", "down", str(folder)])
    assert list(of_environment({"SLURM_CONF": str(second.conf)})) == []
    assert [step for node in ("n1", "n2") for step in job_steps(folder / "spool" / node)] == []
    assert not second.is_up()
