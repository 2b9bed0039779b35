"""Digests of images and recordings, kept between commands so that a large file is read once.

A file counts as unchanged while its path, size, time of change (ns) and inode are those that it had
when it was read. A digest is kept only if it is certain to be of that state: the file was the same
before and after it was read, and had not been written just before, since a second change within the
clock's granularity would leave the same time. Each user has a file of their own, which no other
user's digests enter; a file that is damaged or cannot be written costs time and nothing else.
"""

import json
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from storage_schemas.files import read_json, replace

RECENT_S = 2.0
"""A file that was written less than this before it was read may be written again unnoticed (s)."""

Entry = list[Any]
"""Size, time of change (ns) and inode of a file, then the digests of what it holds."""


class DigestCache:
    """The digests that one user's commands have found, kept when its context ends in any way.

    Parameters
    ----------
    folders : sequence of Path
        Where digests are kept; those that are found go into the last.
    believe : bool
        If false, every file is read again and its digest replaced.
    """

    def __init__(self, folders: Sequence[Path], believe: bool = True) -> None:
        """Read what is kept."""
        paths = [folder / f".gradenc-digests-{os.getuid()}.json" for folder in folders]
        self._path = paths[-1]
        self._kept = {key: e for path in paths for key, e in _read(path).items() if believe}
        self._before: dict[str, tuple[Entry, bool]] = {}
        self._seen: dict[str, Entry] = {}
        self._certain: dict[str, Entry] = {}

    def __enter__(self) -> "DigestCache":
        """Return the cache."""
        return self

    def __exit__(self, *_: object) -> None:
        """Keep what was read, also where a problem or the user ended it early."""
        self.save()

    def get(self, path: Path) -> Sequence[str] | None:
        """Return the digests of what a file holds, or None if it has to be read."""
        key, state = _key(path), _state(path)
        for entries in (self._seen, self._kept):
            entry = entries.get(key)
            if entry is not None and entry[:-1] == state:
                return list(entry[-1])
        settled = time.time_ns() - state[1] > RECENT_S * 1e9
        self._before[key] = state, settled
        return None

    def keep(self, path: Path, digests: Sequence[str]) -> None:
        """Keep what was read of a file since `get`, unless it has changed meanwhile."""
        key = _key(path)
        state, settled = self._before[key]
        if state == _state(path):
            self._seen[key] = [*state, list(digests)]
            if settled:
                self._certain[key] = self._seen[key]

    def save(self) -> None:
        """Add what was read to the file; of two commands that save at once, one may be lost."""
        if self._certain:
            with suppress(OSError):  # a folder that this user may not write to
                entries = _read(self._path) | self._certain
                replace(self._path, json.dumps(entries).encode())


def _key(path: Path) -> str:
    """Return a file's name in its folder's real place, whatever links lead there."""
    return os.path.join(_real(path.parent), path.name)


@lru_cache
def _real(folder: Path) -> str:
    return os.path.realpath(folder)


def _state(path: Path) -> Entry:
    found = path.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ino]


def _read(path: Path) -> dict[str, Entry]:
    """Return the entries of a file, none if it is not this user's own or is damaged."""
    try:
        if path.stat().st_uid != os.getuid():
            return {}
        entries = read_json(path) or {}
    except OSError:
        return {}
    return {key: entry for key, entry in entries.items() if _is_entry(entry)}


def _is_entry(entry: object) -> bool:
    return (
        isinstance(entry, list)
        and len(entry) == 4
        and all(isinstance(number, int) for number in entry[:3])
        and isinstance(entry[3], list)
        and all(isinstance(digest, str) and len(digest) == 64 for digest in entry[3])
    )
