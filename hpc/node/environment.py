"""What a task is started with: the code that is installed, and its place among its job's ranks."""

import hashlib
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
