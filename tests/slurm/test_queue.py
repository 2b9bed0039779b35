"""What squeue, sacct and scancel of a real cluster say, as the project reads it."""

import getpass
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest

from hpc.devcluster.cluster import DevCluster
from hpc.faults.triage import FailureClass, classify
from hpc.slurm.client import SlurmUnavailable
from hpc.slurm.jobs import Job, State
from hpc.slurm.limits import limits
from hpc.slurm.queue import cancel, jobs_of, queue

NAME = "gradenc-test-queue"
SINCE = datetime.now(UTC) - timedelta(minutes=1)
FILL = "b = bytearray(900 << 20); import time; time.sleep(60)"

Submit = Callable[..., str]


@pytest.fixture
def submit(cluster: DevCluster) -> Iterator[Submit]:
    """Submit a shell command and return the job's id; cancel what is left at the end."""
    ids: list[str] = []

    def sbatch(command: str, *options: str) -> str:
        own = ("--parsable", "-J", NAME, "-o", "/dev/null", "--mem=100M", *options)
        ids.append(cluster.command("sbatch", *own, "--wrap", command).strip())
        return ids[-1]

    yield sbatch
    cancel(ids)


def known(*ids: str) -> dict[str, Job]:
    """Return what is known of the jobs with these numbers, and of tasks of theirs."""
    jobs = jobs_of([NAME], ids, SINCE)
    return {job_id: job for job_id, job in jobs.items() if job_id.split("_")[0] in ids}


def wait_for(ids: list[str], true: Callable[[dict[str, Job]], bool]) -> dict[str, Job]:
    """Wait until something is true of the jobs and return them."""
    deadline = time.monotonic() + 60
    while not true(jobs := known(*ids)):
        assert time.monotonic() < deadline, jobs
        time.sleep(0.5)
    return jobs


def ended(jobs: dict[str, Job]) -> bool:
    # Accounting, which alone knows processor time, hears of an end a little later.
    return bool(jobs) and all(not job.alive and job.cpu_s is not None for job in jobs.values())


def test_an_array_whose_tasks_end_in_every_way(submit: Submit) -> None:
    array = submit(
        "case $SLURM_ARRAY_TASK_ID in 1) exit 3;; 2) srun sh -c 'kill -9 $$';; 3) exit 78;; esac",
        "--array=0-3",
        "--gres=gpu:1",
    )
    jobs = wait_for([array], lambda jobs: len(jobs) == 4 and ended(jobs))
    tasks = [jobs[f"{array}_{n}"] for n in range(4)]
    assert [task.state for task in tasks] == [State.COMPLETED, *3 * [State.FAILED]]
    assert [task.exit_code for task in tasks] == [0, 3, 9, 78]
    assert [task.signal for task in tasks] == [0, 0, 9, 0]
    assert {task.requested_memory for task in tasks} == {100 * 2**20}
    assert {(task.gpus, task.name) for task in tasks} == {(1, NAME)}
    assert [classify(None, None, task) for task in tasks[1:]] == [
        FailureClass.LOST,
        FailureClass.LOST,
        FailureClass.DRIFT,
    ]


def test_a_kill_for_memory_is_told_from_any_other(submit: Submit) -> None:
    job = submit(f"srun {sys.executable} -c '{FILL}'", "--mem=300M")
    jobs = wait_for([job], ended)
    assert jobs[job].state in (State.OUT_OF_MEMORY, State.FAILED)
    assert classify(None, None, jobs[job]) is FailureClass.HOST_MEMORY


def test_cancelled_and_waiting_tasks(submit: Submit) -> None:
    array = submit("sleep 60", "--array=0-3%1")
    tasks = {f"{array}_{n}" for n in range(4)}
    jobs = wait_for([array], lambda jobs: State.RUNNING in {job.state for job in jobs.values()})
    assert set(jobs) == tasks
    assert jobs[f"{array}_3"].reason == "JobArrayTaskLimit"
    cancel([f"{array}_0", f"{array}_3", "999999999"])
    jobs = wait_for([array], lambda jobs: not jobs[f"{array}_0"].alive)
    # Of a task that is cancelled by itself before it began, SLURM keeps no trace.
    assert set(jobs) == tasks - {f"{array}_3"}
    cancel([array])
    jobs = wait_for([array], ended)
    assert set(jobs) == tasks - {f"{array}_3"}
    assert {classify(None, None, job) for job in jobs.values()} == {FailureClass.CANCELLED}
    assert {job.user for job in jobs.values()} == {getpass.getuser()}


def test_a_job_of_a_lost_node_is_alive_again(submit: Submit, cluster: DevCluster) -> None:
    job = submit("srun sleep 60")
    wait_for([job], lambda jobs: bool(jobs) and jobs[job].state == State.RUNNING)
    node = known(job)[job].node
    cluster.command("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
    try:
        jobs = wait_for([job], lambda jobs: jobs[job].restarts == 1)
        assert jobs[job].alive
    finally:
        cluster.command("scontrol", "update", f"nodename={node}", "state=resume")


def test_accounting_down_and_back(submit: Submit, cluster: DevCluster) -> None:
    job = submit("exit 7")
    cluster.stop_slurmdbd()
    try:
        jobs = wait_for([job], lambda jobs: bool(jobs) and not jobs[job].alive)
        assert (jobs[job].exit_code, jobs[job].cpu_s) == (7, None)
        assert limits(None, None, None).max_submit_jobs is None
    finally:
        cluster.start_slurmdbd()
    # What it says at first, it has not heard all of.
    late = jobs_of([NAME], [job], SINCE, patience_s=60)[job]
    assert (late.exit_code, late.state) == (7, State.FAILED)
    assert late.cpu_s is not None


def test_a_controller_that_is_away_is_said_to_be(submit: Submit, cluster: DevCluster) -> None:
    job = submit("exit 0")
    cluster.stop_slurmctld()
    try:
        with pytest.raises(SlurmUnavailable, match="Unable to contact slurm controller"):
            known(job)
    finally:
        cluster.start_slurmctld()
    wait_for([job], ended)


def test_limits(submit: Submit, cluster: DevCluster) -> None:
    before = limits("main", None, None)
    assert (before.max_array_size, before.max_time_s) == (11, 3600.0)
    submit("true", "--array=0-4", "--hold")
    assert limits("main", None, None).queued == before.queued + 5
    with pytest.raises(SlurmUnavailable, match="Partition nowhere not found"):
        limits("nowhere", None, None)


def test_no_name_is_not_every_name(submit: Submit) -> None:
    submit("true", "--hold")
    assert len(queue([NAME])) >= 1
    assert queue([]) == []
