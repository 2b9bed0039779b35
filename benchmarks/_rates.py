"""Rates over planted brains, with their binomial limits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from _timing import print_rows
from scipy.stats import beta

GROSS = 1 - 1e-5
"""Confidence at which a rate that is off ends the run."""


@dataclass(frozen=True)
class Count:
    """How often something happened in one world."""

    world: str
    name: str
    hits: int
    n: int


@dataclass(frozen=True)
class Target:
    """A rate and the range in which it should lie."""

    name: str
    hits: int
    n: int
    least: float
    most: float

    @property
    def rate(self) -> float | None:
        """The share of hits; None of nothing."""
        return self.hits / self.n if self.n else None

    @property
    def grossly_off(self) -> bool:
        """Whether the true rate is surely out of range."""
        low, high = limits(self.hits, self.n, GROSS)
        return low > self.most or high < self.least


def limits(hits: int, n: int, level: float = 0.99) -> tuple[float, float]:
    """Return the Clopper-Pearson interval of a rate."""
    tail = (1 - level) / 2
    low = float(beta.ppf(tail, hits, n - hits + 1)) if hits else 0.0
    high = float(beta.ppf(1 - tail, hits + 1, n - hits)) if hits < n else 1.0
    return low, high


def pooled(counts: Sequence[Count]) -> dict[str, tuple[int, int]]:
    """Return hits and number over all worlds, by name."""
    found: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for count in counts:
        found[count.name][0] += count.hits
        found[count.name][1] += count.n
    return {name: (hits, n) for name, (hits, n) in found.items()}


def print_rates(title: str, counts: Sequence[Count]) -> None:
    """Print each rate over all worlds with its 99 % limits, and its range over worlds."""
    by_world: dict[str, list[float]] = defaultdict(list)
    for count in counts:
        by_world[count.name].append(count.hits / count.n)
    rows = [
        {
            "what": name,
            "n": n,
            "rate": hits / n,
            "low_99": limits(hits, n)[0],
            "high_99": limits(hits, n)[1],
            "lowest_world": min(by_world[name]),
            "highest_world": max(by_world[name]),
        }
        for name, (hits, n) in pooled(counts).items()
    ]
    if rows:
        print_rows(title, rows)


def print_targets(targets: Sequence[Target]) -> None:
    """Print each rate that the benchmark is judged by, with its 99 % limits and its range."""
    rows = [
        {
            "target": target.name,
            "n": target.n,
            "rate": target.rate,
            "low_99": limits(target.hits, target.n)[0],
            "high_99": limits(target.hits, target.n)[1],
            "least": target.least,
            "most": target.most,
        }
        for target in targets
    ]
    print_rows("Targets", rows)
