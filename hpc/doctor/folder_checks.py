"""Checks of a folder's file system: the operations that stores, leases and locks rely on."""

import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hpc.doctor.findings import Finding, failure, ok, warning
from storage_schemas.files import NO_LINKS, replace, sync_folder, write_exclusive

_LITTLE_SPACE = 10 * 1024**3
"""Free bytes below which a run is likely to fill the disk."""


def check_folder(folder: Path) -> list[Finding]:
    """Try the file operations of a run in `folder` and remove the files written for it.

    Parameters
    ----------
    folder : Path
        An existing folder that no other process writes to.
    """
    checks = (_check_link, _check_exclusive, _check_rename, _check_flush, _check_lock)
    findings = [finding for check in checks if (finding := _tried(check, folder))]
    good = "links, exclusive names, renames, flushes and locks work"
    return findings or [ok("file system", good)]


def _tried(check: Callable[[Path], Finding | None], folder: Path) -> Finding | None:
    try:
        return check(folder)
    except OSError as error:
        name = check.__name__.removeprefix("_check_")
        remedy = "keep runs on another file system, or ask its administrators about this operation"
        return failure("file system", f"{name} in {folder}: {error.strerror or error}", remedy)


def _check_link(folder: Path) -> Finding | None:
    one, two = folder / "link.one", folder / "link.two"
    with _removed(one, two):
        one.touch()
        try:
            os.link(one, two)
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            remedy = "none is needed: files are then created exclusively under their own names"
            return warning("file system", f"{folder} has no hard links", remedy)
    return None


def _check_exclusive(folder: Path) -> None:
    path = folder / "exclusive"
    with _removed(path):
        if not write_exclusive(path, b"1") or write_exclusive(path, b"2"):
            raise OSError(errno.EEXIST, "two writers could both create the same file")


def _check_rename(folder: Path) -> None:
    path = folder / "renamed"
    with _removed(path):
        replace(path, b"1")
        replace(path, b"2")
        if path.read_bytes() != b"2":
            raise OSError(errno.EIO, "a replaced file still reads as before")


def _check_flush(folder: Path) -> None:
    path = folder / "flushed"
    with _removed(path), path.open("wb") as stream:
        stream.write(b"1")
        stream.flush()
        os.fsync(stream.fileno())
        sync_folder(folder)


def _check_lock(folder: Path) -> None:
    path = folder / "lock"
    with _removed(path), hold(path):
        if not locked_by_another(path):
            raise OSError(errno.ENOLCK, "two processes held the same lock (flock)")


@contextmanager
def hold(path: Path) -> Iterator[None]:
    """Create a file and hold a lock on it; fails at once if it is locked."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def locked_by_another(path: Path) -> bool:
    """Return whether another process holds the lock on a file."""
    try:
        with hold(path):
            return False
    except BlockingIOError:
        return True


def check_space(folder: Path) -> Finding:
    """Report the free space of a folder's file system."""
    free = shutil.disk_usage(folder).free
    sentence = f"{free / 1024**3:.0f} GB are free in {folder}"
    if free < _LITTLE_SPACE:
        return warning(
            "space", sentence, "free some space; `gradenc plan STUDY` prints how much a run needs"
        )
    return ok("space", sentence)


@contextmanager
def _removed(*paths: Path) -> Iterator[None]:
    try:
        yield
    finally:
        for path in paths:
            path.unlink(missing_ok=True)
