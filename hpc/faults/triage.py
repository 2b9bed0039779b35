"""Classes of failures: why a unit was not committed, and what the next submission changes.

Pure: no files, no commands. `ANSWERS` holds the words for the user.

======================  ==========================================================================
class                   the next submission of the stage
======================  ==========================================================================
host memory             memory x 1.5, up to the profile's max_memory_gb
GPU memory              none of these units until the user asks; tasks halve the micro-batch first
timeout                 the units that remain; time x 1.5 only if a task finished none
node                    not on that node
preempted               the same
lost                    the same, three times
cancelled, disk,        none of these units until the user asks (`gradenc resume`)
error, drift, input
======================  ==========================================================================

The attempt's record decides first, then accounting, then the queue; if none of them says why, the
unit is lost. Nothing here ever takes a unit for done: only a commit record says that.
"""

import hashlib
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import takewhile
from signal import SIGKILL, SIGTERM, SIGUSR2

from hpc.config.profile import GB, StageProfile
from hpc.slurm.jobs import Job, State
from jobs.runner import GPU_IS_FULL


class FailureClass(StrEnum):
    """Why a unit was not committed."""

    HOST_MEMORY = "host memory"
    GPU_MEMORY = "GPU memory"
    TIMEOUT = "timeout"
    NODE = "node"
    PREEMPTED = "preempted"
    CANCELLED = "cancelled"
    DISK = "disk"
    ERROR = "error"
    DRIFT = "drift"
    INPUT = "input"
    LOST = "lost"


EXIT_CODES = {FailureClass.DRIFT: os.EX_CONFIG, FailureClass.INPUT: os.EX_NOINPUT}
"""Exit codes of a task that begins no unit: its code differs from what was submitted; an earlier
stage is not sealed."""

MEMORY_SHARE = 0.9
"""A killed job that used this share of its memory was killed for it (without cgroups, SLURM samples
memory and says FAILED instead of OUT_OF_MEMORY)."""
RAISE = 1.5
"""Factor by which memory or time is raised."""
WARNED_S = 180.0
"""SLURM warns at most this long before the end (s): 90 for submitit, 60 of its own, a margin."""
LOG_FAILED = 53
OUT_OF_MEMORY = 125
"""Signals that SLURM makes up: the node could not open the log; the cgroup killed the job."""
BREAKER = 5
"""This many units that fail alike before any is committed stop their submission."""

_ERRORS: dict[FailureClass, str | re.Pattern[str]] = {
    FailureClass.INPUT: r"^Unsealed:",
    FailureClass.GPU_MEMORY: GPU_IS_FULL,
    FailureClass.HOST_MEMORY: r"^\w*MemoryError|\[Errno 12\]|[Cc]an(no|')t allocate memory",
    FailureClass.DISK: r"\[Errno (28|122)\]|No space left on device|[Qq]uota exceeded",
    FailureClass.NODE: r"\[Errno (5|116)\]|Stale file handle|Input/output error|uncorrectable ECC"
    r"|\bXid\b|fallen off the bus|device\(s\) is/are busy|no CUDA-capable device",
}
"""Tried in this order; an exception that fits none is an error of the code or of its input."""
_CHILD_DIED = r"KilledWorker|BrokenProcessPool|worker .* killed by signal"
"""Exceptions that only say that a process of the task was killed; SLURM may know why."""

_STATES = {
    State.OUT_OF_MEMORY: FailureClass.HOST_MEMORY,
    State.TIMEOUT: FailureClass.TIMEOUT,
    State.DEADLINE: FailureClass.TIMEOUT,
    State.NODE_FAIL: FailureClass.NODE,
    State.BOOT_FAIL: FailureClass.NODE,
    State.PREEMPTED: FailureClass.PREEMPTED,
    State.CANCELLED: FailureClass.CANCELLED,
}

# Parts of a traceback that differ between units: addresses, digests, folders, numbers.
_OWN = re.compile(r"0x[0-9a-fA-F]+|\b[0-9a-f]{8,}\b|(?:[\w.~+@=-]*/)+|\d+(?:\.\d+)?(?:e[+-]?\d+)?")


def classify(outcome: str | None, error: str | None, job: Job | None) -> FailureClass:
    """Return why a unit that no process works at any more was not committed.

    Parameters
    ----------
    outcome : str or None
        Outcome of the job's attempt at the unit (`AttemptRecord.outcome`); None if the job did not
        begin it.
    error : str or None
        The error of that attempt.
    job : Job or None
        The last job that had the unit; None if SLURM remembers none.
    """
    if outcome == "failed" and not re.search(_CHILD_DIED, error or ""):
        return _of_error(error or "")
    if outcome == "stopped":
        return _of_stop(job)
    if job is None or job.alive:
        return FailureClass.LOST
    return _STATES.get(job.state) or _of_exit(job, begun=outcome is not None)


def fingerprint(failure: str) -> str:
    """Return a digest of a traceback or an error that is the same for the same failure elsewhere.

    Numbers, addresses, digests (so ids of units) and folders do not count.
    """
    return hashlib.sha256(_OWN.sub("#", failure).encode()).hexdigest()[:12]


def _of_error(error: str) -> FailureClass:
    fitting = (failure for failure, pattern in _ERRORS.items() if re.search(pattern, error))
    return next(fitting, FailureClass.ERROR)


def _of_stop(job: Job | None) -> FailureClass:
    """Return why the scheduler told a task to stop."""
    if job is None:
        return FailureClass.PREEMPTED
    late = job.limit_s is not None and job.elapsed_s >= job.limit_s - WARNED_S
    return _STATES.get(job.state) or (FailureClass.TIMEOUT if late else FailureClass.PREEMPTED)


def _of_exit(job: Job, begun: bool) -> FailureClass:
    """Classify by the exit code and the signal, which say more than COMPLETED or FAILED."""
    if job.signal == OUT_OF_MEMORY or (_ended_by(job, SIGKILL) and _memory_was_full(job)):
        return FailureClass.HOST_MEMORY
    if job.signal == LOG_FAILED:
        return FailureClass.NODE
    if _ended_by(job, SIGTERM) or _ended_by(job, SIGUSR2):
        return _of_stop(job)
    if begun or job.signal:
        return FailureClass.LOST
    if job.state == State.COMPLETED:  # a task that nobody stops begins all of its units
        return _of_stop(job)
    own = (failure for failure, code in EXIT_CODES.items() if code == job.exit_code)
    # An srun that found no controller ends like a broken installation: both are tried again.
    return next(own, FailureClass.LOST)


def _ended_by(job: Job, signal: int) -> bool:
    """Return whether this signal ended the job; sacct writes a shell's exit code 137 as 9."""
    return signal in (job.signal, job.exit_code)


def _memory_was_full(job: Job) -> bool:
    if job.max_rss is None or job.requested_memory is None:
        return False
    return job.max_rss >= MEMORY_SHARE * job.requested_memory


@dataclass(frozen=True)
class Answer:
    """The treatment of one class of failures, and its words for the user."""

    ended: str
    """How tasks of this class ended: "3 tasks were" + this."""
    times: int | None
    """How many submissions in a row may end so before the user is asked; None: any number."""
    ask: str
    """The sentence that then asks the user."""
    key: str | None = None
    """Key of the stage's profile that the next submission may ask differently for."""
    now: str = ""
    """How the new value of that key reads."""


ANSWERS = {
    FailureClass.HOST_MEMORY: Answer(
        "killed for memory",
        None,
        "was killed for memory at {memory}, and max_memory_gb in [{stage}] of the profile "
        "({max_memory}) allows no more: raise it",
        "memory_gb",
        "{} GB",
    ),
    FailureClass.GPU_MEMORY: Answer(
        "ended by a full GPU",
        0,
        "does not fit into the memory of its GPU with the smallest micro-batch: ask for a larger "
        "GPU by `constraint` in [{stage}] of the profile",
    ),
    FailureClass.TIMEOUT: Answer(
        "ended by their time limit",
        4,
        "finished no unit within {minutes} minutes: raise timeout_minutes in [{stage}] of the "
        "profile, if need be in a partition that allows more",
        "timeout_minutes",
        "{} minutes",
    ),
    FailureClass.NODE: Answer(
        "lost with their node",
        5,
        "lost tasks on one node after the other ({nodes} now): ask the staff of the cluster "
        "whether its nodes and its file system are sound",
        "exclude",
        "other nodes than {}",
    ),
    FailureClass.PREEMPTED: Answer("preempted", None, ""),
    FailureClass.LOST: Answer(
        "ended without recording why",
        # As often as one unit is tried that kills its task: then it is left out, the others go on.
        3,
        "lost tasks that have not recorded why: look at their logs",
    ),
    FailureClass.CANCELLED: Answer(
        "cancelled", 0, "has tasks that were cancelled (by {who}): decide whether they may run"
    ),
    FailureClass.DISK: Answer(
        "ended by a full disk",
        0,
        "met a full disk or a used-up quota: make room",
    ),
    FailureClass.ERROR: Answer(
        "ended by an error",
        0,
        "failed with an error: mend its cause",
    ),
    FailureClass.DRIFT: Answer(
        "ended because the code had changed",
        0,
        "was started by other code than submitted it: install the one you want",
    ),
    FailureClass.INPUT: Answer(
        "ended because an input was not sealed",
        0,
        "found an earlier stage unsealed: verify the run",
    ),
}

UNCHARGED = (FailureClass.PREEMPTED, FailureClass.NODE)
"""Failures that do not count against the retry limit of a unit: its task was preempted, or lost
its node."""
RAISED = (FailureClass.HOST_MEMORY, FailureClass.TIMEOUT)
"""Failures after which the next submission asks for more memory or time, until the profile or the
partition allows no more. Until then they do not count against a unit either."""
GETS_ON = (FailureClass.TIMEOUT, FailureClass.LOST)
"""Failures that do not use up the retry budget of a stage where the task committed something."""


@dataclass(frozen=True)
class TaskOutcome:
    """How one task of a submission ended."""

    failure: FailureClass | None
    """None if every unit that it did not commit failed with an error of its own."""
    job: Job | None
    """The job as SLURM remembered it at the end; None for a process of this machine."""
    units_done: int = 0
    """Units that it had committed."""
    units: int = 0
    """Units that it was given."""
    index: int = 0
    """Its slice of the submission."""
    job_id: str = ""


@dataclass(frozen=True)
class Ended:
    """A submission that has ended: what it asked for and what went wrong."""

    asked: StageProfile
    outcomes: tuple[TaskOutcome, ...]


@dataclass(frozen=True)
class Escalation:
    """What the next submission of a stage asks for, and what only the user can decide."""

    profile: StageProfile
    ask: dict[FailureClass, str]
    """A sentence for each class whose units wait for the user; all others are submitted."""


def escalate(stage: str, history: Sequence[Ended], max_minutes: int | None = None) -> Escalation:
    """Return what a stage submits next, after its last submission left units uncommitted.

    Parameters
    ----------
    stage : str
    history : sequence of Ended
        The stage's submissions of this round, oldest first, at least one.
    max_minutes : int, optional
        How long the partition lets a job run (min).
    """
    last = history[-1]
    profile = last.asked
    ask: dict[FailureClass, str] = {}
    for failure in FailureClass:
        outcomes = [outcome for outcome in last.outcomes if outcome.failure == failure]
        if not outcomes:
            continue
        spent = _spent(failure, history)
        changed = None if spent else _change(failure, profile, outcomes, max_minutes)
        if changed is None:
            ask[failure] = _sentence(failure, stage, last.asked, outcomes)
        else:
            profile = changed
    return Escalation(profile, ask)


def _spent(failure: FailureClass, history: Sequence[Ended]) -> bool:
    """Return whether a class of failures used up its retry budget.

    Only submissions in a row count: a stage of many submissions loses a task now and then.
    """
    times = ANSWERS[failure].times
    ended_so = (
        any(outcome.failure == failure and _counts(outcome) for outcome in ended.outcomes)
        for ended in reversed(history)
    )
    return times is not None and sum(takewhile(bool, ended_so)) > times


def _counts(outcome: TaskOutcome) -> bool:
    """Return whether a task uses up the budget of its class: not if it committed some units."""
    return not (outcome.failure in GETS_ON and outcome.units_done)


def _change(
    failure: FailureClass,
    profile: StageProfile,
    outcomes: Sequence[TaskOutcome],
    max_minutes: int | None,
) -> StageProfile | None:
    """Return what to ask for after these failures, or None if the profile allows no more."""
    match failure:
        case FailureClass.HOST_MEMORY:
            return _with_more_memory(profile, outcomes)
        case FailureClass.TIMEOUT if any(map(_counts, outcomes)):
            return _with_more_time(profile, max_minutes)
        case FailureClass.NODE:
            return _without_nodes(profile, outcomes)
        case _:
            return profile


def _with_more_memory(
    profile: StageProfile, outcomes: Sequence[TaskOutcome]
) -> StageProfile | None:
    asked, limit = _memory_gb(profile, outcomes), profile.max_memory_gb
    if limit is None or asked >= limit:
        return None
    memory = min(round(RAISE * asked, 1), limit) if asked else limit
    return profile.model_copy(update={"memory_gb": memory})


def _memory_gb(profile: StageProfile, outcomes: Sequence[TaskOutcome]) -> float:
    """Return the memory asked for, or SLURM's default (GB of 2**30 bytes); 0 if unknown."""
    given = max((o.job.requested_memory or 0 for o in outcomes if o.job), default=0)
    return profile.memory_gb or given / GB


def _with_more_time(profile: StageProfile, max_minutes: int | None) -> StageProfile | None:
    minutes = math.ceil(RAISE * profile.timeout_minutes)
    if max_minutes is not None:
        minutes = min(minutes, max_minutes)
    if minutes <= profile.timeout_minutes:
        return None
    return profile.model_copy(update={"timeout_minutes": minutes})


def _without_nodes(profile: StageProfile, outcomes: Sequence[TaskOutcome]) -> StageProfile:
    """Exclude the nodes of these jobs.

    A job on several nodes does not say which was bad; SLURM itself takes a lost one out of use.
    """
    bad = {o.job.node for o in outcomes if o.job and re.fullmatch(r"[^,\[]+", o.job.node)}
    exclude = ",".join(filter(None, (profile.exclude, *sorted(bad))))
    return profile.model_copy(update={"exclude": exclude or None})


def _sentence(
    failure: FailureClass, stage: str, asked: StageProfile, outcomes: Sequence[TaskOutcome]
) -> str:
    jobs = [outcome.job for outcome in outcomes if outcome.job]
    told = ANSWERS[failure].ask.format(
        stage=stage,
        memory=f"{_memory_gb(asked, outcomes):.4g} GB",
        max_memory="not set" if asked.max_memory_gb is None else f"{asked.max_memory_gb:g}",
        minutes=asked.timeout_minutes,
        nodes=", ".join(sorted({job.node for job in jobs if job.node})) or "unknown",
        who=", ".join(sorted({job.cancelled_by for job in jobs} - {""})) or "somebody",
    )
    return f"stage {stage} {told}, then resume the run"
