"""Used against requested resources of a run's tasks, and suggestions for the profile.

SLURM's records of tasks come from the outcomes of submissions, times inside units from the attempts
at units. Values that nobody recorded are None: accounting may be off, and tasks on this machine
request nothing.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from hpc.config.profile import GB, StageProfile
from hpc.faults.triage import FailureClass, TaskOutcome
from hpc.run.folder import RunFolder
from hpc.run.submissions import Submission, submissions
from hpc.slurm.jobs import Job
from jobs.runner import Item
from storage_schemas.protocol.attempts import AttemptRecord, latest_attempts
from storage_schemas.protocol.store import Store

_SPARE = 1.3
"""Suggested memory and time are those of the largest task, times this."""
_WORTH = 0.75
"""A smaller request is suggested only below this share of the current one."""
_MIN_GB = 1
_MIN_MINUTES = 10


@dataclass(frozen=True)
class StageUse:
    """Used and requested resources of the tasks of one stage."""

    stage: str
    tasks: int
    cpu_share: float | None
    """Processor time used, as a share of the time that processors were held."""
    memory: int | None
    """Largest memory in use on a node (bytes)."""
    memory_asked: int | None
    """Largest memory requested per node (bytes)."""
    longest_s: float | None
    """Duration of the longest task."""
    limit_s: float | None
    """Time limit of the longest task."""
    gpu_hours: float | None
    """GPU hours for which GPUs were held."""
    unit_share: float | None
    """Time inside units that were committed, as a share of the time of all processes."""
    suggestions: tuple[str, ...]
    """Suggested lines for the stage's section of the profile (TOML)."""


def efficiency(run: RunFolder) -> list[StageUse]:
    """Return the used resources of every stage that was submitted."""
    all_ = submissions(run)
    profile = run.profile()
    found = []
    for stage in dict.fromkeys(submission.stage for submission in all_):
        own = [submission for submission in all_ if submission.stage == stage]
        found.append(_stage_use(run, stage, own, profile.stage(stage)))
    return found


def _stage_use(
    run: RunFolder, stage: str, own: Sequence[Submission], profile: StageProfile
) -> StageUse:
    tasks = [task for s in own for task in s.ended]
    jobs = [task.job for task in tasks if task.job and task.job.elapsed_s]
    attempts = _attempts(run.stores(stage))
    longest = max(jobs, key=lambda job: job.elapsed_s, default=None)
    use = StageUse(
        stage=stage,
        tasks=len(tasks),
        cpu_share=_share((job.cpu_s, job.elapsed_s * job.cpus) for job in jobs),
        memory=_largest([*_of_tasks(own), *_of_attempts(own, attempts)]),
        memory_asked=_largest(task.job.requested_memory for task in tasks if task.job),
        longest_s=longest.elapsed_s if longest else None,
        limit_s=longest.limit_s if longest else None,
        gpu_hours=sum(job.gpus * job.elapsed_s for job in jobs) / 3600 if jobs else None,
        unit_share=_share(_unit_seconds(own, attempts)),
        suggestions=(),
    )
    return _with_suggestions(use, own, tasks, profile)


Attempts = dict[tuple[str, int], AttemptRecord]
"""(Store below the root, unit index) -> newest attempt."""


def _attempts(stores: Iterable[Store]) -> Attempts:
    return {
        (store.reference, index): attempt
        for store in stores
        for index, attempt in latest_attempts(store).items()
    }


def _share(pairs: Iterable[tuple[float | None, float]]) -> float | None:
    """Return the ratio of the sums over pairs whose first number is known; None without any."""
    used, held = 0.0, 0.0
    for one, other in pairs:
        if one is not None:
            used, held = used + one, held + other
    return used / held if held else None


def _largest(values: Iterable[int | None]) -> int | None:
    return max((value for value in values if value is not None), default=None)


def _of_tasks(own: Iterable[Submission]) -> Iterator[int | None]:
    """Yield the memory per node of each task, from SLURM's largest process on it."""
    for submission in own:
        for task in submission.ended:
            rss = task.job.max_rss if task.job else None
            yield rss and rss * submission.payload.asked.ranks_per_node


def _of_attempts(own: Iterable[Submission], attempts: Attempts) -> Iterator[int | None]:
    """Yield the memory per node of each unit, if all processes were as large as its own."""
    for submission in own:
        processes = _processes(submission)
        for unit in submission.units():
            rss = attempts[unit].used.max_rss if unit in attempts else None
            yield rss and rss * processes


def _processes(submission: Submission) -> int:
    """Return the number of processes that compute units on each node of a task."""
    asked, engine = submission.payload.asked, submission.payload.engine
    ranks = asked.ranks_per_node
    return asked.dask_workers if engine == "dask" and ranks * asked.nodes == 1 else ranks


def _unit_seconds(own: Iterable[Submission], attempts: Attempts) -> Iterator[tuple[float, float]]:
    """Yield (time inside units, total time) of each task's processes (s).

    SLURM reports the time since the task's last start, so only attempts since then count.
    """
    for submission in own:
        processes = submission.payload.asked.nodes * _processes(submission)
        for task in submission.ended:
            if task.job is None or not task.job.elapsed_s:
                continue
            items = submission.payload.slices[task.index]
            inside = sum(_item_seconds(item, task.job, attempts) for item in items)
            yield inside, processes * task.job.elapsed_s


def _item_seconds(item: Item, job: Job, attempts: Attempts) -> float:
    """Return the job's time for an item, whose units are computed together in one pass (s)."""
    made = [attempts[unit] for unit in item if unit in attempts]
    own = [a for a in made if (a.job, a.restarts) == (job.job_id, job.restarts)]
    return max((a.used.seconds or 0.0 for a in own if a.outcome == "committed"), default=0.0)


def _with_suggestions(
    use: StageUse,
    own: Sequence[Submission],
    tasks: Sequence[TaskOutcome],
    profile: StageProfile,
) -> StageUse:
    raised = own[-1].payload.asked
    failures = {task.failure for task in tasks}
    lines = (
        _memory(use, profile, raised.memory_gb, FailureClass.HOST_MEMORY in failures),
        _minutes(use, profile, raised.timeout_minutes, FailureClass.TIMEOUT in failures),
        _processors(use, profile),
    )
    found = tuple(line for line in lines if line)
    return StageUse(**{**vars(use), "suggestions": found})


def _memory(use: StageUse, profile: StageProfile, raised: float | None, killed: bool) -> str | None:
    if killed:
        # The memory of a killed task is its limit, not its need: suggest the latest request.
        if raised is None or raised == profile.memory_gb:
            return None
        return (
            f"memory_gb = {raised:g}  # asked for {profile.memory_gb}, tasks were killed for memory"
        )
    if use.memory is None or use.memory_asked is None:
        return None
    asked = use.memory_asked / GB
    wanted = max(_MIN_GB, math.ceil(use.memory / GB * _SPARE))
    if wanted > _WORTH * asked:
        return None
    return f"memory_gb = {wanted}  # asked for {asked:.3g}, at most {use.memory / GB:.2g} used"


def _minutes(use: StageUse, profile: StageProfile, raised: int, ended: bool) -> str | None:
    if ended:
        if raised == profile.timeout_minutes:
            return None
        return (
            f"timeout_minutes = {raised}  # asked for {profile.timeout_minutes}, tasks reached "
            "their time limit"
        )
    if use.longest_s is None or use.limit_s is None:
        return None
    wanted = max(_MIN_MINUTES, 5 * math.ceil(use.longest_s / 60 * _SPARE / 5))
    if wanted > _WORTH * use.limit_s / 60:
        return None
    return (
        f"timeout_minutes = {wanted}  # asked for {use.limit_s / 60:.0f}, the longest task took "
        f"{use.longest_s / 60:.1f}: shorter jobs start sooner"
    )


def _processors(use: StageUse, profile: StageProfile) -> str | None:
    """Suggest fewer threads or Dask workers, whichever of the two are more."""
    cpus = max(profile.threads, profile.dask_workers)
    if use.cpu_share is None or cpus == 1:
        return None
    wanted = max(1, math.ceil(cpus * use.cpu_share))
    if wanted > _WORTH * cpus:
        return None
    key = "threads" if profile.threads >= profile.dask_workers else "dask_workers"
    return f"{key} = {wanted}  # asked for {cpus} CPUs a process, {cpus * use.cpu_share:.1f} used"
