"""Gates: small jobs that advance a run on a cluster when nobody is logged in.

A gate waits for the tasks at work, then calls `advance`, which starts the next gate. It may be
killed, start early or meet another: `advance` is idempotent and does not care who calls it.
"""

import os
import signal
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FrameType

from hpc.config.profile import Profile
from hpc.run.folder import RunFolder
from hpc.run.submit import job_prefix
from hpc.slurm.client import SlurmUnavailable
from hpc.slurm.client import run as slurm
from hpc.slurm.jobs import Job, State
from hpc.slurm.queue import queue
from hpc.slurm.submit import start_job
from storage_schemas.files import write_exclusive

LATER = "now+60"
"""When a gate looks again that has no job to wait for (SLURM's form)."""
PATIENCE_S = 600.0
POLL_S = 15.0


def run_gate(path: str) -> None:
    """Advance the run in folder `path` one step, waiting out a scheduler that does not answer.

    Where that lasts, as with a queue that is full for hours, the gate puts itself back into it.
    """
    from hpc.run.notify import notify

    run = RunFolder.open(Path(path))
    _go_on_when_warned(run.profile().gate.timeout_minutes * 60)
    job_id, restarts = os.environ["SLURM_JOB_ID"], int(os.environ.get("SLURM_RESTART_COUNT") or 0)
    write_exclusive(_begun(run, job_id, restarts), b"{}")
    try:
        _advance(run)
    except SlurmUnavailable as error:
        notify(run, f"{run.path} waits for SLURM: {error}")
        slurm("scontrol", "requeue", job_id)
    except Exception as error:
        notify(run, f"{run.path} is left by its gate ({error}): see `gradenc status {run.path}`")
        raise


def _go_on_when_warned(limit_s: float) -> None:
    """Let the signal before a preemption pass, and the one before the time limit say so.

    submitit would end the gate at either; SLURM requeues one that it has to kill for its place.
    """
    began = time.monotonic()

    def warned(signum: int, frame: FrameType | None) -> None:
        if time.monotonic() - began > limit_s / 2:
            raise TimeoutError(
                f"its {limit_s / 60:.0f} minutes are over: raise timeout_minutes in [gate] of the "
                "profile, then `gradenc resume`"
            )

    signal.signal(signal.SIGUSR2, warned)


def _advance(run: RunFolder) -> None:
    from hpc.run.drive import step

    profile = run.profile()
    # Half its time at most: it must end by itself to go on later.
    deadline = time.monotonic() + min(PATIENCE_S, profile.gate.timeout_minutes * 60 / 2)
    while True:
        try:
            step(run, profile)
        except SlurmUnavailable as error:
            print(f"again in {POLL_S:.0f} s: {error}", flush=True)
            if time.monotonic() > deadline:
                raise
            time.sleep(POLL_S)
        else:
            return


def _begun(run: RunFolder, job_id: str, restarts: int) -> Path:
    """Name the mark of a gate that looks at the run: what changes from now on it may not see."""
    return run.path / "gates" / f"{job_id}.{restarts}.begun.json"


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
    """Say whether a gate will still look at the run, and is not about to end after it did."""
    if gate.state == State.COMPLETING:
        return False
    return not _begun(run, gate.job_id, gate.restarts).exists()


def ensure_gate(run: RunFolder, profile: Profile, waits_for: Iterable[str]) -> None:
    """Start a gate that runs when these jobs have ended, unless one will; the lock is held."""
    if any(_is_to_come(run, gate) for gate in _gates(run, queue([gate_name(run)]))):
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
