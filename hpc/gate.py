"""Gates: small jobs that advance a run on a cluster when nobody is logged in.

A gate waits for the tasks at work, then calls `advance`, which starts the next gate. It may be
killed, start early or meet another: `advance` is idempotent and does not care who calls it.
"""

import os
import time
from collections.abc import Iterable
from pathlib import Path

from hpc.folder import RunFolder
from hpc.profile import Profile
from hpc.slurm.client import SlurmUnavailable
from hpc.slurm.jobs import Job
from hpc.slurm.queue import queue
from hpc.slurm.submit import start_job
from hpc.submit import job_prefix

LATER = "now+60"
"""When a gate looks again that has no job to wait for (SLURM's form)."""
PATIENCE_S = 600.0
POLL_S = 15.0


def run_gate(path: str) -> None:
    """Advance the run in folder `path` one step, waiting out a scheduler that does not answer."""
    from hpc.drive import step

    run = RunFolder.open(Path(path))
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            step(run, run.profile())
        except SlurmUnavailable as error:
            print(f"again in {POLL_S:.0f} s: {error}", flush=True)
            if time.monotonic() > deadline:
                raise
            time.sleep(POLL_S)
        else:
            return


def living_gate(run: RunFolder) -> Job | None:
    """Return a gate of the run that runs or waits, other than this process's own job."""
    return gate_among(run, queue([gate_name(run)]))


def gate_among(run: RunFolder, queued: Iterable[Job]) -> Job | None:
    """Return the run's living gate among the jobs of SLURM's queue."""
    name, own = gate_name(run), os.environ.get("SLURM_JOB_ID")
    gates = (job for job in queued if job.name == name and job.alive and job.job_id != own)
    return next(gates, None)


def ensure_gate(run: RunFolder, profile: Profile, waits_for: Iterable[str]) -> None:
    """Start a gate that runs when these jobs have ended, unless there is one; the lock is held."""
    if living_gate(run) is not None:
        return
    arrays = dict.fromkeys(job_id.partition("_")[0] for job_id in waits_for)
    when = {"dependency": f"afterany:{':'.join(arrays)}"} if arrays else {"begin": LATER}
    start_job(
        gate_name(run),
        run.path / "gates",
        run_gate,
        (str(run.path.resolve()),),
        profile.gate,
        **when,
    )


def gate_name(run: RunFolder) -> str:
    """Return the name of the run's gates in the queue."""
    return f"{job_prefix(run)}-gate"
