"""Stand-in."""

from dataclasses import dataclass


@dataclass
class Limits:
    max_array_size: int = 11
    free_jobs: int | None = None


def limits(*a):
    return Limits()
