"""Cancel a run: end its tasks and submit nothing more; or end the tasks of this machine alone."""

import os
import signal
import time
from collections.abc import Sequence

import psutil

from hpc.run.folder import RunFolder
from hpc.run.submissions import Task, submissions, tasks_of, unsettled
from hpc.slurm.client import SlurmUnavailable

GRACE_S = 3.0


def cancel_run(run: RunFolder) -> int:
    """End the run's tasks with their children and return how many there were.

    Raises
    ------
    SlurmUnavailable
        If SLURM does not answer: nothing more is submitted then, but its tasks go on.
    """
    with run.lock():
        run.cancel()
        alive = [task for task in _tasks(run) if task.alive]
    on_slurm = [task for task in alive if task.submission.on_slurm]
    if any(submission.on_slurm for submission in submissions(run)):
        _cancel_jobs(run, on_slurm)
    _end_processes([task for task in alive if task not in on_slurm])
    return len(alive)


def end_tasks_here(run: RunFolder) -> None:
    """End the run's processes on this machine with their children; jobs of a cluster go on."""
    here = [submission for submission in unsettled(run) if not submission.on_slurm]
    _end_processes([task for task in tasks_of(here) if task.alive])


def _tasks(run: RunFolder) -> list[Task]:
    try:
        return tasks_of(unsettled(run))
    except SlurmUnavailable as error:
        raise SlurmUnavailable(
            f"{error}; nothing more is submitted, but the tasks go on: run `gradenc cancel "
            f"{run.path}` again when SLURM answers"
        ) from error


def _cancel_jobs(run: RunFolder, tasks: Sequence[Task]) -> None:
    # Imports submitit, which a run of this machine need not load.
    from hpc.run.gate import living_gate
    from hpc.slurm.queue import cancel

    gate = living_gate(run)
    cancel([*(task.job_id for task in tasks), *([gate.job_id] if gate else [])])


def _end_processes(tasks: Sequence[Task]) -> None:
    pids = [int(task.job_id) for task in tasks if psutil.pid_exists(int(task.job_id))]
    trees = [psutil.Process(pid) for pid in pids]
    processes = [p for root in trees for p in [root, *root.children(recursive=True)]]
    _signal(processes, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_S
    while time.monotonic() < deadline and any(p.is_running() for p in processes):
        time.sleep(0.1)
    _signal(processes, signal.SIGKILL)


def _signal(processes: Sequence[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        if process.is_running():
            try:
                os.kill(process.pid, number)
            except ProcessLookupError:
                continue
