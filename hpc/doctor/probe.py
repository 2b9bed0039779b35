"""What a probe does on a node: a small job that tries there what the tasks of a run will do.

The login node holds a lock and answers a greeting meanwhile; each rank leaves a file of findings.
"""

import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpc.doctor.findings import Finding, failure, ok, warning
from hpc.doctor.folder_checks import check_folder, check_space, locked_by_another
from hpc.node.environment import code_version
from hpc.slurm.client import SlurmUnavailable
from hpc.slurm.cluster_info import ask_only
from hpc.slurm.options import Options
from hpc.slurm.queue import queue
from hpc.slurm.submit import submitting_environment
from storage_schemas.files import read_json, write_exclusive
from storage_schemas.identity import canonical_json

PATIENCE_S = 60.0
"""How long one side waits to see a file of the other; NFS may keep an old view of a folder."""
SLOW_S = 5.0
"""A way there and back that is longer delays every start of a stage."""
POLL_S = 0.1


@dataclass(frozen=True)
class Request:
    """What a probe is to try, besides the run folder."""

    version: str
    """code of the login node"""
    python: str
    gpus: int
    scratch: bool
    dask: bool
    interface: str | None
    submits: Options | None
    """options of a job that is submitted from here; None: none is"""


def run_probe(folder: str, request: Request) -> None:
    """Try everything on this node and write what was found to `folder`; called on every rank."""
    rank = int(os.environ["SLURM_PROCID"])
    here = Path(folder)
    found = [
        _check_code(request),
        *_check_sight(here, rank),
        *_check_run_folder(here, rank),
        *(_check_gpu() if request.gpus else ()),
        *(_check_scratch() if request.scratch else ()),
        *(_check_port(here, rank, request.interface) if request.dask else ()),
        *(_check_submission(request.submits) if request.submits else ()),
    ]
    report = {"node": node_name(), "findings": [finding.to_json() for finding in found]}
    write_exclusive(here / f"report-{rank}.json", canonical_json(report))


def node_name() -> str:
    """Return this node's name as SLURM has it."""
    return os.environ.get("SLURMD_NODENAME") or platform.node()


def _check_code(request: Request) -> Finding:
    here, python = code_version(), platform.python_version()
    if (here, python) == (request.version, request.python):
        return ok("code", f"gradenc {here}, Python {python}, as on the login node")
    sentence = (
        f"gradenc {here} with Python {python} ({sys.executable}); on the login node "
        f"{request.version} with {request.python}"
    )
    remedy = "let both use one installation on a shared file system; see `setup` and PYTHONPATH"
    return failure("code", sentence, remedy)


def _check_sight(folder: Path, rank: int) -> Iterator[Finding]:
    """Measure on this node's clock how long a file takes there and its answer takes back."""
    started = time.monotonic()
    greeting = {"node": node_name(), "time": time.time()}
    write_exclusive(folder / f"hello-{rank}.json", canonical_json(greeting))
    answer = wait_for(folder / f"echo-{rank}.json")
    took = time.monotonic() - started
    if answer is None:
        sentence = f"a file of the login node did not appear here within {PATIENCE_S:.0f} s"
        yield failure("run folder", sentence, "keep runs on a file system that both see at once")
        return
    sentence = f"a file and its answer took {took:.1f} s between {node_name()} and the login node"
    if took > SLOW_S:
        yield warning("run folder", sentence, "a faster file system makes stages follow sooner")
    else:
        yield ok("run folder", sentence)


def wait_for(path: Path) -> dict[str, Any] | None:
    """Return the JSON object in a file as soon as it is there; None after too long."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        # A client of NFS forgets that a file was not there when it lists the folder again.
        if path.name in os.listdir(path.parent) and (value := read_json(path)) is not None:
            return value
        time.sleep(POLL_S)
    return None


def _check_run_folder(folder: Path, rank: int) -> Iterator[Finding]:
    own = folder / f"rank-{rank}"
    own.mkdir()
    yield from check_folder(own)
    if not locked_by_another(folder.parent / "held"):
        remedy = (
            "do not run two `gradenc` commands for one run at once, or mount the file system with "
            "locks that hold between nodes (Lustre: -o flock)"
        )
        yield warning("run folder", "locks of the login node do not hold on this node", remedy)


def _check_gpu() -> Iterator[Finding]:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if shutil.which("nvidia-smi") is None:
        remedy = "ask the administrators; does the partition have GPUs, and does SLURM know them?"
        if visible:
            yield ok("gpu", f"CUDA_VISIBLE_DEVICES is {visible}; this node has no nvidia-smi")
        else:
            yield failure("gpu", "no nvidia-smi and no CUDA_VISIBLE_DEVICES on this node", remedy)
        return
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    if listed.returncode or "GPU" not in listed.stdout:
        words = (listed.stderr or listed.stdout).strip()
        yield failure("gpu", f"nvidia-smi -L: {words}", "exclude this node, and report it")
        return
    yield ok("gpu", listed.stdout.splitlines()[0].partition(" (UUID")[0])
    yield _check_torch()


def _check_torch() -> Finding:
    import torch

    if torch.cuda.is_available():
        return ok("gpu", f"torch {torch.__version__} sees {torch.cuda.get_device_name(0)}")
    sentence = f"torch {torch.__version__}, built for CUDA {torch.version.cuda}, sees no GPU"
    return failure("gpu", sentence, "install the torch that suits this node's driver (nvidia-smi)")


def _check_scratch() -> Iterator[Finding]:
    folder = Path(os.environ["TMPDIR"])
    try:
        with tempfile.NamedTemporaryFile(dir=folder) as stream:
            stream.write(b"1")
            stream.flush()
    except OSError as error:
        sentence = f"scratch {folder}: {error.strerror}"
        yield failure("scratch", sentence, "set scratch to a folder that you may write on the node")
        return
    yield check_space(folder)


def _check_port(folder: Path, rank: int, interface: str | None) -> Iterator[Finding]:
    """Open a port where Dask's scheduler would, and reach it from the last rank."""
    from distributed.utils import get_ip, get_ip_interface

    place = folder / "port.json"
    last = int(os.environ["SLURM_NTASKS"]) - 1
    try:
        if rank == 0:
            address = get_ip_interface(interface) if interface else get_ip()
            with socket.create_server((address, 0)) as server:
                host, port = server.getsockname()[:2]
                write_exclusive(place, canonical_json({"host": host, "port": port}))
                if last == 0:
                    _reach(place)
                server.settimeout(PATIENCE_S)
                server.accept()[0].close()
        elif rank == last:
            _reach(place)
    except (OSError, ValueError) as error:
        remedy = "set dask_interface to a network between the nodes (`ip -brief address` on a node)"
        yield failure("dask", f"port on {interface or 'the default interface'}: {error}", remedy)
        return
    yield ok("dask", f"a port opened on {interface or 'the default interface'} is reached")


def _reach(place: Path) -> None:
    address = wait_for(place)
    if address is None:
        raise TimeoutError(f"the first node opened none within {PATIENCE_S:.0f} s")
    socket.create_connection((address["host"], address["port"]), timeout=PATIENCE_S).close()


def _check_submission(options: Options) -> Iterator[Finding]:
    """Ask from here what a gate asks: the queue, and sbatch."""
    try:
        with submitting_environment():
            queue(["gradenc-doctor"])
            ask_only(options)
    except SlurmUnavailable as error:
        remedy = (
            "load SLURM's commands in the gate's `setup`; where nodes may not submit, stay with "
            "`gradenc submit --wait` on the login node"
        )
        yield failure("gate", f"jobs cannot be submitted from this node: {error}", remedy)
        return
    yield ok("gate", "squeue and sbatch work from this node")
