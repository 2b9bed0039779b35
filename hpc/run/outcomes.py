"""How submissions ended: written once, while the scheduler still remembers."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from hpc.faults.triage import FailureClass, classify
from hpc.run.folder import RunFolder
from hpc.run.submissions import Submission, unsettled
from hpc.run.tasks import Task, tasks_of
from hpc.slurm.jobs import Job
from storage_schemas.files import write_exclusive
from storage_schemas.identity import canonical_json
from storage_schemas.protocol.attempts import latest_attempts
from storage_schemas.protocol.commit import committed_units
from storage_schemas.protocol.store import Store

PATIENCE_S = 60.0
"""How long accounting is waited for: it alone knows why a task ended, and hears of it late."""

Unit = tuple[str, int]
"""Store below the root, unit index."""


def settle_ended(run: RunFolder) -> None:
    """Record how submissions ended of which no task is alive any more; the lock is held.

    Raises
    ------
    SlurmUnavailable
        If some are SLURM's and it does not answer.
    """
    open_submissions = unsettled(run)
    tasks = tasks_of(open_submissions)
    for submission in open_submissions:
        own = [task for task in tasks if task.submission is submission]
        if submission.jobs is None or not any(task.alive for task in own):
            settle(run, submission, own)


def settle(run: RunFolder, submission: Submission, tasks: Sequence[Task]) -> None:
    """Record how every task of a submission ended, once none is alive.

    A submission whose submitter died before it noted its jobs is cancelled by its name; whatever
    its tasks have committed counts.
    """
    if any(task.index < 0 for task in tasks):
        _cancel([task for task in tasks if task.alive])
    if submission.jobs is None:
        submission.note_jobs([])
    jobs = _jobs(submission, tasks)
    slices = submission.frozen["slices"]
    states = _UnitStates(run.root, submission)
    ended = [
        _task_record(index, record["job_id"], jobs.get(record["job_id"]), slices[index], states)
        for index, record in enumerate(submission.jobs or ())
    ]
    done = sum(unit in states.committed for unit in submission.units())
    outcome = {"units_done": done, "tasks": ended}
    write_exclusive(submission.path / "outcome.json", canonical_json(outcome))


class _UnitStates:
    """Which of a submission's units are committed, and the newest attempts at the others."""

    def __init__(self, root: Path, submission: Submission) -> None:
        self.committed: set[Unit] = set()
        self.attempts: dict[Unit, dict[str, Any]] = {}
        for reference in {store for store, _ in submission.units()}:
            store = Store.open(root / reference)
            done = committed_units(store)
            self.committed |= {(reference, index) for index in done}
            for index, attempt in latest_attempts(store, skip=done).items():
                self.attempts[reference, index] = attempt


def _jobs(submission: Submission, tasks: Iterable[Task]) -> dict[str, Job]:
    """Return what SLURM knows of the submission's jobs; nothing for processes of this machine."""
    if not submission.on_slurm:
        return {}
    from hpc.slurm.queue import jobs_of

    ids = [record["job_id"] for record in submission.jobs or ()]
    since = datetime.fromtimestamp((submission.path / "units.json").stat().st_mtime)
    return jobs_of([submission.name], ids, since, PATIENCE_S)


def _task_record(
    index: int, job_id: str, job: Job | None, items: Sequence[Sequence[Unit]], states: _UnitStates
) -> dict[str, Any]:
    units = [(store, number) for item in items for store, number in item]
    return {
        "task": index,
        "job_id": job_id,
        "units_done": sum(unit in states.committed for unit in units),
        "units": len(units),
        "failure": _failure(job_id, job, units, states),
        "state": job.state if job else None,
        **({name: getattr(job, name) for name in FACTS} if job else {}),
    }


FACTS = (
    *(
        "node",
        "restarts",
        "exit_code",
        "signal",
        "elapsed_s",
        "earlier_s",
        "limit_s",
        "cpus",
        "cpu_s",
        "gpus",
    ),
    *("max_rss", "requested_memory", "cancelled_by"),
)
"""What is kept of a job."""


def _failure(
    job_id: str, job: Job | None, units: Sequence[Unit], states: _UnitStates
) -> str | None:
    """Class the end of a task; None if it left nothing undone but units that failed."""
    left = [unit for unit in units if unit not in states.committed]
    tried = [states.attempts[unit] for unit in left if unit in states.attempts]
    own = [attempt for attempt in tried if job_of(attempt) == job_id]
    if any(_met_a_bad_node(attempt) for attempt in own):
        return FailureClass.NODE.value
    died = [attempt for attempt in own if attempt["outcome"] == "running"]
    if len(own) == len(left) and not died:
        return None
    # What died in an earlier run of the job was lost with its node or its turn.
    last = [attempt for attempt in died if not job or restart_of(attempt) >= job.restarts]
    return classify(last[0] if last else None, job).value


def _met_a_bad_node(attempt: dict[str, Any]) -> bool:
    failed = attempt["outcome"] == "failed"
    return failed and classify(attempt, None) is FailureClass.NODE


def job_of(attempt: dict[str, Any]) -> str:
    """Return the id of the job that made an attempt, without its restarts."""
    return str(attempt["job"]).partition(" ")[0]


def restart_of(attempt: dict[str, Any]) -> int:
    """Return how often its job had been put back into the queue when an attempt began."""
    return int(str(attempt["job"]).partition(" restart ")[2] or 0)


def _cancel(tasks: Iterable[Task]) -> None:
    from hpc.slurm.queue import cancel

    cancel([task.job_id for task in tasks])
