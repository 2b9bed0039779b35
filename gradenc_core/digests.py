"""Digests that readers may take from a cache, so that a large file is not read every time."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol


class KnownDigests(Protocol):
    """Digests of files that have been read before; who keeps them says when they hold."""

    def get(self, path: Path) -> Sequence[str] | None:
        """Return the digests of a file's contents, or None where it has to be read."""

    def keep(self, path: Path, digests: Sequence[str]) -> None:
        """Keep the digests of a file that was read after `get` returned None for it."""


class NothingKnown:
    """Reads every file."""

    def get(self, path: Path) -> None:
        """Return None."""

    def keep(self, path: Path, digests: Sequence[str]) -> None:
        """Keep nothing."""
