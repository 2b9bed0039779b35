"""What SLURM says of a job: one record from whichever of its commands knew it."""

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """Every state that squeue and sacct may print, and one for a word that none of us knows."""

    PENDING = "PENDING"
    CONFIGURING = "CONFIGURING"
    RUNNING = "RUNNING"
    COMPLETING = "COMPLETING"
    STAGE_OUT = "STAGE_OUT"
    SUSPENDED = "SUSPENDED"
    STOPPED = "STOPPED"
    SIGNALING = "SIGNALING"
    RESIZING = "RESIZING"
    REQUEUED = "REQUEUED"
    REQUEUE_FED = "REQUEUE_FED"
    REQUEUE_HOLD = "REQUEUE_HOLD"
    SPECIAL_EXIT = "SPECIAL_EXIT"
    RESV_DEL_HOLD = "RESV_DEL_HOLD"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    TIMEOUT = "TIMEOUT"
    DEADLINE = "DEADLINE"
    NODE_FAIL = "NODE_FAIL"
    BOOT_FAIL = "BOOT_FAIL"
    PREEMPTED = "PREEMPTED"
    CANCELLED = "CANCELLED"
    REVOKED = "REVOKED"
    UNRECOGNISED = "UNRECOGNISED"


ENDED = frozenset(
    {
        State.COMPLETED,
        State.FAILED,
        State.OUT_OF_MEMORY,
        State.TIMEOUT,
        State.DEADLINE,
        State.NODE_FAIL,
        State.BOOT_FAIL,
        State.PREEMPTED,
        State.CANCELLED,
        State.REVOKED,
    }
)
"""States of a job of which no process is left, unless SLURM requeues it; all others are alive."""


@dataclass(frozen=True)
class Job:
    """One job, or one task of an array; of a requeued one, its newest record."""

    job_id: str
    """As SLURM writes it: ``123`` or ``123_4``."""
    name: str
    state: State
    reason: str = ""
    user: str = ""
    node: str = ""
    """Nodes it runs or ran on; empty before it started."""
    exit_code: int = 0
    signal: int = 0
    """Number of the signal that ended it; 0 if none did."""
    restarts: int = 0
    """How often SLURM put it back into the queue."""
    elapsed_s: float = 0.0
    earlier_s: float = 0.0
    """Time of its runs before it was put back into the queue, where accounting knows them."""
    limit_s: float | None = None
    cpus: int = 0
    cpu_s: float | None = None
    """Processor time used; None where not known."""
    gpus: int = 0
    max_rss: int | None = None
    """Largest resident memory of a step (bytes); None where not known."""
    requested_memory: int | None = None
    """Memory of a node that it asked for (bytes); None where not known."""
    cancelled_by: str = ""
    """Who cancelled it (a name or uid), if somebody did."""

    @property
    def alive(self) -> bool:
        """Whether it runs or may still run; a state nobody recognises counts as alive."""
        return self.state not in ENDED
