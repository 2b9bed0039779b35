"""Record how submissions ended, while the scheduler still knows, and what the next one asks for.

`hpc.faults.triage` decides and reads no files; this module turns records into its arguments.
"""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from hpc.config.profile import Profile, StageProfile
from hpc.faults.triage import Ended, FailureClass, TaskOutcome, classify, escalate
from hpc.run.folder import RunFolder
from hpc.run.submissions import (
    Submission,
    SubmissionOutcome,
    Task,
    decide,
    of_round,
    tasks_of,
    unsettled,
)
from hpc.slurm.jobs import Job
from hpc.slurm.limits import limits
from hpc.slurm.queue import cancel, jobs_of
from storage_schemas.protocol.attempts import AttemptRecord, latest_attempts
from storage_schemas.protocol.commit import committed_units
from storage_schemas.protocol.store import Store

PATIENCE_S = 60.0
"""Longest wait for accounting (s): it lags, and nothing else records why a task ended."""

Unit = tuple[str, int]
"""Store below the root, unit index."""


def settle_ended(run: RunFolder) -> None:
    """Record how the submissions without a living task ended; the lock is held.

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

    If the submitter died before it noted the jobs, they are cancelled by their name; units that
    they have committed count.
    """
    if any(task.index < 0 for task in tasks):
        cancel([task.job_id for task in tasks if task.alive])
    if submission.jobs is None:
        submission.note_jobs([])
    jobs = _jobs(submission)
    states = _UnitStates(run.root, submission)
    ended = tuple(
        _task_outcome(submission, index, task.job_id, jobs.get(task.job_id), states)
        for index, task in enumerate(submission.jobs or ())
    )
    done = sum(unit in states.committed for unit in submission.units())
    submission.note_outcome(SubmissionOutcome(units_done=done, tasks=ended))


class _UnitStates:
    """Which of a submission's units are committed, and the newest attempts at the others."""

    def __init__(self, root: Path, submission: Submission) -> None:
        self.committed: set[Unit] = set()
        self.attempts: dict[Unit, AttemptRecord] = {}
        for reference in {store for store, _ in submission.units()}:
            store = Store.open(root / reference)
            done = committed_units(store)
            self.committed |= {(reference, index) for index in done}
            for index, attempt in latest_attempts(store, skip=done).items():
                self.attempts[reference, index] = attempt


def _jobs(submission: Submission) -> dict[str, Job]:
    """Return the submission's jobs as SLURM knows them; none for processes of this machine."""
    if not submission.on_slurm:
        return {}
    ids = [task.job_id for task in submission.jobs or ()]
    since = datetime.fromtimestamp(submission.units_file.stat().st_mtime)
    return jobs_of([submission.name], ids, since, PATIENCE_S)


def _task_outcome(
    submission: Submission, index: int, job_id: str, job: Job | None, states: _UnitStates
) -> TaskOutcome:
    units = [unit for item in submission.payload.slices[index] for unit in item]
    return TaskOutcome(
        failure=_failure(job_id, job, units, states),
        job=job,
        units_done=sum(unit in states.committed for unit in units),
        units=len(units),
        index=index,
        job_id=job_id,
    )


def _failure(
    job_id: str, job: Job | None, units: Sequence[Unit], states: _UnitStates
) -> FailureClass | None:
    """Classify the end of a task; None if all units that it left undone failed by themselves."""
    left = [unit for unit in units if unit not in states.committed]
    tried = [states.attempts[unit] for unit in left if unit in states.attempts]
    own = [attempt for attempt in tried if attempt.job == job_id]
    if any(_met_a_bad_node(attempt) for attempt in own):
        return FailureClass.NODE
    died = [attempt for attempt in own if attempt.outcome == "running"]
    if len(own) == len(left) and not died:
        return None
    # Attempts before the job was requeued died with its node or its turn.
    last = [attempt for attempt in died if not job or attempt.restarts >= job.restarts]
    return classify(last[0].outcome, last[0].error, job) if last else classify(None, None, job)


def _met_a_bad_node(attempt: AttemptRecord) -> bool:
    failed = attempt.outcome == "failed"
    return failed and classify("failed", attempt.error, None) is FailureClass.NODE


def escalated(run: RunFolder, stage: str, profile: Profile) -> StageProfile | None:
    """Return what the stage's next submission asks for, given how the earlier ones ended.

    The first of a round asks for what the profile says; None where the user must decide (see
    `submissions.decide`).
    """
    history = [_ended(submission) for submission in of_round(run, stage)]
    if not history:
        return profile.stage(stage)
    found = escalate(stage, history, _max_minutes(profile, history[-1].asked))
    if found.ask:
        decide(run, stage, "; ".join(found.ask.values()))
        return None
    return found.profile


def _ended(submission: Submission) -> Ended:
    failed = tuple(task for task in submission.ended if task.failure)
    return Ended(submission.payload.asked, failed)


def _max_minutes(profile: Profile, asked: StageProfile) -> int | None:
    """Return how long the partition lets a job run (min); None without a limit."""
    if profile.scheduler != "slurm":
        return None
    longest = limits(asked.partition, asked.account, asked.qos).max_time_s
    return None if longest is None else int(longest // 60)
