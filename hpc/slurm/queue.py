"""Jobs in the queue (squeue), and jobs from queue and accounting merged into one record each."""

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from hpc.slurm.accounting import accounting
from hpc.slurm.client import SlurmUnavailable, run
from hpc.slurm.jobs import Job
from hpc.slurm.notation import (
    ending,
    gpus,
    job_ids,
    memory_per_node,
    resources,
    row,
    seconds,
    state,
)

# The name comes last because only it may contain the separator.
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
_CANCELLED_AT_ONCE = 500
"""Jobs per call of scancel: the length of a command line is limited."""


def queue(names: Sequence[str]) -> list[Job]:
    """Return the jobs with these names, by one call of squeue; each task of an array is a job.

    Ended jobs are included as long as the controller keeps them (MinJobAge).

    Raises
    ------
    SlurmUnavailable
        If the controller does not answer.
    """
    if not names:  # squeue would list all jobs
        return []
    wanted = f"--name={','.join(names)}"
    return parse(run("squeue", "-h", "-a", "-r", "-t", "all", wanted, "-O", FORMAT))


def parse(printed: str) -> list[Job]:
    """Parse the output of squeue."""
    return [job for line in printed.splitlines() for job in _jobs(line)]


def jobs_of(
    names: Sequence[str], ids: Sequence[str], since: datetime, patience_s: float = 0.0
) -> dict[str, Job]:
    """Return jobs from accounting and the queue, by one call each of sacct and squeue.

    Parameters
    ----------
    names : sequence of str
        Their names, for the queue: it also lists jobs whose ids were never recorded.
    ids : sequence of str
        Their ids, for accounting; the id of one task of an array stands for all.
    since : datetime
        Not later than the submission of the first of them.
    patience_s : float
        How long to ask again while accounting answers with incomplete records of ended jobs (s).
        Accounting lags by seconds, and only it distinguishes a kill for memory from other ends.

    Returns
    -------
    dict
        Job id (``123``, ``123_4``) -> job. Jobs that neither command knows are absent; among them
        are tasks of an array that were cancelled singly before they began.

    Raises
    ------
    SlurmUnavailable
        If the controller does not answer. Accounting may be off or down.
    """
    # Arrays by their number: the ids of all their tasks may be too long for a command line.
    numbers = list(dict.fromkeys(job_id.partition("_")[0] for job_id in ids))
    deadline = time.monotonic() + patience_s
    while True:
        remembered = _remembered(numbers, since)
        # The queue is asked second: a job that accounting believes alive is in it if it is.
        jobs = _merged(remembered or {}, {job.job_id: job for job in queue(names)})
        late = any(_is_late(job, numbers) for job in jobs.values())
        if remembered is None or not late or time.monotonic() >= deadline:
            return jobs
        time.sleep(POLL_S)


def cancel(ids: Sequence[str]) -> None:
    """Cancel jobs; ended and unknown ones are ignored.

    Raises
    ------
    SlurmUnavailable
        If the controller does not answer, or a job belongs to another user.
    """
    for start in range(0, len(ids), _CANCELLED_AT_ONCE):
        run("scancel", "--quiet", *ids[start : start + _CANCELLED_AT_ONCE])


def _remembered(ids: Sequence[str], since: datetime) -> dict[str, Job] | None:
    """Return the accounting records, or None if accounting is off or down."""
    try:
        return {job.job_id: job for job in accounting(ids, since)}
    except SlurmUnavailable:
        return None


def _merged(remembered: dict[str, Job], queued: dict[str, Job]) -> dict[str, Job]:
    ended = {job_id: job for job_id, job in remembered.items() if not job.alive}
    both = {job_id: _newer(queued[job_id], ended[job_id]) for job_id in queued.keys() & ended}
    return {**ended, **queued, **both}


def _is_late(job: Job, numbers: Sequence[str]) -> bool:
    """Return whether accounting has not yet recorded the end of a job."""
    return not job.alive and job.cpu_s is None and job.job_id.partition("_")[0] in numbers


def _newer(queued: Job, remembered: Job) -> Job:
    """Return the record of accounting if it is complete and the job was not requeued."""
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
    """Return exit code and signal of a status of `wait`, which is what the controller keeps."""
    if os.WIFSIGNALED(status):
        return 0, os.WTERMSIG(status)
    return ending(os.WEXITSTATUS(status), 0)
