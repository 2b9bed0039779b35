"""The jobs that the controller knows (squeue), those that accounting remembers, both as one."""

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from hpc.slurm.accounting import accounting
from hpc.slurm.client import SlurmUnavailable, run
from hpc.slurm.jobs import Job
from hpc.slurm.words import ending, gpus, job_ids, memory_per_node, resources, row, seconds, state

# The name comes last because it alone may hold the separator.
FIELDS = (
    "JobArrayID",
    "State",
    "Reason",
    "UserName",
    "NodeList",
    "exit_code",
    "RestartCnt",
    "TimeUsed",
    "TimeLimit",
    "tres-alloc",
    "Name",
)
FORMAT = ",".join(f"{field}:|" for field in FIELDS)

POLL_S = 2.0
CANCELLED_AT_ONCE = 500
"""Jobs in one call of scancel: a command line is limited."""


def queue(names: Sequence[str]) -> list[Job]:
    """Return the jobs with these names, by one call of squeue; tasks of arrays one by one.

    Ended ones are among them for as long as the controller remembers them (MinJobAge).

    Raises
    ------
    SlurmUnavailable
        If the controller does not answer.
    """
    if not names:  # squeue takes an empty list for all jobs
        return []
    wanted = f"--name={','.join(names)}"
    return parse(run("squeue", "-h", "-a", "-r", "-t", "all", wanted, "-O", FORMAT))


def parse(printed: str) -> list[Job]:
    """Return the jobs in what squeue printed."""
    return [job for line in printed.splitlines() for job in _jobs(line)]


def jobs_of(
    names: Sequence[str], ids: Sequence[str], since: datetime, patience_s: float = 0.0
) -> dict[str, Job]:
    """Return what is known of jobs, by one call each of sacct and squeue.

    Parameters
    ----------
    names : sequence of str
        Their names, by which the queue is asked: it also tells of jobs nobody has noted.
    ids : sequence of str
        Their ids, by which accounting is asked; that of one task of an array stands for all.
    since : datetime
        When the first of them was submitted, or before.
    patience_s : float
        For how long to ask again where accounting answers but has not heard all of an end (s). It
        lags by seconds, and it alone tells a kill for memory from others: wait before judging.

    Returns
    -------
    dict
        Job id (``123``, ``123_4``) -> job. One that nobody remembers is absent; so is a task of an
        array that was cancelled by itself before it began, of which SLURM keeps no trace.

    Raises
    ------
    SlurmUnavailable
        If the controller does not answer. Accounting may be off or down.
    """
    # Arrays by their number: the ids of all their tasks are longer than a command line may be.
    numbers = list(dict.fromkeys(job_id.partition("_")[0] for job_id in ids))
    deadline = time.monotonic() + patience_s
    while True:
        remembered = _remembered(numbers, since)
        # Asked second, so that a job which accounting takes for alive is in the queue if it is.
        jobs = _merged(remembered or {}, {job.job_id: job for job in queue(names)})
        late = any(_is_late(job, numbers) for job in jobs.values())
        if remembered is None or not late or time.monotonic() >= deadline:
            return jobs
        time.sleep(POLL_S)


def cancel(ids: Sequence[str]) -> None:
    """Cancel jobs; those that have ended, or that nobody knows, are passed over.

    Raises
    ------
    SlurmUnavailable
        If the controller does not answer, or a job is somebody else's.
    """
    for start in range(0, len(ids), CANCELLED_AT_ONCE):
        run("scancel", "--quiet", *ids[start : start + CANCELLED_AT_ONCE])


def _remembered(ids: Sequence[str], since: datetime) -> dict[str, Job] | None:
    """Return what accounting knows, or None where there is none, or not now."""
    try:
        return {job.job_id: job for job in accounting(ids, since)}
    except SlurmUnavailable:
        return None


def _merged(remembered: dict[str, Job], queued: dict[str, Job]) -> dict[str, Job]:
    ended = {job_id: job for job_id, job in remembered.items() if not job.alive}
    both = {job_id: _newer(queued[job_id], ended[job_id]) for job_id in queued.keys() & ended}
    return {**ended, **queued, **both}


def _is_late(job: Job, numbers: Sequence[str]) -> bool:
    """Say whether accounting has still to tell of the end of a job that it was asked for."""
    return not job.alive and job.cpu_s is None and job.job_id.partition("_")[0] in numbers


def _newer(queued: Job, remembered: Job) -> Job:
    """Return accounting's word on a job once it has all of it, unless the job is queued again."""
    complete = remembered.cpu_s is not None and not queued.alive
    restarts = max(queued.restarts, remembered.restarts)
    return replace(remembered if complete else queued, restarts=restarts)


def _jobs(line: str) -> list[Job]:
    own = row(line, FIELDS)
    amounts = resources(own["tres-alloc"])
    exit_code, signal = _ending(int(own["exit_code"]))
    job = Job(
        job_id=own["JobArrayID"],
        name=own["Name"].removesuffix("|"),
        state=state(own["State"]),
        reason="" if own["Reason"] == "None" else own["Reason"],
        user=own["UserName"],
        node=own["NodeList"],
        exit_code=exit_code,
        signal=signal,
        restarts=int(own["RestartCnt"]),
        elapsed_s=seconds(own["TimeUsed"]) or 0.0,
        limit_s=seconds(own["TimeLimit"]),
        cpus=int(amounts.get("cpu", 0)),
        gpus=gpus(amounts),
        requested_memory=memory_per_node(amounts),
    )
    return [replace(job, job_id=job_id) for job_id in job_ids(job.job_id)]


def _ending(status: int) -> tuple[int, int]:
    """Return exit code and signal of what the controller keeps: the status that `wait` gave."""
    if os.WIFSIGNALED(status):
        return 0, os.WTERMSIG(status)
    return ending(os.WEXITSTATUS(status), 0)
