"""Which type of GPU a task has; all of a stage must have one, since types round differently."""

import os
import shutil
import subprocess
from pathlib import Path

from storage_schemas.files import read_json, write_exclusive
from storage_schemas.identity import canonical_json


def gpu_type() -> str | None:
    """Return the name of the GPU that this process is bound to; None without one."""
    if not os.environ.get("CUDA_VISIBLE_DEVICES"):
        return None
    if shutil.which("nvidia-smi"):
        return _name_by_driver(os.environ["CUDA_VISIBLE_DEVICES"].partition(",")[0])
    from hpc.slurm.gpus import type_on_node

    return type_on_node(os.environ.get("SLURMD_NODENAME", ""))


def other_type(record: Path, found: str) -> str | None:
    """Return the type that the record keeps if it is another; the first to ask writes its own."""
    if write_exclusive(record, canonical_json({"gpu": found})):
        return None
    first = (read_json(record) or {}).get("gpu")
    return None if first == found else str(first)


def _name_by_driver(device: str) -> str:
    query = ["nvidia-smi", f"--id={device}", "--query-gpu=name", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
