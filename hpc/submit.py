"""Submissions: a frozen list of units, cut into as many slices as the profile has slots.

The payload of a task is a path and an index; what it did is told by commit and attempt records,
never by submitit's results.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import submitit

from hpc import worker
from hpc.folder import RunFolder
from hpc.profile import StageProfile
from hpc.submissions import Submission
from jobs.runner import Item
from storage_schemas.attempts import start_time
from storage_schemas.files import write_exclusive
from storage_schemas.identity import canonical_json


def submit(
    run: RunFolder, stage: str, items: Sequence[Item], profile: StageProfile, engine: str
) -> Submission:
    """Freeze `items` in a new submission and start its tasks."""
    submission = _new_submission(run)
    slots = min(profile.slots, len(items))
    payload = {
        "version": worker.code_version(),
        "stage": stage,
        "round": run.round,
        "root": os.path.relpath(run.root, submission.path),
        "engine": engine,
        "threads": profile.threads,
        "micro_batch": profile.micro_batch,
        "dask_workers": profile.dask_workers,
        "slices": [items[i::slots] for i in range(slots)],
    }
    units = submission.path / "units.json"
    write_exclusive(units, canonical_json(payload))
    executor = submitit.LocalExecutor(folder=submission.path / "log")
    executor.update_parameters(timeout_min=profile.timeout_minutes, stderr_to_stdout=True)
    with _child_environment():
        jobs = executor.map_array(worker.run_slice, [str(units.resolve())] * slots, range(slots))
    records = [{"pid": int(job.job_id), "start_time": start_time(int(job.job_id))} for job in jobs]
    write_exclusive(submission.path / "jobs.json", canonical_json(records))
    return submission


def _new_submission(run: RunFolder) -> Submission:
    folder = run.path / "submissions"
    folder.mkdir(exist_ok=True)
    number = 1 + max((int(p.name) for p in folder.glob("[0-9]*")), default=0)
    path = folder / f"{number:04d}"
    path.mkdir()
    return Submission(path)


@contextmanager
def _child_environment() -> Iterator[None]:
    """Start children so that no file of the current folder is imported instead of a package."""
    before = dict(os.environ)
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
