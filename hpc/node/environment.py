"""The environment of a task: the installed code, its job, its rank.

The variables of SLURM and submitit are read here and in the rooms that run SLURM, nowhere else.
"""

import hashlib
import os
from collections.abc import Mapping
from functools import lru_cache
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

PACKAGES = ("gradenc", "gradenc_errors", "gradenc_core", "storage_schemas", "jobs", "hpc")


@lru_cache
def code_version() -> str:
    """Return version and digest of the installed code; tasks compare it with their submission."""
    total = hashlib.sha256()
    for package in PACKAGES:
        folder = Path(str(files(package)))
        for path in sorted(folder.rglob("*.py")):
            total.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return f"{version('gradenc')}+{total.hexdigest()[:12]}"


def rank(environment: Mapping[str, str]) -> tuple[int, int]:
    """Return this process's number among those of its task, and how many they are."""
    if environment.get("SUBMITIT_EXECUTOR") != "slurm":
        return 0, 1
    return int(environment["SLURM_PROCID"]), int(environment["SLURM_NTASKS"])


def own_job(environment: Mapping[str, str]) -> tuple[str, int]:
    """Return the id of this process's job, and how often its scheduler has requeued it.

    A process of this machine has an id of its own and is never requeued.
    """
    if environment.get("SUBMITIT_EXECUTOR") != "slurm":
        return environment.get("SUBMITIT_LOCAL_JOB_ID") or f"pid-{os.getpid()}", 0
    array, task = environment.get("SLURM_ARRAY_JOB_ID"), environment.get("SLURM_ARRAY_TASK_ID")
    job_id = f"{array}_{task}" if array else environment["SLURM_JOB_ID"]
    return job_id, int(environment.get("SLURM_RESTART_COUNT") or 0)
