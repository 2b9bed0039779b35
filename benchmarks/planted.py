"""How often the test of U is wrong, and how often it is right, over planted brains in memory.

Worlds (network x objective x images) are fixed and brains vary: each has one voxel with its own
ceiling, gradient share and tuning (`gradenc_core.planted`). Every test is the product's. The limits
of a rate are binomial, for its own number of brains.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from _laboratory import Laboratory
from _timing import print_json, print_rows
from scipy.stats import beta

from gradenc_core.planted.brain import Scenario
from gradenc_core.planted.columns import plant_voxels
from gradenc_core.planted.worlds import NETWORKS, WorldSizes, make_worlds

LEVEL = 0.05
GROSS = 1 - 1e-5
"""Confidence at which a rate of false positives ends the run."""
OFTEN = 100
"""Fewest brains of a rate that enters the extremes over tests."""
CEILING = 0.6
"""Noise ceiling at which power is shown."""
REFERENCE_STIMULI = 1000

TESTED: tuple[Scenario, ...] = ("null_noise", "forward_only", "deep_only", "cls_only")
"""Scenarios in which the null hypothesis of U holds: responses linear in activations."""


@dataclass(frozen=True)
class Plan:
    """How much is run.

    Attributes
    ----------
    groups : tuple of (network, objectives, seed, number of recorded stimuli)
        Worlds of a group share network and images.
    draws : int
        Of the null that all voxels of a world share.
    voxels : int
        Brains of one voxel per world and scenario.
    """

    groups: tuple[tuple[str, tuple[str, ...], int, int], ...]
    images: WorldSizes
    draws: int
    voxels: int
    seed: int = 0
    share: float | None = None
    ceiling: float | None = None


OBJECTIVES = (("energy", "random.0"), ("classification", "energy"))
GROUPS = tuple(
    (network, OBJECTIVES[seed], seed, 1000 if seed else n)
    for seed in (0, 1)
    for network, n in (("vit", 700), ("resnet", 400))
)
TOY = Plan(
    (("vit", ("energy",), 0, 120),),
    WorldSizes(unrecorded=900, further=200, layers=5, projection=8),
    draws=99,
    voxels=20,
)
QUICK = Plan(
    (("vit", ("energy",), 0, REFERENCE_STIMULI), ("resnet", ("classification",), 0, 700)),
    WorldSizes(unrecorded=1500, further=1500, layers=6, projection=32),
    draws=1000,
    voxels=500,
)
DEFAULT = Plan(GROUPS, WorldSizes(), draws=2000, voxels=1000)
FULL = replace(DEFAULT, voxels=8000)


@dataclass(frozen=True)
class Count:
    """How often something happened in one world."""

    world: str
    name: str
    hits: int
    n: int


def run_group(plan: Plan, group: tuple[str, tuple[str, ...], int, int]) -> list[Count]:
    """Make the worlds of a group and test voxels in them."""
    torch.set_num_threads(1)
    network, objectives, seed, n_stimuli = group
    images = replace(plan.images, recorded=n_stimuli)
    found: list[Count] = []
    for number, world in enumerate(
        make_worlds(network, objectives, 100 * plan.seed + seed, images)
    ):
        rng = np.random.default_rng([plan.seed, seed, NETWORKS.index(network), number])
        found.extend(voxel_tests(Laboratory(world, plan.draws), plan, rng))
    return found


def grossly_off(count: Count) -> bool:
    """Say whether a test whose null hypothesis holds rejects far more often than its level."""
    return _is_test(count.name) and limits(count.hits, count.n, GROSS)[0] > LEVEL


def voxel_tests(laboratory: Laboratory, plan: Plan, rng: np.random.Generator) -> Iterator[Count]:
    """Count how often U is significant in brains of one voxel, and so its negative controls."""
    name, n = laboratory.world.name, plan.voxels
    features = laboratory.world.features

    def count(what: str, p: np.ndarray) -> Count:
        return Count(name, what, int((p <= LEVEL).sum()), n)

    for scenario in (*TESTED, "forward_nonlinear"):
        planted = plant_voxels(features, scenario, n, rng, ceiling=plan.ceiling)
        residuals = laboratory.residuals(planted)
        yield count(f"U of a voxel: {scenario}", laboratory.voxel_p(residuals))
        if scenario == "forward_only":
            for control in laboratory.controls:
                p = laboratory.control_p(control, residuals)
                yield count(f"control of a voxel: {control}", p)
    for share in (0.1, 0.2, 0.4) if plan.share is None else (plan.share,):
        ceiling = plan.ceiling or CEILING
        planted = plant_voxels(features, "plausible_backprop", n, rng, share, ceiling)
        p = laboratory.voxel_p(laboratory.residuals(planted))
        yield count(f"power of a voxel: share {share:g}, ceiling {ceiling:g}", p)


def limits(hits: int, n: int, level: float = 0.99) -> tuple[float, float]:
    """Return the Clopper-Pearson interval of a rate."""
    tail = (1 - level) / 2
    low = float(beta.ppf(tail, hits, n - hits + 1)) if hits else 0.0
    high = float(beta.ppf(1 - tail, hits + 1, n - hits)) if hits < n else 1.0
    return low, high


def summary(found: Sequence[Count], minutes: float) -> dict[str, Any]:
    """Return the numbers that the benchmark is judged by."""
    rates = [hits / n for name, (hits, n) in _counted_often(found) if _is_test(name)]
    return {
        "false_positive_min": min(rates, default=None),
        "false_positive_max": max(rates, default=None),
        "minutes": minutes,
    }


def _counted_often(counts: Sequence[Count]) -> list[tuple[str, tuple[int, int]]]:
    return [(name, seen) for name, seen in pooled(counts).items() if seen[1] >= OFTEN]


def _is_test(name: str) -> bool:
    """Say whether a count is a test at its level, whose null hypothesis holds."""
    others = ("power", "control", "U of a voxel: forward_nonlinear")
    return not name.startswith(others)


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


def collect(plan: Plan) -> list[Count]:
    """Run all groups, two at a time."""
    plans = [plan] * len(plan.groups)
    with ProcessPoolExecutor(max_workers=min(2, len(plan.groups))) as pool:
        return [count for part in pool.map(run_group, plans, plan.groups) for count in part]


def chosen_plan(options: argparse.Namespace) -> Plan:
    """Return the plan that the options describe."""
    sizes = {"toy": TOY, "quick": QUICK, "full": FULL}
    plan = next((plan for name, plan in sizes.items() if getattr(options, name)), DEFAULT)
    groups = [g for g in plan.groups if options.network in (None, g[0])]
    if not groups:
        groups = [(options.network, *g[1:]) for g in plan.groups]
    images = replace(plan.images, layers=options.layers or plan.images.layers)
    return replace(
        plan,
        groups=tuple(groups),
        images=images,
        seed=options.seed,
        share=options.share,
        ceiling=options.ceiling,
    )


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--toy", action="store_true", help="seconds: that it runs")
    parser.add_argument("--quick", action="store_true", help="minutes: what is grossly off")
    parser.add_argument("--full", action="store_true", help="hours: what the documentation quotes")
    parser.add_argument("--seed", type=int, default=0, help="of worlds and studies")
    parser.add_argument("--network", choices=NETWORKS, help="worlds of this network only")
    parser.add_argument("--share", type=float, help="gradient share of the signal's variance")
    parser.add_argument("--ceiling", type=float, help="noise ceiling r of every study")
    parser.add_argument("--layers", type=int, help="layers of every network")
    return parser


def main() -> None:
    start = time.perf_counter()
    found = collect(chosen_plan(parser().parse_args()))
    print_rates("Significant at .05", found)
    print_json(summary(found, (time.perf_counter() - start) / 60))
    off = [f"{count.name} in {count.world}" for count in found if grossly_off(count)]
    if off:
        sys.exit(f"far more than {LEVEL:.0%} significant: {', '.join(off)}")


if __name__ == "__main__":
    main()
