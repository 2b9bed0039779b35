"""A job of SLURM, in one form for the records of squeue and sacct."""

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """The states that squeue and sacct print, and one for words that are not among them."""

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
"""States in which no process of a job is left, unless SLURM requeues it."""


@dataclass(frozen=True)
class Job:
    """A job, or a task of an array; for a requeued job its newest record."""

    job_id: str
    """As SLURM writes it: ``123`` or ``123_4``."""
    name: str
    state: State
    reason: str = ""
    user: str = ""
    node: str = ""
    """Nodes on which it runs or ran; empty before it started."""
    exit_code: int = 0
    signal: int = 0
    """The signal that ended it; 0 if none did."""
    restarts: int = 0
    """How often SLURM requeued it."""
    elapsed_s: float = 0.0
    earlier_s: float = 0.0
    """Elapsed time of its runs before it was requeued (s), if accounting has them."""
    limit_s: float | None = None
    cpus: int = 0
    cpu_s: float | None = None
    """Processor time (s); None if unknown."""
    gpus: int = 0
    max_rss: int | None = None
    """Largest resident memory of a step (bytes); None if unknown."""
    requested_memory: int | None = None
    """Requested memory per node (bytes); None if unknown."""
    cancelled_by: str = ""
    """Name or uid of the user who cancelled it; empty if nobody did."""

    @property
    def alive(self) -> bool:
        """Whether it runs or may still run; an unrecognised state counts as alive."""
        return self.state not in ENDED
