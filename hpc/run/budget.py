"""The cost of the missing units, estimated from committed ones: pilots, GPU hours, task lengths."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import mean

from hpc.config.profile import StageProfile, items_per_task
from hpc.run.folder import RunFolder
from hpc.run.submissions import Submission, submissions
from jobs.runner import Item
from storage_schemas.protocol.attempts import attempts_of
from storage_schemas.protocol.commit import committed_units
from storage_schemas.protocol.store import Store

SAMPLE = 20
"""Committed units of a store whose time is read."""

FILLED = 0.8
"""Share of a task's time limit that its units may be expected to take."""

Seconds = Mapping[str, float]
"""Store (below the root) -> mean time of a unit (s), for stores of which one was made."""


def measured(stores: Iterable[Store]) -> dict[str, float]:
    """Return the mean time of the committed units of each store (s)."""
    found = {}
    for store in stores:
        sample = sorted(committed_units(store))[:SAMPLE]
        used = [attempts_of(store, index)[-1].used for index in sample]
        if times := [one.seconds for one in used if one.seconds is not None]:
            found[store.reference] = mean(times)
    return found


def pilots(missing: Sequence[Item], seconds: Seconds) -> list[Item]:
    """Return one item of every kind that has no committed unit yet."""
    first: dict[tuple[str, ...], Item] = {}
    for item in missing:
        first.setdefault(tuple(store for store, _ in item), item)
    return [item for stores, item in first.items() if not set(stores) <= set(seconds)]


def fitted(profile: StageProfile, missing: Sequence[Item], seconds: Seconds) -> StageProfile:
    """Return the profile with tasks small enough for the time limit, if the time is known."""
    longest = max((_seconds_of(item, seconds) for item in missing), default=0.0)
    if not longest:
        return profile
    most = max(1, int(FILLED * profile.timeout_minutes * 60 * profile.ranks_per_node / longest))
    wanted = items_per_task(profile, len(missing))
    return profile.model_copy(update={"units_per_task": min(wanted, most)})


def over_budget(
    run: RunFolder, stage: str, profile: StageProfile, missing: Sequence[Item], seconds: Seconds
) -> str | None:
    """Return a sentence if these units would exceed the run's limit of GPU hours, else None.

    A unit of a kind that was not measured yet may run while any GPU hours are left.
    """
    limit = run.max_gpu_hours
    if limit is None or not profile.gpus_per_node:
        return None
    work = sum(_seconds_of(item, seconds) for item in missing)
    expected = work / 3600 * profile.gpus_per_node / profile.ranks_per_node
    spent = gpu_hours(run)
    if spent + expected <= limit and spent < limit:
        return None
    return (
        f"stage {stage} would take about {expected:.2g} GPU hours more ({len(missing)} units of "
        f"{work / len(missing):.3g} s as measured), {spent:.2g} are spent, and --max-gpu-hours is "
        f"{limit:g}: raise it with `gradenc resume {run.path} --max-gpu-hours N`"
    )


def gpu_hours(run: RunFolder) -> float:
    """Return the GPU hours that the run's ended tasks held, failed ones included."""
    return sum(map(gpu_seconds, submissions(run))) / 3600


def gpu_seconds(submission: Submission) -> float:
    """Return for how long the ended tasks of a submission held GPUs, preempted runs included."""
    jobs = [task.job for task in submission.ended if task.job]
    return float(sum(job.gpus * (job.elapsed_s + job.earlier_s) for job in jobs))


def _seconds_of(item: Item, seconds: Seconds) -> float:
    """Return how long an item takes (s): its units are made together."""
    return max(seconds.get(store, 0.0) for store, _ in item)
