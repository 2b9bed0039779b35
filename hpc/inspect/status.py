"""What there is to see of a run: its stores, its tasks in the queue, and how earlier ones ended.

The stores are always read. SLURM's queue is asked once, and its accounting never; where the queue
does not answer, what it would have said is missing and nothing else.
"""

import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from hpc.faults.triage import FailureClass, fingerprint
from hpc.run.budget import gpu_seconds
from hpc.run.folder import RunFolder
from hpc.run.state import StageState, is_complete, is_stuck, run_state
from hpc.run.submissions import Submission, given_up, submissions
from hpc.run.tasks import Task, tasks_among
from hpc.slurm.jobs import Job, State
from storage_schemas.protocol.attempts import attempts_of
from storage_schemas.protocol.store import Store

WINDOW_S = 3600.0
"""Throughput is that of the last hour, or since the tasks at work were submitted."""

WAITING = frozenset(
    {
        State.PENDING,
        State.REQUEUED,
        State.REQUEUE_FED,
        State.REQUEUE_HOLD,
        State.SPECIAL_EXIT,
        State.RESV_DEL_HOLD,
    }
)
"""States of a job that is in the queue and does not run."""


class Phase(StrEnum):
    """Where a run stands."""

    COMPLETE = "complete"
    CANCELLED = "cancelled"
    NEEDS_YOU = "needs you"
    AT_WORK = "at work"
    IDLE = "idle"
    """Something is to do, and nobody is there to do it."""
    UNKNOWN = "unknown"
    """Something is to do, and the queue does not say whether anybody will."""


ENDED = frozenset({Phase.COMPLETE, Phase.CANCELLED, Phase.NEEDS_YOU})
"""Nothing more happens in these before the user asks."""


@dataclass(frozen=True)
class Queued:
    """What a run has in the queue, by one question."""

    tasks: tuple[Task, ...]
    """Tasks of the submissions that have not been settled."""
    gate: Job | None
    problem: str | None
    """Why SLURM could not be asked."""


@dataclass(frozen=True)
class StageSight:
    """One stage: its units, its tasks and how fast it goes."""

    state: StageState
    running: int
    """Tasks at work."""
    waiting: Counter[str]
    """Tasks in the queue, by SLURM's reason."""
    units_per_hour: float | None
    """None where nothing is at work, or no unit was committed of late."""
    expected_end: float | None
    """When its units will be committed at this rate (s since 1970)."""
    gpu_hours: float | None
    """What its tasks held so far; None where none was SLURM's."""
    decision: str | None
    """Why nothing more is submitted before the user asks."""


@dataclass(frozen=True)
class FailedAlike:
    """Failed units of a stage with one cause."""

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
    """Tasks of this round that ended alike and left units undone."""

    stage: str
    failure: str
    tasks: int
    sentence: str


@dataclass(frozen=True)
class Sight:
    """A run as it is now."""

    run: RunFolder
    phase: Phase
    on_slurm: bool
    queued: Queued
    stages: Mapping[str, StageSight]
    failures: tuple[FailedAlike, ...]
    ended: tuple[EndedTasks, ...]


def look(run: RunFolder) -> Sight:
    """Read the run's stores and submissions and ask the queue once."""
    states = run_state(run)
    all_ = submissions(run)
    on_slurm = any(submission.on_slurm for submission in all_)
    queued = ask_queue(run, [s for s in all_ if s.outcome is None], on_slurm)
    stages = {
        name: _stage(run, state, [s for s in all_ if s.stage == name], queued)
        for name, state in states.items()
    }
    return Sight(
        run,
        _phase(run, states, queued),
        on_slurm,
        queued,
        stages,
        tuple(group for state in states.values() for group in failed_alike(state)),
        tuple(_ended([s for s in all_ if s.round == run.round])),
    )


def ask_queue(run: RunFolder, unsettled: Sequence[Submission], on_slurm: bool) -> Queued:
    """Look up the tasks of submissions that may be alive and the run's gate."""
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


def failed_alike(state: StageState) -> Iterator[FailedAlike]:
    """Group a stage's failed units by class and cause, the most frequent first."""
    failed = [unit for unit in state.units if unit.status == "failed"]
    causes = {error: fingerprint(error) for error in {str(unit.error) for unit in failed}}
    keys = [(str(unit.failure), causes[str(unit.error)]) for unit in failed]
    examples = dict(zip(reversed(keys), reversed(failed), strict=True))
    for key, n in Counter(keys).most_common():
        example = examples[key]
        yield FailedAlike(state.stage, *key, n, str(example.error), example.unit_id)


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
) -> StageSight:
    alive = [t for t in queued.tasks if t.alive and t.submission.stage == state.stage]
    waiting = [task.job for task in alive if task.job and task.job.state in WAITING]
    at_work = bool(alive or state.count("running")) and not run.cancelled
    rate = _units_per_hour(run, state, own) if at_work else None
    left = state.count("pending") + state.count("running")
    return StageSight(
        state,
        len(alive) - len(waiting),
        Counter(job.reason or "no reason given" for job in waiting),
        rate,
        time.time() + left / rate * 3600 if rate and left else None,
        _gpu_hours(own, alive),
        None if state.complete else given_up(run, state.stage),
    )


def _units_per_hour(run: RunFolder, state: StageState, own: Sequence[Submission]) -> float | None:
    """Return how many units were committed per hour of late."""
    now = time.time()
    begun = [(s.path / "units.json").stat().st_mtime for s in own if s.outcome is None]
    since = max(now - WINDOW_S, min(begun, default=0.0))
    stores = run.stores(state.stage)
    commits = [(t, n, i) for n, s in enumerate(stores) for t, i in commits_since(s, since)]
    if not commits:
        return None
    committed, n, index = min(commits)
    # The clock starts when the first of them was begun: not while tasks were in the queue.
    took = attempts_of(stores[n], index)[-1]["used"].get("seconds", 0.0)
    return len(commits) / max(now - committed + took, 1.0) * 3600


def commits_since(store: Store, since: float) -> Iterator[tuple[float, int]]:
    """Yield (time in s since 1970, unit index) of the units committed since then.

    A folder of records that has not changed since is not looked into: of a large store in its last
    hour only few records are.
    """
    with os.scandir(store.path / "commits") as folders:
        changed = [folder.path for folder in folders if folder.stat().st_mtime >= since]
    for folder in changed:
        with os.scandir(folder) as records:
            times = [(r.stat().st_mtime, r.name) for r in records if r.name.endswith(".json")]
        yield from ((t, int(name.removesuffix(".json"))) for t, name in times if t >= since)


def _gpu_hours(own: Sequence[Submission], alive: Sequence[Task]) -> float | None:
    """Return what ended and living tasks held; requeued ones count since they started again."""
    if not any(submission.on_slurm for submission in own):
        return None
    seconds = sum(map(gpu_seconds, own))
    seconds += sum(task.job.gpus * task.job.elapsed_s for task in alive if task.job)
    return seconds / 3600


HOW_TASKS_END = {
    FailureClass.HOST_MEMORY: "killed for memory",
    FailureClass.GPU_MEMORY: "ended by a full GPU",
    FailureClass.TIMEOUT: "ended by their time limit",
    FailureClass.NODE: "lost with their node",
    FailureClass.PREEMPTED: "preempted",
    FailureClass.CANCELLED: "cancelled",
    FailureClass.DISK: "ended by a full disk",
    FailureClass.ERROR: "ended by an error",
    FailureClass.DRIFT: "ended because the code had changed",
    FailureClass.INPUT: "ended because an input was not sealed",
    FailureClass.LOST: "ended without a word",
}

ANSWERS = {
    FailureClass.HOST_MEMORY: ("memory_gb", "{} GB"),
    FailureClass.TIMEOUT: ("timeout_minutes", "{} minutes"),
    FailureClass.NODE: ("exclude", "other nodes than {}"),
}
"""What the next submission asks for instead: key of the stage's profile, how it reads."""


def _ended(own: Sequence[Submission]) -> Iterator[EndedTasks]:
    """Say how tasks of the round ended that left units undone, and what was made of it."""
    groups: dict[tuple[str, str], list[Submission]] = {}
    for submission in own:
        for task in (submission.outcome or {"tasks": ()})["tasks"]:
            if task["failure"] is not None:
                groups.setdefault((submission.stage, task["failure"]), []).append(submission)
    for (stage, failure), hit in groups.items():
        latest = [submission for submission in own if submission.stage == stage][-1]
        answer = _answer(FailureClass(failure), hit[0].frozen["asked"], latest.frozen["asked"])
        sentence = f"{_tasks(len(hit))} {HOW_TASKS_END[FailureClass(failure)]}{answer}"
        yield EndedTasks(stage, failure, len(hit), sentence)


def _tasks(n: int) -> str:
    return "1 task was" if n == 1 else f"{n} tasks were"


def _answer(failure: FailureClass, asked: dict[str, Any], now: dict[str, Any]) -> str:
    key, form = ANSWERS.get(failure, (None, ""))
    if key is None or asked[key] == now[key]:
        return ""
    return f", now asked for {form.format(now[key])}"
