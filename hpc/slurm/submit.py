"""Array jobs and single jobs, started through submitit's public interface."""

import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError

from hpc.config.profile import StageProfile
from hpc.slurm.client import LASTING, Refused, SlurmUnavailable
from hpc.slurm.options import sbatch_options, setup_lines

SIGNAL_S = 90
"""How long before its time limit a task is told to stop after the unit at hand (s)."""


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

    Cut into several arrays where the cluster takes no index above `max_array_size` - 1; these share
    the throttle. Where it takes the first of them only, there are fewer ids than arguments.
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
            # What was taken is at work: not noted, it would be cancelled as nobody's.
            print(f"{len(arguments) - start} tasks of {name} are left for later: {error}")
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
    """Submit as from a fresh shell: what a job has from its own scheduler is not for its children.

    (Its memory per node beside their memory per CPU, say, ends their srun.) Files of the current
    folder are never imported instead of a package.
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
    log: Path, parameters: dict[str, Any], options: dict[str, str] | None = None
) -> submitit.SlurmExecutor:
    python = f"{shlex.quote(sys.executable)} -P"
    executor = submitit.SlurmExecutor(log, max_num_timeout=0, python=python)
    # Requeue and append are asked for by name: clusters differ in their defaults.
    extra = {"requeue": True, **(options or {})}
    executor.update_parameters(**parameters, additional_parameters=extra)
    return executor


def _parameters(name: str, profile: StageProfile) -> dict[str, Any]:
    """Return submitit's parameters for one stage of a profile."""
    return sbatch_options(profile) | {
        "job_name": name,
        "comment": name,
        "setup": setup_lines(profile),
        "stderr_to_stdout": True,
        "signal_delay_s": min(SIGNAL_S, profile.timeout_minutes * 60 // 4),
        # One rank's death leaves the others at work; srun takes no CPUs from sbatch since 22.05.
        "srun_args": ["--kill-on-bad-exit=0", "--wait=0", f"--cpus-per-task={profile.cpus}"],
    }
