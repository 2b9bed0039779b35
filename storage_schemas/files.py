"""Durable files: each function returns only when a power cut could no longer undo what it did."""

import errno
import fcntl
import hashlib
import json
import os
import stat
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import google_crc32c

from gradenc_errors import Remedy

BLOCK = 1 << 20
NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
"""Errors of file systems without hard links (FAT, some FUSE and BeeGFS set-ups)."""
PARTIAL = ".partial"
"""Ending of files that are being written, here and in zarr's local store."""


def write_exclusive(path: Path, data: bytes) -> bool:
    """Create a file whole, or not at all; return False if it already exists.

    Raises
    ------
    OSError
        Naming the file and the remedy: full disk, no permission, no hard links.
    """
    make_folder(path.parent)
    with explained("create", path), _temporary(path, data) as temporary:
        try:
            # A link, unlike a rename, fails when the name is taken: the first writer wins.
            os.link(temporary, path)
        except FileExistsError:
            # NFS repeats a request whose answer was lost; the name may be taken by ourselves.
            if temporary.stat().st_nlink == 1:
                return False
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            if not _create_in_place(path, data):
                return False
    sync_folder(path.parent)
    return True


def replace(path: Path, data: bytes) -> None:
    """Replace (or create) a file: readers see the old content or the new one, nothing between.

    Raises
    ------
    OSError
        Naming the file and the remedy.
    """
    make_folder(path.parent)
    with explained("write", path), _temporary(path, data) as temporary:
        os.replace(temporary, path)
    sync_folder(path.parent)


def remove(path: Path) -> None:
    """Delete a file if it is there."""
    with explained("delete", path):
        try:
            path.unlink()
        except FileNotFoundError:
            return
    sync_folder(path.parent)


def remove_partials(paths: Iterable[Path]) -> None:
    """Delete the partial files that killed writers of these files left beside them."""
    names: dict[Path, set[str]] = {}
    for path in paths:
        names.setdefault(path.parent, set()).add(path.name)
    for folder, owned in names.items():
        for orphan in _partials(folder):
            if _final_name(orphan.name) in owned:
                remove(orphan)


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the JSON object in a file, or None if it is missing, torn or something else."""
    try:
        value = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def checksum(path: Path) -> str:
    """Return the crc32c of a file (8 hex digits)."""
    total = google_crc32c.Checksum()
    with path.open("rb") as stream:
        while block := stream.read(BLOCK):
            total.update(block)
    return str(total.hexdigest().decode("ascii"))


def file_digest(path: Path) -> str:
    """Return the sha256 of a file (64 hex digits)."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def make_folder(folder: Path) -> None:
    """Create a folder and its parents, each entry durable."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    with explained("create", folder):
        folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


def sync_file(path: Path) -> None:
    """Force a file's content to the disk."""
    _sync(path, os.O_RDONLY)


def sync_folder(folder: Path) -> None:
    """Force a folder's entries to the disk: a new name is lost without it."""
    _sync(folder, os.O_RDONLY | os.O_DIRECTORY)


def sync_tree(folder: Path) -> None:
    """Force all files and folders below (and with) a folder to the disk."""
    for parent, _, names in os.walk(folder, topdown=False):
        for name in names:
            sync_file(Path(parent, name))
        sync_folder(Path(parent))


def relocate(temporary: Path, final: Path) -> bool:
    """Rename a finished folder to its final name; return False if that is already there."""
    try:
        temporary.rename(final)
    except OSError:
        if final.is_dir():
            return False
        raise
    sync_folder(final.parent)
    return True


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock that dies with its process; the file stays, empty."""
    make_folder(path.parent)
    with explained("lock", path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def follow_group(folder: Path) -> None:
    """Let the group write what this process creates, where the folder is shared with its group.

    Shared means setgid and group-writable (``chmod g+ws``), as labs set up a common folder; most
    users' umask would keep the others from adding units below it.
    """
    existing = next(f for f in (folder.absolute(), *folder.absolute().parents) if f.exists())
    mode = existing.stat().st_mode
    if mode & stat.S_ISGID and mode & stat.S_IWGRP:
        os.umask(os.umask(0o022) & ~0o070)


@contextmanager
def explained(action: str, path: Path) -> Iterator[None]:
    """Make errors of the file system name the path and the remedy, keeping their class."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        sentence = (
            f"cannot {action} it ({reason}); check the free space, quota, permissions and hard "
            "links of this file system"
        )
        explained_error = OSError(error.errno, sentence, str(path))
        explained_error.add_note(Remedy.RESUME)
        raise explained_error from error


@contextmanager
def _temporary(path: Path, data: bytes) -> Iterator[Path]:
    """Give a durable file with this content, beside `path`; it is gone afterwards."""
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}{PARTIAL}")
    try:
        # Not mkstemp: its files are private, and stores are shared within a lab's group.
        with temporary.open("xb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _create_in_place(path: Path, data: bytes) -> bool:
    """Create a file exclusively under its own name; a kill may leave it torn.

    Every reader of such a file treats one that does not parse as absent.
    """
    try:
        with path.open("xb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
    except FileExistsError:
        return False
    return True


def _sync(path: Path, flags: int) -> None:
    with explained("flush", path):
        descriptor = os.open(path, flags)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _partials(folder: Path) -> list[Path]:
    try:
        return [Path(entry.path) for entry in os.scandir(folder) if entry.name.endswith(PARTIAL)]
    except FileNotFoundError:
        return []


def _final_name(partial: str) -> str:
    """``00007.json.<uuid>.partial`` -> ``00007.json``; zarr's ``3.<uuid>.partial`` -> ``3``."""
    return partial.removesuffix(PARTIAL).rpartition(".")[0]
