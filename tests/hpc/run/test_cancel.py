"""Cancelling a run: its tasks end with their children, and nothing more is submitted."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from hpc.run import cancel
from hpc.run.cancel import cancel_run
from hpc.run.drill import start_drill
from hpc.run.folder import RunFolder
from hpc.run.gate import gate_name
from hpc.run.submissions import Submission, TaskJob, tasks_of, unsettled
from hpc.slurm.client import SlurmUnavailable
from hpc.slurm.jobs import Job, State
from jobs.drill import Drill
from storage_schemas.protocol.attempts import start_time

Leave = Callable[..., Submission]

PARENT = """
import signal, subprocess, sys, time
if "deaf" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return start_drill(tmp_path / "run", Drill())


@pytest.mark.parametrize("word", ["", "deaf"])
def test_processes_end_with_their_children(
    run: RunFolder, left: Leave, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    monkeypatch.setattr(cancel, "GRACE_S", 0.3)
    command = [sys.executable, "-c", PARENT, word]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as task:
        try:
            assert task.stdout is not None
            child = psutil.Process(int(task.stdout.readline()))
            made = left(run, "prepare", [[]], jobs=False, scheduler="local")
            made.note_jobs([TaskJob(str(task.pid), start_time(task.pid))])
            assert cancel_run(run) == 1
            assert task.wait(5) != 0
            psutil.wait_procs([child], timeout=5)
            assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
        finally:
            task.kill()
    assert run.cancelled
    assert cancel_run(run) == 0


@pytest.mark.parametrize("to", ["the terminal's processes", "the foreground alone"])
def test_an_interrupted_run_on_this_machine_ends_its_tasks_and_says_so(
    tmp_path: Path, to: str
) -> None:
    """A terminal sends Ctrl-C to all processes, `kill -INT` to one; both end the tasks in order."""
    command = [str(Path(sys.executable).with_name("gradenc")), "drill", str(tmp_path / "run")]
    foreground = subprocess.Popen(
        [*command, "--units", "2", "--seconds", "60"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        tasks = _tasks_of(tmp_path / "run")
        send = os.killpg if to == "the terminal's processes" else os.kill
        send(foreground.pid, signal.SIGINT)
        said, _ = foreground.communicate(timeout=60)
    finally:
        if foreground.poll() is None:
            os.killpg(foreground.pid, signal.SIGKILL)
    assert foreground.returncode == 130
    assert "the tasks on this machine are ended" in said
    assert "Traceback" not in said
    assert not any(task.is_running() and task.status() != "zombie" for task in tasks)
    assert not tasks_alive(tmp_path / "run")


def _tasks_of(path: Path) -> list[psutil.Process]:
    """Return the processes of a run's first tasks, with their children, once they are at work."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if path.exists() and (ids := tasks_alive(path)):
            roots = [psutil.Process(int(i)) for i in ids]
            if children := [c for root in roots for c in root.children(recursive=True)]:
                return roots + children
        time.sleep(0.1)
    raise AssertionError("no task was started")


def tasks_alive(path: Path) -> list[str]:
    """Return the ids of a run's tasks that are alive."""
    found = tasks_of(unsettled(RunFolder.open(path))) if (path / "run.json").exists() else []
    return [task.job_id for task in found if task.alive]


def test_a_process_whose_number_is_used_again_is_left_alone(run: RunFolder, left: Leave) -> None:
    """Its task ended long ago; another program has its number now."""
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        made = left(run, "prepare", [[]], jobs=False, scheduler="local")
        made.note_jobs([TaskJob(str(other.pid), 1)])
        assert cancel_run(run) == 0
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_jobs_are_cancelled_with_the_gate(
    run: RunFolder, left: Leave, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = left(run, "prepare", [[], [], []])
    tasks = [Job("1_0", made.name, State.RUNNING), Job("1_1", made.name, State.PENDING)]
    gate = Job("9", gate_name(run), State.PENDING)
    monkeypatch.setattr("hpc.run.submissions.queue", lambda names: tasks)
    monkeypatch.setattr("hpc.run.gate.queue", lambda names: [gate])
    cancelled: list[str] = []
    monkeypatch.setattr("hpc.slurm.queue.cancel", cancelled.extend)
    assert cancel_run(run) == 2
    assert cancelled == ["1_0", "1_1", "9"]


def test_a_silent_slurm_still_stops_the_submissions(
    run: RunFolder, left: Leave, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(names: object) -> None:
        raise SlurmUnavailable("squeue did not answer")

    left(run, "prepare", [[]])
    monkeypatch.setattr("hpc.run.submissions.queue", refuse)
    with pytest.raises(SlurmUnavailable, match="nothing more is submitted, but the tasks go on"):
        cancel_run(run)
    assert run.cancelled
