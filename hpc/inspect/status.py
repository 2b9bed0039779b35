"""The status of a run: its units, its tasks in the queue, and how earlier tasks ended.

Nothing is written. The stores are always read; SLURM's queue is asked once and its accounting
never. Where the queue does not answer, the status lacks the tasks and nothing else.
"""

import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from hpc.config.profile import StageProfile
from hpc.faults.triage import ANSWERS, FailureClass, fingerprint
from hpc.run.budget import gpu_seconds
from hpc.run.folder import RunFolder
from hpc.run.state import StageState, Status, is_complete, is_stuck, run_state
from hpc.run.submissions import Submission, Task, given_up, submissions, tasks_among
from hpc.slurm.jobs import Job, State
from jobs.report.cautions import cautions
from storage_schemas.protocol.attempts import attempts_of
from storage_schemas.protocol.store import Store

_WINDOW_S = 3600.0
"""The throughput is that of the last hour, or since the running tasks were submitted (s)."""

_WAITING = frozenset(
    {
        State.PENDING,
        State.REQUEUED,
        State.REQUEUE_FED,
        State.REQUEUE_HOLD,
        State.SPECIAL_EXIT,
        State.RESV_DEL_HOLD,
    }
)
"""States of a job that is queued and does not run."""


class Phase(StrEnum):
    """Where a run stands."""

    COMPLETE = "complete"
    CANCELLED = "cancelled"
    NEEDS_YOU = "needs you"
    AT_WORK = "at work"
    IDLE = "idle"
    """Units are missing, and no task works on them."""
    UNKNOWN = "unknown"
    """Units are missing, and SLURM does not say whether tasks work on them."""


ENDED = frozenset({Phase.COMPLETE, Phase.CANCELLED, Phase.NEEDS_YOU})
"""Phases that only the user ends."""


COUNTS: tuple[Status, ...] = ("committed", "running", "failed", "pending")
"""States of units, in the order of the columns."""


@dataclass(frozen=True)
class Queued:
    """Tasks and gate of a run, by one question to the queue."""

    tasks: tuple[Task, ...]
    """Tasks of the submissions that have not been settled."""
    gate: Job | None
    problem: str | None
    """Why SLURM could not be asked."""


@dataclass(frozen=True)
class StageStatus:
    """Units, tasks and throughput of one stage."""

    state: StageState
    running: int
    """Running tasks."""
    waiting: Counter[str]
    """Queued tasks by SLURM's reason."""
    units_per_hour: float | None
    """None without running tasks, or where no unit was committed lately."""
    expected_end: float | None
    """When all units will be committed at this rate (s since 1970)."""
    gpu_hours: float | None
    """GPU hours that its tasks held so far; None if none of them was SLURM's."""
    decision: str | None
    """Why nothing more is submitted before the user resumes the run."""


@dataclass(frozen=True)
class FailureGroup:
    """Failed units of a stage with the same cause."""

    stage: str
    failure: str
    fingerprint: str
    units: int
    error: str
    """First line of the error of one of them."""
    example: str
    """Id of that unit."""


@dataclass(frozen=True)
class EndedTasks:
    """Tasks since the last `resume` that ended in the same way before their units were done."""

    stage: str
    failure: str
    tasks: int
    sentence: str


@dataclass(frozen=True)
class RunStatus:
    """The status of a run at one moment."""

    run: RunFolder
    phase: Phase
    on_slurm: bool
    queued: Queued
    stages: Mapping[str, StageStatus]
    failures: tuple[FailureGroup, ...]
    ended: tuple[EndedTasks, ...]
    warnings: tuple[str, ...]
    """What the results say against the study's settings, with the remedies."""


def run_status(run: RunFolder) -> RunStatus:
    """Return the status of a run: reads its stores and submissions, asks the queue once."""
    states = run_state(run)
    all_ = submissions(run)
    on_slurm = any(submission.on_slurm for submission in all_)
    queued = _ask_queue(run, [s for s in all_ if s.outcome is None], on_slurm)
    stages = {
        name: _stage(run, state, [s for s in all_ if s.stage == name], queued)
        for name, state in states.items()
    }
    return RunStatus(
        run,
        _phase(run, states, queued),
        on_slurm,
        queued,
        stages,
        tuple(group for state in states.values() for group in failed_alike(state)),
        tuple(_ended([s for s in all_ if s.round == run.round])),
        tuple(cautions([*run.stores("prepare"), *run.stores("encode")])),
    )


def _ask_queue(run: RunFolder, unsettled: Sequence[Submission], on_slurm: bool) -> Queued:
    if not on_slurm:
        return Queued(tuple(tasks_among(unsettled, ())), None, None)
    from hpc.run.gate import gate_among, gate_name
    from hpc.slurm.client import SlurmUnavailable
    from hpc.slurm.queue import queue

    try:
        jobs = queue([*(s.name for s in unsettled if s.on_slurm), gate_name(run)])
    except SlurmUnavailable as error:
        local = [submission for submission in unsettled if not submission.on_slurm]
        return Queued(tuple(tasks_among(local, ())), None, str(error))
    return Queued(tuple(tasks_among(unsettled, jobs)), gate_among(run, jobs), None)


def failed_alike(state: StageState) -> Iterator[FailureGroup]:
    """Yield a stage's failed units in groups of one class and cause, the largest first."""
    failed = [unit for unit in state.units if unit.status == "failed"]
    causes = {error: fingerprint(error) for error in {str(unit.error) for unit in failed}}
    keys = [(str(unit.failure), causes[str(unit.error)]) for unit in failed]
    examples = dict(zip(reversed(keys), reversed(failed), strict=True))
    for key, n in Counter(keys).most_common():
        example = examples[key]
        yield FailureGroup(state.stage, *key, n, str(example.error), example.unit_id)


def _phase(run: RunFolder, states: Mapping[str, StageState], queued: Queued) -> Phase:
    if is_complete(states):
        return Phase.COMPLETE
    if run.cancelled:
        return Phase.CANCELLED
    if is_stuck(run, states):
        return Phase.NEEDS_YOU
    alive = queued.gate is not None or any(task.alive for task in queued.tasks)
    if alive or any(state.count("running") for state in states.values()):
        return Phase.AT_WORK
    return Phase.UNKNOWN if queued.problem else Phase.IDLE


def _stage(
    run: RunFolder, state: StageState, own: Sequence[Submission], queued: Queued
) -> StageStatus:
    alive = [t for t in queued.tasks if t.alive and t.submission.stage == state.stage]
    waiting = [task.job for task in alive if task.job and task.job.state in _WAITING]
    at_work = bool(alive or state.count("running")) and not run.cancelled
    rate = _units_per_hour(run, state, own) if at_work else None
    left = state.count("pending") + state.count("running")
    return StageStatus(
        state,
        len(alive) - len(waiting),
        Counter(job.reason or "no reason given" for job in waiting),
        rate,
        time.time() + left / rate * 3600 if rate and left else None,
        _gpu_hours(own, alive),
        None if state.complete else given_up(run, state.stage),
    )


def _units_per_hour(run: RunFolder, state: StageState, own: Sequence[Submission]) -> float | None:
    """Return the throughput of the last hour, or None if no unit was committed."""
    now = time.time()
    begun = [s.units_file.stat().st_mtime for s in own if s.outcome is None]
    since = max(now - _WINDOW_S, min(begun, default=0.0))
    stores = run.stores(state.stage)
    commits = [(t, n, i) for n, s in enumerate(stores) for t, i in commits_since(s, since)]
    if not commits:
        return None
    committed, n, index = min(commits)
    # Counted from the start of the first of these units: time in the queue is not work.
    took = attempts_of(stores[n], index)[-1].used.seconds or 0.0
    return len(commits) / max(now - committed + took, 1.0) * 3600


def commits_since(store: Store, since: float) -> Iterator[tuple[float, int]]:
    """Yield (time in s since 1970, unit index) of the units committed after a moment.

    Folders of records that have not changed since are skipped: of a large store only few have
    changed in the last hour.
    """
    with os.scandir(store.path / "commits") as folders:
        changed = [folder.path for folder in folders if folder.stat().st_mtime >= since]
    for folder in changed:
        with os.scandir(folder) as records:
            times = [(r.stat().st_mtime, r.name) for r in records if r.name.endswith(".json")]
        yield from ((t, int(name.removesuffix(".json"))) for t, name in times if t >= since)


def _gpu_hours(own: Sequence[Submission], alive: Sequence[Task]) -> float | None:
    """Return the GPU hours of ended and running tasks; a requeued task counts from its restart."""
    if not any(submission.on_slurm for submission in own):
        return None
    seconds = sum(map(gpu_seconds, own))
    seconds += sum(task.job.gpus * task.job.elapsed_s for task in alive if task.job)
    return seconds / 3600


def _ended(own: Sequence[Submission]) -> Iterator[EndedTasks]:
    """Group the tasks that left units undone by how they ended, with what is asked for now."""
    groups: dict[tuple[str, FailureClass], list[Submission]] = {}
    for submission in own:
        for task in submission.ended:
            if task.failure is not None:
                groups.setdefault((submission.stage, task.failure), []).append(submission)
    for (stage, failure), hit in groups.items():
        latest = [submission for submission in own if submission.stage == stage][-1]
        change = _change(failure, hit[0].payload.asked, latest.payload.asked)
        sentence = f"{_tasks(len(hit))} {ANSWERS[failure].ended}{change}"
        yield EndedTasks(stage, failure, len(hit), sentence)


def _tasks(n: int) -> str:
    return "1 task was" if n == 1 else f"{n} tasks were"


def _change(failure: FailureClass, asked: StageProfile, latest: StageProfile) -> str:
    """Return what the latest submission asks for instead, or nothing if it asks for the same."""
    answer = ANSWERS[failure]
    if answer.key is None:
        return ""
    before, now = getattr(asked, answer.key), getattr(latest, answer.key)
    return "" if now == before else f", now asked for {answer.now.format(now)}"


def as_object(status: RunStatus) -> dict[str, object]:
    """Return what `gradenc status --json` prints; docs/seeing.md explains the keys."""
    gate = status.queued.gate
    return {
        "run": str(status.run.path),
        "name": status.run.name,
        "state": status.phase,
        "queue": {
            "scheduler": "slurm" if status.on_slurm else "local",
            "problem": status.queued.problem,
            "gate": gate and {"job_id": gate.job_id, "state": gate.state, "reason": gate.reason},
        },
        "stages": {name: _stage_object(stage) for name, stage in status.stages.items()},
        "failures": [
            {
                "stage": group.stage,
                "class": group.failure,
                "fingerprint": group.fingerprint,
                "units": group.units,
                "error": group.error,
                "example": group.example,
            }
            for group in status.failures
        ],
        "ended": [
            {"stage": e.stage, "class": e.failure, "tasks": e.tasks, "sentence": e.sentence}
            for e in status.ended
        ],
        "warnings": list(status.warnings),
    }


def _stage_object(stage: StageStatus) -> dict[str, object]:
    state, end = stage.state, stage.expected_end
    return {
        "planned": state.planned,
        "sealed": state.sealed,
        "units": len(state.units),
        **{name: state.count(name) for name in COUNTS},
        "failures": dict(state.failures),
        "tasks": {"running": stage.running, "waiting": dict(stage.waiting)},
        "units_per_hour": stage.units_per_hour,
        "expected_end": end and datetime.fromtimestamp(end).astimezone().isoformat(),
        "gpu_hours": stage.gpu_hours,
        "decision": stage.decision,
    }
