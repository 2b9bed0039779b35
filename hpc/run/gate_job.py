"""What a gate's job runs: one step of its run, with patience for SLURM."""

import os
import signal
import time
from pathlib import Path
from types import FrameType

from hpc.run.drive import step
from hpc.run.folder import RunFolder
from hpc.run.gate import begun_mark
from hpc.run.notify import notify
from hpc.slurm.client import SlurmUnavailable
from hpc.slurm.client import run as slurm
from storage_schemas.files import write_exclusive

PATIENCE_S = 600.0
POLL_S = 15.0


def run_gate(path: str) -> None:
    """Take the run in folder `path` one step further, with patience for SLURM.

    If SLURM refuses for long, as with a queue that is full for hours, the gate requeues itself.
    """
    run = RunFolder.open(Path(path))
    _go_on_when_warned(run.profile().gate.timeout_minutes * 60)
    job_id, restarts = os.environ["SLURM_JOB_ID"], int(os.environ.get("SLURM_RESTART_COUNT") or 0)
    write_exclusive(begun_mark(run, job_id, restarts), b"{}")
    try:
        _advance(run)
    except SlurmUnavailable as error:
        notify(run, f"{run.path} waits for SLURM: {error}")
        slurm("scontrol", "requeue", job_id)
    except Exception as error:
        notify(run, f"{run.path} is left by its gate ({error}): see `gradenc status {run.path}`")
        raise


def _go_on_when_warned(limit_s: float) -> None:
    """Ignore the warning before a preemption; raise at the warning before the time limit.

    submitit would end the gate at either, but SLURM requeues a preempted gate that it has to kill.
    """
    began = time.monotonic()

    def warned(signum: int, frame: FrameType | None) -> None:
        if time.monotonic() - began > limit_s / 2:
            raise TimeoutError(
                f"its {limit_s / 60:.0f} minutes are over: raise timeout_minutes in [gate] of the "
                "profile, then resume the run"
            )

    signal.signal(signal.SIGUSR2, warned)


def _advance(run: RunFolder) -> None:
    profile = run.profile()
    # Half of its time limit at most: only a gate that ends by itself can requeue itself.
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
