"""What is seen of a run on a real SLURM, with its queue, gates and accounting there and gone."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hpc.devcluster.cluster import DevCluster
from hpc.inspect.status import as_object, run_status
from hpc.run.folder import RunFolder
from hpc.run.gate import gate_name, living_gate
from hpc.run.submissions import submissions, unsettled
from hpc.slurm.queue import queue

GRADENC = str(Path(sys.executable).with_name("gradenc"))


def gradenc(*arguments: object, status: int = 0) -> str:
    result = subprocess.run([GRADENC, *map(str, arguments)], capture_output=True, text=True)
    assert result.returncode == status, result.stdout + result.stderr
    return result.stdout + result.stderr


def seen(run: Path) -> dict[str, Any]:
    return as_object(run_status(RunFolder.open(run)))


def wait_until(run: Path, holds: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if holds(found := seen(run)):
            return found
        time.sleep(0.5)
    raise AssertionError(f"not seen: {seen(run)}")


def alive(run: RunFolder) -> list[str]:
    names = [*(submission.name for submission in submissions(run)), gate_name(run)]
    return [job.job_id for job in queue(names) if job.alive]


@pytest.fixture
def run(cluster: DevCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Start a drill with a stage at work for long, and leave nothing of it in the queue."""
    path = tmp_path_factory.mktemp("seeing") / "run"
    gradenc("drill", path, "--profile", "dev", "--units", 8, "--seconds", 3, "--no-wait")
    yield path
    gradenc("cancel", path)


def test_tasks_and_the_gate_are_seen_until_the_run_is_complete(run: Path) -> None:
    found = wait_until(run, lambda found: found["stages"]["extract"]["committed"] >= 4)
    extract = found["stages"]["extract"]
    assert found["state"] == "at work"
    assert found["queue"]["scheduler"] == "slurm"
    assert found["queue"]["gate"]["state"] in ("PENDING", "RUNNING")
    # Four tasks of two units each: no faster than four units in three seconds.
    assert extract["tasks"]["running"] in (3, 4)
    assert 0 < extract["units_per_hour"] <= 4800
    wait_until(run, lambda found: found["state"] == "complete")
    shown = gradenc("report", "efficiency", run)
    assert "not known" not in shown
    assert "/1 GB" in shown


def test_without_its_gate_a_run_does_not_go_on_by_itself(cluster: DevCluster, run: Path) -> None:
    folder = RunFolder.open(run)
    gate = living_gate(folder)
    assert gate is not None
    cluster.command("scancel", gate.job_id)
    wait_until(run, lambda found: found["queue"]["gate"] is None)
    assert "no gate is alive" in gradenc("status", run)
    wait_until(run, lambda found: found["state"] == "idle")
    gradenc("resume", run, "--quick", "--no-wait")
    assert wait_until(run, lambda found: found["queue"]["gate"])["state"] == "at work"


def test_a_task_that_is_held_says_so(cluster: DevCluster, run: Path) -> None:
    held = unsettled(RunFolder.open(run))[0]
    (job,) = held.jobs or ()
    wait_until(run, lambda found: found["stages"][held.stage]["tasks"]["running"])
    cluster.command("scontrol", "requeuehold", job.job_id)
    found = wait_until(run, lambda found: found["stages"][held.stage]["tasks"]["waiting"])
    ((reason, n),) = found["stages"][held.stage]["tasks"]["waiting"].items()
    assert ("held" in reason.lower(), n) == (True, 1)
    assert reason in gradenc("status", run)


def test_cancel_ends_tasks_gates_and_what_is_being_requeued(cluster: DevCluster, run: Path) -> None:
    wait_until(run, lambda found: found["stages"]["extract"]["tasks"]["running"] == 4)
    folder = RunFolder.open(run)
    extract = next(s for s in submissions(folder) if s.stage == "extract")
    cluster.command("scontrol", "requeue", (extract.jobs or ())[0].job_id)
    assert "cancelled: ended" in gradenc("cancel", run)
    deadline = time.monotonic() + 60
    while alive(folder) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert not alive(folder)
    time.sleep(cluster_requeues_after_s(cluster))
    assert not alive(folder)
    found = seen(run)
    assert found["state"] == "cancelled"
    assert found["stages"]["extract"]["expected_end"] is None


def cluster_requeues_after_s(cluster: DevCluster) -> float:
    """Return when a requeued job would be back: a credential's life and a second."""
    config = cluster.command("scontrol", "show", "config")
    life = config.partition("cred_expire=")[2].split()[0].rstrip(",)")
    return float(life) + 2


def test_the_stores_are_shown_when_the_controller_is_gone(cluster: DevCluster, run: Path) -> None:
    wait_until(run, lambda found: found["stages"]["prepare"]["committed"])
    cluster.stop_slurmctld()
    try:
        shown = gradenc("status", run)
        refused = gradenc("cancel", run, status=1)
    finally:
        cluster.start_slurmctld()
        cluster.wait_for_nodes()
    assert "prepare         1/1" in shown
    assert "the queue could not be asked: `squeue" in shown
    assert "again when SLURM answers" in refused
    assert seen(run)["queue"]["problem"] is None


def test_status_needs_no_accounting(cluster: DevCluster, run: Path) -> None:
    cluster.stop_slurmdbd()
    try:
        found = seen(run)
    finally:
        cluster.start_slurmdbd()
    assert found["queue"]["problem"] is None
    assert found["state"] == "at work"


def test_the_output_of_tasks_is_followed(run: Path) -> None:
    wait_until(run, lambda found: found["stages"]["prepare"]["tasks"]["running"])
    assert "Job completed successfully" in gradenc("logs", run, "-f")
    wait_until(run, lambda found: found["stages"]["extract"]["planned"])
    assert "Starting with JobEnvironment" in gradenc("logs", run, "--gate")
