"""Start array jobs and single jobs, through submitit's public interface."""

import logging
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError

from hpc.config.profile import StageProfile
from hpc.slurm.client import LASTING, Refused, SlurmUnavailable
from hpc.slurm.sbatch import sbatch_options, setup_lines

Parameter = str | int | list[str]
"""A parameter of submitit's executor."""

logger = logging.getLogger(__name__)

_SIGNAL_S = 90
"""How long before its time limit a task gets the signal to stop after its current unit (s)."""


def start_array(
    name: str,
    log: Path,
    function: Callable[..., None],
    arguments: Sequence[tuple[Any, ...]],
    profile: StageProfile,
    max_array_size: int,
    throttle: int,
) -> list[str]:
    """Start a task for each tuple of arguments; return the tasks' job ids, in order.

    Where indices must be below `max_array_size`, several arrays are submitted that share the
    throttle. If the cluster accepts only the first of them, fewer ids than arguments are returned.
    """
    pieces = range(0, len(arguments), max_array_size)
    parameters = _parameters(name, profile) | {"array_parallelism": max(1, throttle // len(pieces))}
    ids: list[str] = []
    for start in pieces:
        piece = arguments[start : start + max_array_size]
        executor = _executor(log, parameters)
        try:
            with _submitting(name):
                jobs = executor.map_array(function, *zip(*piece, strict=True))
        except SlurmUnavailable as error:
            if not ids:
                raise
            # The accepted arrays run: if their ids were lost, they would be cancelled as unknown.
            left = len(arguments) - start
            logger.warning("%d tasks of %s are left for later: %s", left, name, error)
            break
        ids += [str(job.job_id) for job in jobs]
    return ids


def start_job(
    name: str,
    log: Path,
    function: Callable[..., None],
    arguments: tuple[Any, ...],
    profile: StageProfile,
    **when: str,
) -> str:
    """Start one job and return its id; `when` are options of sbatch such as `dependency`."""
    executor = _executor(log, _parameters(name, profile), when)
    with _submitting(name):
        return str(executor.submit(function, *arguments).job_id)


def call(name: str, *arguments: Any) -> None:
    """Call the function ``module:function``: what a job runs that is submitted by name."""
    module, _, function = name.partition(":")
    getattr(import_module(module), function)(*arguments)


@contextmanager
def submitting_environment() -> Iterator[None]:
    """Hide this job's own SLURM variables from the jobs that it submits.

    A parent's memory per node, beside a child's memory per CPU, would end the child's srun. Files
    in the current folder are never imported in place of a package (PYTHONSAFEPATH).
    """
    before = dict(os.environ)
    for name in before:
        if name.startswith(("SLURM_", "SBATCH_", "SRUN_", "SUBMITIT_")) and name != "SLURM_CONF":
            del os.environ[name]
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _submitting(name: str) -> Iterator[None]:
    try:
        with submitting_environment():
            yield
    except (FailedJobError, FailedSubmissionError) as error:
        told = str(error).strip().splitlines() or ["it gave no reason"]
        kind = Refused if LASTING.search(str(error)) else SlurmUnavailable
        raise kind(f"sbatch refused {name}: {told[-1]}") from error


def _executor(
    log: Path, parameters: Mapping[str, Parameter], options: Mapping[str, str] | None = None
) -> submitit.SlurmExecutor:
    python = f"{shlex.quote(sys.executable)} -P"
    executor = submitit.SlurmExecutor(log, max_num_timeout=0, python=python)
    # Requeueing is requested explicitly: clusters differ in their defaults.
    extra = {"requeue": True, **(options or {})}
    executor.update_parameters(**parameters, additional_parameters=extra)
    return executor


def _parameters(name: str, profile: StageProfile) -> dict[str, Parameter]:
    """Return submitit's parameters for one stage of a profile."""
    return {
        **sbatch_options(profile),
        "job_name": name,
        "comment": name,
        "setup": setup_lines(profile),
        "stderr_to_stdout": True,
        "signal_delay_s": min(_SIGNAL_S, profile.timeout_minutes * 60 // 4),
        # The other ranks go on when one dies; since 22.05 srun ignores the CPUs given to sbatch.
        "srun_args": ["--kill-on-bad-exit=0", "--wait=0", f"--cpus-per-task={profile.cpus}"],
    }
