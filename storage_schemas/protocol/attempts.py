"""Attempts at a unit; the newest one's file is the lease on it.

An attempt of generation n is a file created exclusively, so one of two racing processes gets it.
The holder of a unit is its highest generation. A dead holder is superseded by n + 1, never removed;
if it was only stalled, it notices at its commit that it no longer holds the unit.
"""

import os
import platform
import re
import time
from collections.abc import Container
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gradenc_errors import GradencError
from storage_schemas import files
from storage_schemas.identity import canonical_json
from storage_schemas.protocol.store import Store, Unit, scan, subfolder

HEARTBEAT_LIMIT_S = 120.0
"""Time without a heartbeat after which a holder that cannot be looked up here counts as dead."""
FROZEN_LIMIT_S = 600.0
"""Time without a heartbeat after which even a process that exists counts as dead."""

NAME = re.compile(r"(\d+)\.(\d+)\.json")
Ending = Literal["committed", "failed", "stopped"]


class Used(BaseModel):
    """What an attempt used; None where that is not known."""

    model_config = ConfigDict(frozen=True)

    seconds: float | None = None
    max_rss: int | None = None
    """Largest resident memory of its process so far (bytes)."""
    gpu: str | None = None
    """Type of the GPU; None without one."""


class AttemptRecord(BaseModel):
    """An attempt as its file says: who made it, and how it ended."""

    model_config = ConfigDict(frozen=True)

    unit: str
    n: int
    """Its generation, from 1."""
    job: str
    """Id of the job that made it."""
    restarts: int = 0
    """How often the scheduler had put that job back into the queue when the attempt began."""
    round: int
    """How often the user had asked for failed units to be tried again."""
    host: str
    pid: int
    pid_start: int | None
    boot_id: str | None
    started: str
    outcome: Literal["running", "committed", "failed", "stopped"] = "running"
    finished: str | None = None
    error: str | None = None
    """First line of the exception."""
    traceback: str | None = None
    used: Used = Used()
    heartbeat: float = Field(default=0.0, exclude=True)
    """When its file was last touched (s since 1970); not in the file."""

    @property
    def job_and_restarts(self) -> str:
        """The job as people read it: ``123_4``, or ``123_4 restart 1``."""
        return f"{self.job} restart {self.restarts}" if self.restarts else self.job


class LostLease(GradencError, RuntimeError):
    """Another attempt has taken over this attempt's unit."""


@dataclass(frozen=True)
class Attempt:
    """One try at a unit, holding it until a later generation exists."""

    path: Path
    index: int
    n: int
    record: AttemptRecord

    @property
    def unit(self) -> str:
        """Identifier of the unit."""
        return self.record.unit

    def require_lease(self) -> None:
        """Do nothing if this attempt still holds its unit.

        Raises
        ------
        LostLease
            If a later attempt exists.
        """
        highest = max(_generations(self.path.parent, self.index), default=0)
        if highest != self.n:
            raise LostLease(
                f"unit {self.unit}: attempt {self.n} was taken for dead and superseded by attempt "
                f"{highest}; its result is dropped, nothing needs to be done"
            )

    def heartbeat(self) -> None:
        """Say that the holder is alive, to readers that cannot look up its process."""
        os.utime(self.path)

    def finish(
        self,
        outcome: Ending,
        error: str | None = None,
        traceback: str | None = None,
        used: Used | None = None,
    ) -> None:
        """Record how the attempt ended, which frees the unit.

        Parameters
        ----------
        outcome : {"committed", "failed", "stopped"}
        error : str, optional
            The exception; its first line is kept.
        traceback : str, optional
        used : Used, optional
        """
        ending = {
            "outcome": outcome,
            "finished": _now(),
            "error": error.strip().partition("\n")[0] if error else None,
            "traceback": traceback,
            "used": used or Used(),
        }
        ended = self.record.model_copy(update=ending)
        files.replace(self.path, _as_json(ended))


def begin(store: Store, unit: Unit, job: str, round_: int, restarts: int = 0) -> Attempt | None:
    """Take a unit, or return None if a living attempt holds it.

    Parameters
    ----------
    job : str
        Id of the job that asks.
    round_ : int
        How often the user has asked for failed units to be tried again.
    restarts : int
        How often the scheduler has put the job back into the queue.

    Raises
    ------
    OSError
        If the attempt's file cannot be written.
    """
    folder = store.path / "attempts" / subfolder(unit.index)
    latest = max(_generations(folder, unit.index), default=0)
    if latest and is_alive(_read(_path(folder, unit.index, latest))):
        return None
    record = _first_record(store.unit_id(unit), latest + 1, job, round_, restarts)
    path = _path(folder, unit.index, latest + 1)
    # Exclusive: of several processes that saw the same generation end, one gets the next.
    if not files.write_exclusive(path, _as_json(record)):
        return None
    return Attempt(path, unit.index, latest + 1, record)


def is_alive(record: AttemptRecord) -> bool:
    """Say whether the process of an attempt still runs.

    On the same boot of the same machine the process is looked up, with its start time because
    numbers are used again; a frozen one counts as dead after a while. Anywhere else, and where it
    is hidden from us, the heartbeat decides.
    """
    if record.outcome != "running":
        return False
    silent_s = time.time() - record.heartbeat
    boot_id = _boot_id()
    if boot_id and record.boot_id == boot_id and not _is_hidden(record.pid):
        return silent_s < FROZEN_LIMIT_S and process_is_alive(record.pid, record.pid_start)
    return silent_s < HEARTBEAT_LIMIT_S


def process_is_alive(pid: int, started: int | None) -> bool:
    """Say whether the process with this number and `start_time` still runs on this machine."""
    return started is not None and start_time(pid) == started


def start_time(pid: int) -> int | None:
    """Return a process's start (clock ticks since boot), or None if it is gone or a zombie."""
    stat = _proc(f"/proc/{pid}/stat")
    if stat is None:
        return None
    # The second field, the command in brackets, may itself hold spaces and brackets.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


def attempts_of(store: Store, index: int) -> list[AttemptRecord]:
    """Return all attempts at one unit, oldest first."""
    folder = store.path / "attempts" / subfolder(index)
    return [_read(_path(folder, index, n)) for n in sorted(_generations(folder, index))]


def latest_attempts(store: Store, skip: Container[int] = ()) -> dict[int, AttemptRecord]:
    """Return the newest attempt of every unit that has one, in one pass over the folder.

    Parameters
    ----------
    skip : container of int
        Units whose attempts are not read, e.g. those that are committed.

    Returns
    -------
    dict
        Unit index -> record.
    """
    latest: dict[int, tuple[int, str]] = {}
    for entry in scan(store.path / "attempts"):
        match = NAME.fullmatch(entry.name)
        if match and int(match[1]) not in skip:
            index, n = int(match[1]), int(match[2])
            latest[index] = max(latest.get(index, (0, "")), (n, entry.path))
    return {index: _read(Path(path)) for index, (_, path) in latest.items()}


def _first_record(unit_id: str, n: int, job: str, round_: int, restarts: int) -> AttemptRecord:
    pid = os.getpid()
    return AttemptRecord(
        unit=unit_id,
        n=n,
        job=job,
        restarts=restarts,
        round=round_,
        host=platform.node(),
        pid=pid,
        pid_start=start_time(pid),
        boot_id=_boot_id(),
        started=_now(),
    )


def _as_json(record: AttemptRecord) -> bytes:
    return canonical_json(record.model_dump(mode="json"))


def _path(folder: Path, index: int, n: int) -> Path:
    return folder / f"{index:05d}.{n}.json"


def _generations(folder: Path, index: int) -> list[int]:
    try:
        matches = [NAME.fullmatch(name) for name in os.listdir(folder)]
    except FileNotFoundError:
        return []
    return [int(match[2]) for match in matches if match and int(match[1]) == index]


def _read(path: Path) -> AttemptRecord:
    """Read an attempt; a damaged one counts as running until its heartbeat is old."""
    try:
        record = AttemptRecord.model_validate_json(path.read_bytes())
    except ValidationError:
        record = _damaged(path)
    return record.model_copy(update={"heartbeat": path.stat().st_mtime})


def _damaged(path: Path) -> AttemptRecord:
    return AttemptRecord(
        unit="unknown",
        n=int(path.name.split(".")[1]),
        job="unknown",
        round=0,
        host="unknown",
        pid=0,
        pid_start=None,
        boot_id=None,
        started="unknown",
        error=f"the attempt's record {path} is damaged",
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _boot_id() -> str | None:
    """Name the boot, and the container in it, within which process numbers are unique."""
    boot = _proc("/proc/sys/kernel/random/boot_id")
    try:
        return boot and f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except FileNotFoundError:  # a kernel without namespaces
        return boot


def _is_hidden(pid: int) -> bool:
    """Say whether a process runs that /proc does not show: another user's, under ``hidepid``."""
    if _proc(f"/proc/{pid}/stat") is not None:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _proc(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
