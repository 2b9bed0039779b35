"""Which tasks of submissions are alive: processes looked up here, jobs by one question to SLURM."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from hpc.run.submissions import Submission
from hpc.slurm.jobs import Job
from storage_schemas.protocol.attempts import process_is_alive


@dataclass(frozen=True)
class Task:
    """One task of a submission."""

    submission: Submission
    index: int
    """Its slice of the submission; -1 for a job whose submitter died before noting it."""
    job_id: str
    alive: bool
    job: Job | None = None
    """What SLURM's queue says of it, if it is SLURM's and there."""


def tasks_of(submissions: Sequence[Submission]) -> list[Task]:
    """Return all tasks of the submissions.

    Raises
    ------
    SlurmUnavailable
        If some are SLURM's and its queue cannot be asked.
    """
    names = [submission.name for submission in submissions if submission.on_slurm]
    if not names:
        return tasks_among(submissions, ())
    from hpc.slurm.queue import queue

    return tasks_among(submissions, queue(names))


def tasks_among(submissions: Sequence[Submission], queued: Iterable[Job]) -> list[Task]:
    """Return all tasks of the submissions, given what SLURM's queue holds."""
    by_name: dict[str, dict[str, Job]] = {}
    for job in queued:
        by_name.setdefault(job.name, {})[job.job_id] = job
    return [
        task
        for s in submissions
        for task in (_slurm_tasks(s, by_name.get(s.name, {})) if s.on_slurm else _local_tasks(s))
    ]


def _local_tasks(submission: Submission) -> Iterator[Task]:
    for index, record in enumerate(submission.jobs or ()):
        alive = process_is_alive(int(record["job_id"]), record["start_time"])
        yield Task(submission, index, record["job_id"], alive)


def _slurm_tasks(submission: Submission, queued: Mapping[str, Job]) -> Iterator[Task]:
    records = submission.jobs
    if records is None:
        yield from (Task(submission, -1, j.job_id, j.alive, j) for j in queued.values())
    for index, record in enumerate(records or ()):
        known = queued.get(record["job_id"])
        yield Task(submission, index, record["job_id"], bool(known and known.alive), known)
