"""Which tasks of submissions are alive: processes looked up here, jobs by one question to SLURM."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hpc.slurm.jobs import Job
from hpc.submissions import Submission
from storage_schemas.attempts import process_is_alive


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
    on_slurm = [submission for submission in submissions if submission.on_slurm]
    found = [task for s in submissions if not s.on_slurm for task in _local_tasks(s)]
    return [*found, *(_slurm_tasks(on_slurm) if on_slurm else ())]


def _local_tasks(submission: Submission) -> Iterator[Task]:
    for index, record in enumerate(submission.jobs or ()):
        alive = process_is_alive(int(record["job_id"]), record["start_time"])
        yield Task(submission, index, record["job_id"], alive)


def _slurm_tasks(submissions: Sequence[Submission]) -> Iterator[Task]:
    from hpc.slurm.queue import queue

    by_name: dict[str, dict[str, Job]] = {}
    for job in queue([submission.name for submission in submissions]):
        by_name.setdefault(job.name, {})[job.job_id] = job
    for submission in submissions:
        queued = by_name.get(submission.name, {})
        records = submission.jobs
        if records is None:
            yield from (Task(submission, -1, j.job_id, j.alive, j) for j in queued.values())
        for index, record in enumerate(records or ()):
            known = queued.get(record["job_id"])
            yield Task(submission, index, record["job_id"], bool(known and known.alive), known)
