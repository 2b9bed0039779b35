"""The submissions of a run: their units, their tasks, and the units that other runs submitted.

A submission is a folder. Every file in it is written once, and read and written here, in
`hpc.node.payload` and in `hpc.faults.breaker` only. If a process dies between two of them, the
next step of the run goes on from the files that are there.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from hpc.faults.breaker import Breaker
from hpc.faults.triage import RAISED, UNCHARGED, TaskOutcome
from hpc.node.payload import FILE, Payload
from hpc.run.folder import RunFolder
from hpc.slurm.client import SlurmUnavailable
from hpc.slurm.jobs import Job
from hpc.slurm.queue import queue
from storage_schemas.files import read_json, replace, write_exclusive
from storage_schemas.identity import canonical_json
from storage_schemas.protocol.attempts import process_is_alive
from storage_schemas.runs.root import runs_of

FRUITLESS_IN_A_ROW = 5
"""Submissions of a stage that end without a new commit before the user is asked."""


@dataclass(frozen=True)
class TaskJob:
    """The job of one task: SLURM's, or a process of this machine."""

    job_id: str
    start_time: int | None = None
    """When a process began (`attempts.start_time`), since its number may be given to another."""


_JOBS = TypeAdapter(tuple[TaskJob, ...])


class SubmissionOutcome(BaseModel):
    """How all tasks of a submission ended."""

    model_config = ConfigDict(frozen=True)

    units_done: int
    """Units that were committed when the last task had ended, by whomever."""
    tasks: tuple[TaskOutcome, ...]


@dataclass(frozen=True)
class Submission:
    """One submission's folder.

    ::

        units.json     written first: what each task is given, and how it was asked for
        jobs.json      written when the scheduler has taken it: the job of every task
        halt.json      written by a task: why no task of it should go on
        outcome.json   written when none of its tasks is left: how each ended
    """

    path: Path

    @property
    def units_file(self) -> Path:
        """The file that every task reads."""
        return self.path / FILE

    @cached_property
    def payload(self) -> Payload:
        """What was written before anything was started."""
        return Payload.read(self.units_file)

    @property
    def name(self) -> str:
        """The name of its jobs, by which the scheduler finds them."""
        return self.payload.name

    @property
    def stage(self) -> str:
        """The stage whose units it runs."""
        return self.payload.stage

    @property
    def round(self) -> int:
        """The round (see `RunFolder.round`) it belongs to."""
        return self.payload.round

    @property
    def on_slurm(self) -> bool:
        """Whether its tasks are SLURM's; else they are processes of the machine that started it."""
        return self.payload.scheduler == "slurm"

    @property
    def jobs(self) -> tuple[TaskJob, ...] | None:
        """The job of every task; None if the submitter died before noting them."""
        try:
            return _JOBS.validate_json((self.path / "jobs.json").read_bytes())
        except (FileNotFoundError, ValidationError):
            return None

    @property
    def halt(self) -> str | None:
        """Why its tasks begin no further unit, if one of them stopped it."""
        return Breaker(self.path).sentence

    @property
    def outcome(self) -> SubmissionOutcome | None:
        """How its tasks ended; None while one may be alive, or where the record is damaged."""
        try:
            file = self.path / "outcome.json"
            return SubmissionOutcome.model_validate_json(file.read_bytes())
        except (FileNotFoundError, ValidationError):
            return None

    @property
    def ended(self) -> tuple[TaskOutcome, ...]:
        """How its tasks ended; none while one may be alive."""
        outcome = self.outcome
        return outcome.tasks if outcome else ()

    def note_jobs(self, jobs: Sequence[TaskJob]) -> None:
        """Record the job of every task."""
        write_exclusive(self.path / "jobs.json", _JOBS.dump_json(tuple(jobs)))

    def note_outcome(self, outcome: SubmissionOutcome) -> None:
        """Record how its tasks ended; the first record stays, unless it is damaged."""
        file, data = self.path / "outcome.json", canonical_json(outcome.model_dump(mode="json"))
        if not write_exclusive(file, data) and self.outcome is None:
            replace(file, data)

    def units(self) -> Iterator[tuple[str, int]]:
        """Yield (store, unit index) of everything it was given."""
        for items in self.payload.slices:
            for item in items:
                yield from item


def submissions(run: RunFolder) -> list[Submission]:
    """Return the run's submissions, oldest first."""
    folders = sorted((run.path / "submissions").glob("[0-9]*"))
    found = map(Submission, folders)
    return [submission for submission in found if submission.units_file.exists()]


def unsettled(run: RunFolder) -> list[Submission]:
    """Return the submissions of which a task may still be alive."""
    return [submission for submission in submissions(run) if submission.outcome is None]


def of_round(run: RunFolder, stage: str) -> list[Submission]:
    """Return the stage's submissions since the user last asked, oldest first."""
    return [s for s in submissions(run) if (s.stage, s.round) == (stage, run.round)]


def given_up(run: RunFolder, stage: str) -> str | None:
    """Return why nothing more of a stage is submitted before the user resumes the run, or None.

    Either the user must decide something; or a task stopped the last submission; or several
    submissions in a row brought no commit. (If tasks end before they begin a unit, no attempt says
    why, and only this stops the run.)
    """
    if decision := read_json(_decision(run, stage)):
        return str(decision["sentence"])
    own = of_round(run, stage)
    if own and (halt := own[-1].halt):
        return halt
    if _fruitless(own) < FRUITLESS_IN_A_ROW:
        return None
    return (
        f"the tasks of {FRUITLESS_IN_A_ROW} submissions ended without finishing a unit; "
        f"the last one's output: {own[-1].path / 'log'}"
    )


def decide(run: RunFolder, stage: str, sentence: str) -> None:
    """Record what the user must decide: nothing more of the stage is submitted in this round."""
    write_exclusive(_decision(run, stage), canonical_json({"sentence": sentence}))


def _decision(run: RunFolder, stage: str) -> Path:
    return run.path / "decisions" / f"{run.round:04d}-{stage}.json"


def _fruitless(own: list[Submission]) -> int:
    """Count the last submissions that ended without a commit.

    Submissions that only lost nodes or were preempted do not count, nor do those after which the
    next one asks for more memory or time.
    """
    n = 0
    for submission in reversed(own):
        outcome = submission.outcome
        if outcome is None or outcome.units_done:
            break
        n += any(task.failure not in (*UNCHARGED, *RAISED) for task in outcome.tasks)
    return n


@dataclass(frozen=True)
class Task:
    """One task of a submission that has not been settled."""

    submission: Submission
    index: int
    """Its slice of the submission; -1 for a job whose submitter died before noting it."""
    job_id: str
    alive: bool
    job: Job | None = None
    """Its job in SLURM's queue, if it is SLURM's and still there."""


def tasks_of(submissions: Sequence[Submission]) -> list[Task]:
    """Return all tasks of the submissions: processes are looked up, SLURM is asked once.

    Raises
    ------
    SlurmUnavailable
        If some are SLURM's and its queue cannot be asked.
    """
    names = [submission.name for submission in submissions if submission.on_slurm]
    return tasks_among(submissions, queue(names) if names else ())


def tasks_among(submissions: Sequence[Submission], queued: Iterable[Job]) -> list[Task]:
    """Return all tasks of the submissions, given the jobs in SLURM's queue."""
    by_name: dict[str, dict[str, Job]] = {}
    for job in queued:
        by_name.setdefault(job.name, {})[job.job_id] = job
    return [
        task
        for s in submissions
        for task in (_slurm_tasks(s, by_name.get(s.name, {})) if s.on_slurm else _local_tasks(s))
    ]


def _local_tasks(submission: Submission) -> Iterator[Task]:
    for index, process in enumerate(submission.jobs or ()):
        alive = process_is_alive(int(process.job_id), process.start_time)
        yield Task(submission, index, process.job_id, alive)


def _slurm_tasks(submission: Submission, queued: Mapping[str, Job]) -> Iterator[Task]:
    noted = submission.jobs
    if noted is None:
        yield from (Task(submission, -1, j.job_id, j.alive, j) for j in queued.values())
    for index, task in enumerate(noted or ()):
        known = queued.get(task.job_id)
        yield Task(submission, index, task.job_id, bool(known and known.alive), known)


def claimed_by_others(run: RunFolder, on_slurm: bool) -> frozenset[tuple[str, int]]:
    """Return the units (store below the root, index) given to living tasks of other runs.

    Runs of one store root so submit a shared unit once. The caller holds the root's lock: whoever
    else submits meanwhile waits for it.

    Parameters
    ----------
    run : RunFolder
    on_slurm : bool
        Whether the run itself is SLURM's. One that is not may be on a machine that cannot ask for
        the jobs of others; leases keep their units from being made twice.

    Raises
    ------
    SlurmUnavailable
        If the run is SLURM's, others are, and its queue cannot be asked.
    """
    others = [
        RunFolder(path)
        for path in runs_of(run.root)
        # A colleague's private run cannot be asked; leases keep its units from being made twice.
        if path != run.path.resolve() and os.access(path / "run.json", os.R_OK)
    ]
    waiting = [submission for other in others for submission in unsettled(other)]
    try:
        tasks = tasks_of(waiting)
    except SlurmUnavailable:
        if on_slurm:
            raise
        tasks = tasks_of([submission for submission in waiting if not submission.on_slurm])
    alive = {task.submission.path for task in tasks if task.alive}
    return frozenset(unit for s in waiting if s.path in alive for unit in s.units())
