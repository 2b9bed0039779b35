"""The output of tasks: which files hold it, and how to read on while it grows."""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from hpc.run.folder import RunFolder

POLL_S = 1.0
LINES = 20
"""Lines at the end of a log that are shown of a task that nobody asked about by name."""


def logs_of_job(run: RunFolder, job_id: str) -> list[Path]:
    """Return the log files of one job of the run, one for each of its ranks."""
    return sorted((run.path / "submissions").glob(f"*/log/{job_id}_*_log.out"))


def logs_in(folder: Path) -> list[Path]:
    """Return the log files that tasks left in a folder, the one last written to at the end."""
    return sorted(folder.glob("*_log.out"), key=lambda path: path.stat().st_mtime)


def last_lines(path: Path) -> list[str]:
    """Return the end of a log."""
    return path.read_text(errors="replace").splitlines()[-LINES:]


def follow(
    files: Callable[[], Iterable[Path]], goes_on: Callable[[], bool], ask_every_s: float
) -> Iterator[tuple[Path, str]]:
    """Yield (file, line) as lines are written, until nobody writes any more.

    Parameters
    ----------
    files : callable
        Returns the files to read; asked again and again, because tasks start later.
    goes_on : callable
        Says whether somebody may still write.
    ask_every_s : float
        How often `goes_on` is called (s): it may be a question to a scheduler.
    """
    read: dict[Path, int] = {}
    while True:
        asked, on = time.monotonic(), goes_on()
        while True:
            for path in files():
                yield from ((path, line) for line in _new_lines(path, read, rest=not on))
            if not on:
                return
            time.sleep(POLL_S)
            if time.monotonic() - asked >= ask_every_s:
                break


def _new_lines(path: Path, read: dict[Path, int], rest: bool) -> Iterator[str]:
    """Yield the lines behind what was read of a file; a begun one too if it is all the `rest`."""
    with path.open("rb") as stream:
        stream.seek(read.get(path, 0), os.SEEK_SET)
        for line in stream:
            if not (rest or line.endswith(b"\n")):
                return
            read[path] = stream.tell()
            yield line.rstrip(b"\n").decode(errors="replace")
