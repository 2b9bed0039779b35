"""A finding: the result of one check in one sentence, with its remedy."""

from dataclasses import dataclass, replace
from enum import StrEnum


class Level(StrEnum):
    """Severity of a finding."""

    OK = "ok"
    WARNING = "warning"
    """A run works, but more slowly, or only under the condition that the sentence names."""
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
    """The stages or the machine that the finding is about."""

    def at(self, where: str) -> "Finding":
        """Return the finding with its place."""
        return replace(self, where=where)


def ok(check: str, sentence: str) -> Finding:
    """Return a finding without a problem."""
    return Finding(check, Level.OK, sentence)


def warning(check: str, sentence: str, remedy: str) -> Finding:
    """Return a finding with which a run still works."""
    return Finding(check, Level.WARNING, sentence, remedy)


def failure(check: str, sentence: str, remedy: str) -> Finding:
    """Return a finding that would make a run fail."""
    return Finding(check, Level.FAILURE, sentence, remedy)
