"""The type of a task's GPU. All tasks of a stage need the same: types round differently."""

import os
import shutil
import subprocess
from pathlib import Path

from storage_schemas.files import read_json, write_exclusive
from storage_schemas.identity import canonical_json


def visible_gpus() -> list[str]:
    """Return the GPUs that processes started here may use: CUDA_VISIBLE_DEVICES, else all."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for name in named.split(",") if name]
    if not shutil.which("nvidia-smi"):
        return []
    query = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    result = subprocess.run(query, capture_output=True, text=True)
    return result.stdout.split() if result.returncode == 0 else []


def gpu_type() -> str | None:
    """Return the name of the GPU that this process is bound to; None without one."""
    if not os.environ.get("CUDA_VISIBLE_DEVICES"):
        return None
    if shutil.which("nvidia-smi"):
        name = _name_by_driver(os.environ["CUDA_VISIBLE_DEVICES"].partition(",")[0])
        if name is not None:
            return name
    return _name_by_slurm(os.environ.get("SLURMD_NODENAME"))


def other_type(record: Path, found: str) -> str | None:
    """Return the type on record if it differs; the first caller writes its own on record."""
    if write_exclusive(record, canonical_json({"gpu": found})):
        return None
    first = (read_json(record) or {}).get("gpu")
    return None if first == found else str(first)


def _name_by_slurm(node: str | None) -> str | None:
    """Ask SLURM's configuration; None if the process is not SLURM's or SLURM does not answer."""
    if node is None:
        return None
    from hpc.slurm.client import SlurmUnavailable
    from hpc.slurm.cluster_info import gpu_type_of_node

    try:
        return gpu_type_of_node(node)
    except SlurmUnavailable:
        return None


def _name_by_driver(device: str) -> str | None:
    """Ask the driver; None if it does not know the device, as for a part of a GPU or a lost one.

    A lost GPU makes its units fail, and then its node is excluded; failing here would not do that.
    """
    query = ["nvidia-smi", f"--id={device}", "--query-gpu=name", "--format=csv,noheader"]
    result = subprocess.run(query, capture_output=True, text=True)
    return result.stdout.strip() if result.returncode == 0 else None
