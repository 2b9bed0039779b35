"""Submit units: freeze them in slices, one for each task, then start the tasks.

A task is given a path and an index. Commit and attempt records say what it did, never submitit's
results.
"""

import hashlib
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import submitit

from hpc.config.profile import StageProfile, n_tasks, process_memory
from hpc.node import worker
from hpc.node.environment import code_version
from hpc.node.gpu import visible_gpus
from hpc.node.payload import Payload
from hpc.run.folder import RunFolder
from hpc.run.submissions import Submission, TaskJob
from hpc.slurm.limits import Limits, limits
from hpc.slurm.submit import start_array, submitting_environment
from jobs.runner import Item
from storage_schemas.protocol.attempts import start_time


@dataclass(frozen=True)
class SubmitOptions:
    """How a stage is submitted."""

    scheduler: Literal["local", "slurm"]
    profile: StageProfile
    engine: Literal["serial", "dask"]
    dask: str | None = None
    """Address of a Dask scheduler that the user already has."""


def submit(run: RunFolder, stage: str, items: Sequence[Item], how: SubmitOptions) -> None:
    """Freeze `items` in a new submission and start its tasks."""
    if how.scheduler == "slurm":
        _submit_to_slurm(run, stage, items, how)
    else:
        _submit_here(run, stage, items, how)


def _submit_here(run: RunFolder, stage: str, items: Sequence[Item], how: SubmitOptions) -> None:
    profile = how.profile
    submission = _freeze(run, stage, _slices(items, how), how)
    executor = submitit.LocalExecutor(folder=submission.path / "log")
    executor.update_parameters(timeout_min=profile.timeout_minutes, stderr_to_stdout=True)
    with submitting_environment(), _uninterrupted():
        jobs = executor.map_array(worker.run_slice, *_arguments(submission))
        ids = [str(job.job_id) for job in jobs]
        submission.note_jobs([TaskJob(i, start_time(int(i))) for i in ids])


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Put off Ctrl-C until the tasks are noted, and start them so that it does not reach them.

    A terminal sends it to every process that began there; the foreground ends the tasks in order
    (`hpc.run.cancel.end_tasks_here`).
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _submit_to_slurm(run: RunFolder, stage: str, items: Sequence[Item], how: SubmitOptions) -> None:
    """Start array jobs for as many items as the user may have in the queue, the rest later."""
    profile = how.profile
    found = limits(profile.partition, profile.account, profile.qos)
    # What the user may not have in the queue now is missing again when these have ended.
    slices = _slices(items, how)[: _free_jobs(found)]
    if not slices:
        return
    submission = _freeze(run, stage, slices, how)
    ids = start_array(
        submission.name,
        submission.path / "log",
        worker.run_slice,
        list(zip(*_arguments(submission), strict=True)),
        profile,
        found.max_array_size,
        profile.slots,
    )
    submission.note_jobs([TaskJob(i) for i in ids])


def _slices(items: Sequence[Item], how: SubmitOptions) -> list[Sequence[Item]]:
    """Return the items of each task."""
    n = n_tasks(how.scheduler, how.profile, len(items))
    return [items[i::n] for i in range(n)]


def _free_jobs(found: Limits) -> int | None:
    """Return how many tasks may be submitted, a place in the queue kept for the gate."""
    if found.max_submit_jobs is None:
        return None
    return max(0, found.max_submit_jobs - found.queued - 1)


def job_prefix(run: RunFolder) -> str:
    """Return how the names of the run's jobs begin."""
    where = hashlib.sha256(os.fsencode(run.path.resolve())).hexdigest()
    return f"gradenc-{where[:12]}"


def _freeze(
    run: RunFolder, stage: str, slices: Sequence[Sequence[Item]], how: SubmitOptions
) -> Submission:
    """Write what the tasks will be given, before any exists."""
    submission = _new_submission(run)
    Payload(
        version=code_version(),
        name=f"{job_prefix(run)}-{submission.path.name}",
        stage=stage,
        round=run.round,
        root=os.path.relpath(run.root, submission.path),
        scheduler=how.scheduler,
        engine=how.engine,
        dask=how.dask,
        memory=process_memory(how.scheduler, how.profile),
        gpus=tuple(visible_gpus()) if how.scheduler == "local" else (),
        asked=how.profile,
        slices=slices,
    ).write(submission.path)
    return submission


def _arguments(submission: Submission) -> tuple[list[str], range]:
    n = len(submission.payload.slices)
    return [str(submission.units_file.resolve())] * n, range(n)


def _new_submission(run: RunFolder) -> Submission:
    folder = run.path / "submissions"
    folder.mkdir(exist_ok=True)
    number = 1 + max((int(p.name) for p in folder.glob("[0-9]*")), default=0)
    path: Path = folder / f"{number:04d}"
    path.mkdir()
    return Submission(path)
