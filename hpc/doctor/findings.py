"""What a check found, in one line, with what to do about it."""

from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any


class Level(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    WARNING = "warning"
    """It works, but costs something or holds only under a condition."""
    FAILURE = "failure"
    """A run would fail."""


@dataclass(frozen=True)
class Finding:
    """One result of one check."""

    check: str
    level: Level
    sentence: str
    remedy: str = ""
    where: str = ""
    """The stages or the machine that it is about."""

    def at(self, where: str) -> "Finding":
        """Return the finding, said of a place."""
        return replace(self, where=where)

    def to_json(self) -> dict[str, str]:
        """Return it as a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Finding":
        """Read what `to_json` gave."""
        return cls(**{**value, "level": Level(value["level"])})


def ok(check: str, sentence: str) -> Finding:
    """Return a finding that needs nothing."""
    return Finding(check, Level.OK, sentence)


def warning(check: str, sentence: str, remedy: str) -> Finding:
    """Return a finding that a run survives."""
    return Finding(check, Level.WARNING, sentence, remedy)


def failure(check: str, sentence: str, remedy: str) -> Finding:
    """Return a finding that a run would fail on."""
    return Finding(check, Level.FAILURE, sentence, remedy)
