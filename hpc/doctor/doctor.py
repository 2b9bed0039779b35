"""Checks before a first submission: the run folder, this machine, the cluster and its nodes.

Every problem found here would otherwise end a run hours later, so all checks run and each returns
a finding with a remedy; nothing is left behind in the run folder.
"""

import os
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import psutil

from hpc.config.profile import Profile
from hpc.doctor.findings import Finding, failure, ok, warning
from hpc.doctor.folder_checks import check_folder, check_space
from hpc.slurm.client import SlurmUnavailable
from jobs.spec import STAGES
from storage_schemas.files import make_folder

_PROCESS_GB = 2.0
"""Memory of one process with torch or a small ridge; studies with many targets need more."""


def diagnose(
    profile: Profile,
    folder: Path,
    limit_s: float = 600.0,
    progress: Callable[[str], None] = lambda text: None,
) -> list[Finding]:
    """Check a profile, the run folder and, on a cluster, its nodes.

    Parameters
    ----------
    folder : Path
        The folder of runs; created if it does not exist.
    limit_s : float
        Longest time for the probes on the nodes, including the wait in the queue (s).
    progress : callable
        Called with a few words whenever the doctor waits for something else.
    """
    progress("the file system")
    found = [finding.at("this machine") for finding in _check_run_folder(folder)]
    if profile.scheduler == "local":
        return [*found, *(finding.at("this machine") for finding in _check_machine(profile))]
    try:
        found += _check_cluster(profile, folder, limit_s, progress)
    except SlurmUnavailable as error:
        remedy = "run the doctor on a login node; load the cluster's SLURM module if it has one"
        found.append(failure("slurm", str(error), remedy).at("login node"))
    return found


def _check_run_folder(folder: Path) -> list[Finding]:
    own = folder / f".gradenc-doctor-{uuid4().hex[:8]}"
    try:
        make_folder(folder)
        own.mkdir()
    except OSError as error:
        remedy = "give --folder a folder that you may write to"
        return [failure("run folder", f"{folder}: {error.strerror or error}", remedy)]
    try:
        return [*check_folder(own), check_space(folder)]
    finally:
        own.rmdir()


def _check_machine(profile: Profile) -> list[Finding]:
    """Compare processors and free memory with the needs of each local stage."""
    cores = len(os.sched_getaffinity(0))
    free_gb = psutil.virtual_memory().available / 1024**3
    found = []
    for stage in STAGES:
        how = profile.stage(stage)
        if how.slots * how.cpus > cores:
            sentence = f"{stage}: {how.slots * how.cpus} threads at once on {cores} processors"
            remedy = "lower slots, threads or dask_workers: threads without a processor only wait"
            found.append(warning("processors", sentence, remedy))
        processes = how.slots * how.dask_workers
        if processes * _PROCESS_GB > free_gb:
            sentence = (
                f"{stage}: {processes} process(es) at once may take "
                f"{processes * _PROCESS_GB:g} GB, and {free_gb:.1f} GB are free"
            )
            found.append(
                warning("memory", sentence, "lower slots or dask_workers, or free some memory")
            )
    return found or [ok("machine", f"{cores} processors and {free_gb:.1f} GB free are enough")]


def _check_cluster(
    profile: Profile, folder: Path, limit_s: float, progress: Callable[[str], None]
) -> list[Finding]:
    from hpc.doctor.cluster_checks import check_cluster
    from hpc.doctor.probe_jobs import check_nodes

    progress("the cluster")
    found = check_cluster(profile)
    if folder.is_dir():
        found += check_nodes(profile, folder, limit_s, progress)
    return found
