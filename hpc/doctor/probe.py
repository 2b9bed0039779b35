"""The probe: a small job that tries on a node everything that the tasks of a run will do there.

Meanwhile the login node holds a lock and answers each rank's file with another (`probe_jobs`); each
rank writes its findings to a file.
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

from hpc.doctor.findings import Finding, failure, ok, warning
from hpc.doctor.folder_checks import check_folder, check_space, locked_by_another
from hpc.node.environment import code_version
from hpc.slurm.client import SlurmUnavailable
from hpc.slurm.cluster_info import ask_only
from hpc.slurm.queue import queue
from hpc.slurm.sbatch import Options
from hpc.slurm.submit import submitting_environment
from storage_schemas.files import read_json, write_exclusive
from storage_schemas.identity import canonical_json
from storage_schemas.records import as_json, parse

_PATIENCE_S = 60.0
"""How long one side waits for a file of the other (s); NFS may show an old listing."""
_SLOW_S = 5.0
"""A round trip of a file that takes longer than this (s) delays every start of a stage."""
POLL_S = 0.1


@dataclass(frozen=True)
class Request:
    """What a probe tries besides the run folder."""

    version: str
    """version of the code on the login node"""
    python: str
    gpus: int
    scratch: bool
    dask: bool
    interface: str | None
    submits: Options | None
    """options of a test submission from the node; None: no such test"""


@dataclass(frozen=True)
class Greeting:
    """The first file of a rank."""

    node: str
    time: float
    """Its clock (s since 1970)."""


@dataclass(frozen=True)
class Report:
    """The last file of a rank."""

    node: str
    findings: tuple[Finding, ...]


def run_probe(folder: str, request: Request) -> None:
    """Run all checks on this node and write the findings to `folder`; called on every rank."""
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
    _write(here / f"report-{rank}.json", Report(_node_name(), tuple(found)))


def _write(path: Path, record: object) -> None:
    write_exclusive(path, canonical_json(as_json(record)))


def _node_name() -> str:
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
    """Measure the round trip of a file to the login node and back."""
    started = time.monotonic()
    _write(folder / f"hello-{rank}.json", Greeting(_node_name(), time.time()))
    answered = _appears(folder / f"echo-{rank}.json")
    took = time.monotonic() - started
    if not answered:
        sentence = f"a file of the login node did not appear on the node within {_PATIENCE_S:.0f} s"
        yield failure(
            "run folder",
            sentence,
            "keep runs on a file system that login node and compute nodes share",
        )
        return
    sentence = f"a file took {took:.1f} s from {_node_name()} to the login node and back"
    if took > _SLOW_S:
        yield warning(
            "run folder", sentence, "a faster shared file system would start stages sooner"
        )
    else:
        yield ok("run folder", sentence)


def _appears(path: Path) -> bool:
    """Wait for a file of JSON and return whether it appears, whole, in time."""
    end = time.monotonic() + _PATIENCE_S
    while time.monotonic() < end:
        # Listing the folder makes an NFS client look for files that it took for missing.
        if path.name in os.listdir(path.parent) and read_json(path) is not None:
            return True
        time.sleep(POLL_S)
    return False


def _check_run_folder(folder: Path, rank: int) -> Iterator[Finding]:
    own = folder / f"rank-{rank}"
    own.mkdir()
    yield from check_folder(own)
    if not locked_by_another(folder.parent / "held"):
        remedy = (
            "do not start two `gradenc` commands for one run at once, or have the file system "
            "mounted with locks that hold between nodes (Lustre: -o flock)"
        )
        yield warning("run folder", "locks of the login node do not hold on this node", remedy)


def _check_gpu() -> Iterator[Finding]:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if shutil.which("nvidia-smi") is None:
        remedy = "ask the administrators whether the partition has GPUs that SLURM knows of"
        if visible:
            yield ok("gpu", f"CUDA_VISIBLE_DEVICES is {visible}; this node has no nvidia-smi")
        else:
            yield failure("gpu", "no nvidia-smi and no CUDA_VISIBLE_DEVICES on this node", remedy)
        return
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    if listed.returncode or "GPU" not in listed.stdout:
        words = (listed.stderr or listed.stdout).strip()
        yield failure(
            "gpu",
            f"nvidia-smi -L: {words}",
            "add this node to `exclude`, and report it to the administrators",
        )
        return
    yield ok("gpu", listed.stdout.splitlines()[0].partition(" (UUID")[0])
    yield _check_torch()


def _check_torch() -> Finding:
    import torch

    if torch.cuda.is_available():
        return ok("gpu", f"torch {torch.__version__} sees {torch.cuda.get_device_name(0)}")
    sentence = f"torch {torch.__version__}, built for CUDA {torch.version.cuda}, sees no GPU"
    return failure("gpu", sentence, "install a torch that fits this node's driver (nvidia-smi)")


def _check_scratch() -> Iterator[Finding]:
    folder = Path(os.environ["TMPDIR"])
    try:
        with tempfile.NamedTemporaryFile(dir=folder) as stream:
            stream.write(b"1")
            stream.flush()
    except OSError as error:
        sentence = f"scratch {folder}: {error.strerror}"
        yield failure(
            "scratch", sentence, "set scratch to a folder that you may write to on the node"
        )
        return
    yield check_space(folder)


@dataclass(frozen=True)
class _Address:
    """Where the first node listens."""

    host: str
    port: int


def _check_port(folder: Path, rank: int, interface: str | None) -> Iterator[Finding]:
    """Open a port on the first rank, as Dask's scheduler does, and connect from the last."""
    from distributed.utils import get_ip, get_ip_interface

    place = folder / "port.json"
    last = int(os.environ["SLURM_NTASKS"]) - 1
    try:
        if rank == 0:
            address = get_ip_interface(interface) if interface else get_ip()
            with socket.create_server((address, 0)) as server:
                host, port = server.getsockname()[:2]
                _write(place, _Address(host, port))
                if last == 0:
                    _reach(place)
                server.settimeout(_PATIENCE_S)
                server.accept()[0].close()
        elif rank == last:
            _reach(place)
    except (OSError, ValueError) as error:
        remedy = (
            "set dask_interface to a network between the nodes (`ip -brief address` lists them)"
        )
        yield failure(
            "dask", f"no connection on {interface or 'the default interface'}: {error}", remedy
        )
        return
    yield ok("dask", f"the first node can be reached on {interface or 'the default interface'}")


def _reach(place: Path) -> None:
    if not _appears(place):
        raise TimeoutError(f"the first node opened no port within {_PATIENCE_S:.0f} s")
    address = parse(_Address, read_json(place))
    socket.create_connection((address.host, address.port), timeout=_PATIENCE_S).close()


def _check_submission(options: Options) -> Iterator[Finding]:
    """Ask the queue and sbatch from this node, as a gate does."""
    try:
        with submitting_environment():
            queue(["gradenc-doctor"])
            ask_only(options)
    except SlurmUnavailable as error:
        remedy = (
            "load SLURM's commands in the gate's `setup`; where nodes may not submit, keep "
            "`gradenc submit --wait` running on the login node"
        )
        yield failure("gate", f"jobs cannot be submitted from this node: {error}", remedy)
        return
    yield ok("gate", "squeue and sbatch work from this node")
