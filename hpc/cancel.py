"""Cancel a run: end its tasks and submit nothing more."""

import os
import signal
import time

import psutil

from hpc.folder import RunFolder
from hpc.submissions import submissions

GRACE_S = 3.0


def cancel_run(run: RunFolder) -> int:
    """End the run's tasks with their children and return how many there were."""
    with run.lock():
        run.cancel()
        jobs = [job for submission in submissions(run) for job in submission.alive()]
    trees = [psutil.Process(job["pid"]) for job in jobs if psutil.pid_exists(job["pid"])]
    processes = [p for root in trees for p in [root, *root.children(recursive=True)]]
    _signal(processes, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_S
    while time.monotonic() < deadline and any(p.is_running() for p in processes):
        time.sleep(0.1)
    _signal(processes, signal.SIGKILL)
    return len(jobs)


def _signal(processes: list[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        if process.is_running():
            try:
                os.kill(process.pid, number)
            except ProcessLookupError:
                continue
