"""The log files of tasks, and how to follow them while tasks write."""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from hpc.run.folder import RunFolder

_POLL_S = 1.0
_LINES = 20
"""Number of lines shown from the end of a log."""


def logs_of_job(run: RunFolder, job_id: str) -> list[Path]:
    """Return the log files of a job of the run, one per rank."""
    return sorted((run.path / "submissions").glob(f"*/log/{job_id}_*_log.out"))


def logs_in(folder: Path) -> list[Path]:
    """Return the log files in a folder, sorted by the time of the last change."""
    return sorted(folder.glob("*_log.out"), key=lambda path: path.stat().st_mtime)


def last_lines(path: Path) -> list[str]:
    """Return the last lines of a log."""
    return path.read_text(errors="replace").splitlines()[-_LINES:]


def follow(
    files: Callable[[], Iterable[Path]], goes_on: Callable[[], bool], ask_every_s: float
) -> Iterator[tuple[Path, str]]:
    """Yield (file, line) as lines are written, until no task writes any more.

    Parameters
    ----------
    files : callable
        Returns the files to read; called repeatedly, since tasks start later.
    goes_on : callable
        Returns whether a task may still write.
    ask_every_s : float
        Pause between calls of `goes_on` (s), which may ask a scheduler.
    """
    read: dict[Path, int] = {}
    while True:
        asked, on = time.monotonic(), goes_on()
        while True:
            for path in files():
                yield from ((path, line) for line in _new_lines(path, read, rest=not on))
            if not on:
                return
            time.sleep(_POLL_S)
            if time.monotonic() - asked >= ask_every_s:
                break


def _new_lines(path: Path, read: dict[Path, int], rest: bool) -> Iterator[str]:
    """Yield the unread lines of a file; an unfinished last line only if `rest` is set."""
    with path.open("rb") as stream:
        stream.seek(read.get(path, 0), os.SEEK_SET)
        for line in stream:
            if not (rest or line.endswith(b"\n")):
                return
            read[path] = stream.tell()
            yield line.rstrip(b"\n").decode(errors="replace")
