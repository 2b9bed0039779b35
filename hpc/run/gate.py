"""Gates: small jobs that advance a run on a cluster when nobody is logged in.

A gate waits for the tasks at work, then advances the run (`hpc.run.gate_job`), which starts the
next gate. It may be killed, start early or run beside another gate: a step is idempotent, and any
process may take it.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from hpc.config.profile import Profile
from hpc.run.folder import RunFolder
from hpc.run.submit import job_prefix
from hpc.slurm.jobs import Job, State
from hpc.slurm.queue import queue
from hpc.slurm.submit import call, start_job

JOB = "hpc.run.gate_job:run_gate"
"""The function that a gate runs. It is named, not imported: it starts the next gate by this module,
so an import would make a circle."""
LATER = "now+60"
"""When a gate starts that has no job to wait for (SLURM's form)."""


def living_gate(run: RunFolder) -> Job | None:
    """Return a gate of the run that runs or waits, other than this process's own job."""
    return gate_among(run, queue([gate_name(run)]))


def gate_among(run: RunFolder, queued: Iterable[Job]) -> Job | None:
    """Return the run's living gate among the jobs of SLURM's queue."""
    return next(_gates(run, queued), None)


def _gates(run: RunFolder, queued: Iterable[Job]) -> Iterator[Job]:
    name, own = gate_name(run), os.environ.get("SLURM_JOB_ID")
    return (job for job in queued if job.name == name and job.alive and job.job_id != own)


def _is_to_come(run: RunFolder, gate: Job) -> bool:
    """Return whether a gate will still read the run's state, and has not done so already."""
    if gate.state == State.COMPLETING:
        return False
    return not begun_mark(run, gate.job_id, gate.restarts).exists()


def ensure_gate(run: RunFolder, profile: Profile, waits_for: Iterable[str]) -> None:
    """Start a gate that runs when these jobs have ended, unless one waits; the lock is held."""
    if any(_is_to_come(run, gate) for gate in _gates(run, queue([gate_name(run)]))):
        return
    arrays = dict.fromkeys(job_id.partition("_")[0] for job_id in waits_for)
    when = {"dependency": f"afterany:{':'.join(arrays)}"} if arrays else {"begin": LATER}
    start_job(
        gate_name(run),
        run.path / "gates",
        call,
        (JOB, str(run.path.resolve())),
        profile.gate,
        **when,
    )


def gate_name(run: RunFolder) -> str:
    """Return the name of the run's gates in the queue."""
    return f"{job_prefix(run)}-gate"


def begun_mark(run: RunFolder, job_id: str, restarts: int) -> Path:
    """Return the file that a gate leaves when it begins: it may miss changes after that."""
    return run.path / "gates" / f"{job_id}.{restarts}.begun.json"
