"""How often verdicts are wrong, and how often they are right, over planted brains in memory.

Worlds (network x objective x images) are fixed and studies vary: each draws its own ceiling,
gradient share, tuning, subjects and regions (`gradenc_core.planted`). Every test is the product's.
The limits of a rate are binomial, for its own number of studies.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from _laboratory import Laboratory
from _rates import Count, print_rates, print_targets
from _studies import SIGNIFICANCE, Effort, Finding, judge_studies
from _timing import print_json
from _verdicts import PLACES, Tally, extremes, print_confusion, targets_of, too_often

from gradenc_core.planted.brain import SCENARIOS, Scenario
from gradenc_core.planted.columns import draw_setting, plant_columns, plant_voxels
from gradenc_core.planted.worlds import NETWORKS, Network, WorldSizes, make_worlds

REFERENCE_STIMULI, REFERENCE_SHARE, REFERENCE_CEILING = 1000, 0.2, 0.6
"""At which power is stated."""
VOXEL_SHARES = (0.1, 0.2, 0.4)
TOGETHER = 16
"""Studies whose columns are scored together."""
TESTED: tuple[Scenario, ...] = ("null_noise", "forward_only", "deep_only", "cls_only")
"""Scenarios in which the null hypothesis of U holds: responses linear in activations."""


@dataclass(frozen=True)
class Group:
    """Worlds that share network and images; `layers` None: all that the network has."""

    network: Network
    objectives: tuple[str, ...]
    seed: int
    n_stimuli: int
    layers: int | None = None


@dataclass(frozen=True)
class Plan:
    """How much is run.

    Attributes
    ----------
    images : WorldSizes
        Of every world, whose group gives its stimuli and layers.
    studies : int
        Per world and scenario.
    reference : int
        Studies of plausible backpropagation at the reference setting, per world of its stimuli.
    voxels : int
        Brains of one voxel per world and scenario.
    draws : int
        Of the null that all voxels of a world share.
    share, ceiling : float or None
        Of every study; None: drawn.
    """

    groups: tuple[Group, ...]
    images: WorldSizes
    effort: Effort
    studies: int
    reference: int
    voxels: int
    draws: int
    scenarios: tuple[Scenario, ...] = SCENARIOS
    seed: int = 0
    share: float | None = None
    ceiling: float | None = None


TOY = Plan(
    (Group("vit", ("energy",), 0, 300, 5),),
    WorldSizes(unrecorded=900, further=300, projection=32),
    Effort(permutations=39, bootstraps=9),
    studies=1,
    reference=0,
    voxels=20,
    draws=99,
    scenarios=("null_noise", "plausible_backprop", "misaligned"),
    share=0.4,
    ceiling=0.9,
)
QUICK = Plan(
    (
        Group("vit", ("energy",), 0, REFERENCE_STIMULI, 6),
        Group("resnet", ("classification",), 0, 700, 6),
    ),
    WorldSizes(unrecorded=1500, further=1500, projection=32),
    Effort(permutations=39, bootstraps=19),
    studies=2,
    reference=2,
    voxels=200,
    draws=1000,
)
DEFAULT = Plan(
    (
        Group("vit", ("energy", "random.0"), 0, REFERENCE_STIMULI, 6),
        Group("resnet", ("energy", "random.0"), 0, 700),
        Group("vit", ("classification", "energy"), 1, REFERENCE_STIMULI, 12),
        Group("resnet", ("classification", "energy"), 1, REFERENCE_STIMULI),
    ),
    WorldSizes(),
    Effort(permutations=79, bootstraps=99),
    studies=5,
    reference=5,
    voxels=500,
    draws=2000,
)
FULL = replace(
    DEFAULT,
    groups=(*DEFAULT.groups, Group("vit", ("energy",), 2, 1500, 24)),
    studies=100,
    reference=50,
    voxels=4000,
)


def run_group(plan: Plan, group: Group) -> Tally:
    """Make the worlds of a group and test brains in them."""
    torch.set_num_threads(1)
    images = replace(plan.images, recorded=group.n_stimuli, layers=group.layers)
    worlds = make_worlds(group.network, group.objectives, 100 * plan.seed + group.seed, images)
    tally = Tally()
    for number, world in enumerate(worlds):
        laboratory = Laboratory(world, plan.draws)
        rng = np.random.default_rng([plan.seed, group.seed, NETWORKS.index(group.network), number])
        voxel_tests(tally, laboratory, plan, rng)
        for scenario in plan.scenarios:
            tally.findings += planted(laboratory, plan, scenario, plan.studies, rng)
        if group.n_stimuli == REFERENCE_STIMULI:
            fixed = replace(plan, share=REFERENCE_SHARE, ceiling=REFERENCE_CEILING)
            tally.references += planted(
                laboratory, fixed, "plausible_backprop", plan.reference, rng
            )
    return tally


def planted(
    laboratory: Laboratory, plan: Plan, scenario: Scenario, n: int, rng: np.random.Generator
) -> list[Finding]:
    """Plant and judge `n` studies of a scenario."""
    found: list[Finding] = []
    while len(found) < n:
        settings = [
            draw_setting(scenario, rng, plan.share, plan.ceiling)
            for _ in range(min(TOGETHER, n - len(found)))
        ]
        studies = [plant_columns(laboratory.world.features, s, rng) for s in settings]
        found += judge_studies(laboratory, studies, plan.effort, int(rng.integers(2**31)))
    return found


def voxel_tests(tally: Tally, laboratory: Laboratory, plan: Plan, rng: np.random.Generator) -> None:
    """Count how often U is significant in brains of one voxel, and so its negative controls."""
    features, n = laboratory.world.features, plan.voxels

    def count(what: str, p: np.ndarray) -> Count:
        hits = int((p <= SIGNIFICANCE).sum())
        return Count(laboratory.world.name, f"{what} of a voxel", hits, n)

    for scenario in (*TESTED, "forward_nonlinear"):
        voxels = plant_voxels(features, scenario, n, rng, ceiling=plan.ceiling)
        residuals = laboratory.residuals(voxels)
        p = laboratory.voxel_p(laboratory.gradient, residuals)
        kind = tally.conservative if scenario in TESTED else tally.others
        kind.append(count(f"U, {scenario},", p))
        if scenario == "forward_only":
            for name, designs in laboratory.controls.items():
                p = laboratory.voxel_p(designs, residuals)
                tally.others.append(count(f"control, {name},", p))
    for share in VOXEL_SHARES if plan.share is None else (plan.share,):
        ceiling = plan.ceiling or REFERENCE_CEILING
        voxels = plant_voxels(features, "plausible_backprop", n, rng, share, ceiling)
        p = laboratory.voxel_p(laboratory.gradient, laboratory.residuals(voxels))
        tally.others.append(count(f"power, share {share:g}, ceiling {ceiling:g},", p))


def collect(plan: Plan) -> Tally:
    """Run all groups, two at a time."""
    tally = Tally()
    plans = [plan] * len(plan.groups)
    with ProcessPoolExecutor(max_workers=min(2, len(plan.groups))) as pool:
        for part in pool.map(run_group, plans, plan.groups):
            tally.add(part)
    tally.count_findings()
    return tally


def report(tally: Tally, minutes: float) -> None:
    """Print what was counted, and end the run where a rate is grossly off."""
    print_rates("Tests at .05 whose null hypothesis holds", tally.tests)
    print_rates("The same, of tests that may reject less often", tally.conservative)
    print_rates(
        "Intervals of 95 % that hold what the study would show without noise", tally.intervals
    )
    print_rates("Beside", tally.others)
    for order, place in PLACES.items():
        print_confusion(f"Verdicts {place}", tally.findings, order)
    print_confusion("At the reference setting", tally.references)
    print_confusion("Verdicts", tally.findings)
    targets = targets_of(tally)
    print_targets(targets)
    rates = {target.name: target.rate for target in targets}
    print_json({**rates, **extremes(tally), "minutes": minutes})
    off = [target.name for target in (*targets, *too_often(tally)) if target.grossly_off]
    if off:
        sys.exit(f"grossly off: {', '.join(off)}")


def chosen_plan(options: argparse.Namespace) -> Plan:
    """Return the plan that the options describe."""
    sizes = {"toy": TOY, "quick": QUICK, "full": FULL}
    plan = next((plan for name, plan in sizes.items() if getattr(options, name)), DEFAULT)
    groups = [g for g in plan.groups if options.network in (None, g.network)]
    if not groups:
        groups = [replace(g, network=options.network) for g in plan.groups]
    if options.layers:
        groups = [replace(g, layers=options.layers) for g in groups]
    return replace(
        plan,
        groups=tuple(groups),
        seed=options.seed,
        share=options.share or plan.share,
        ceiling=options.ceiling or plan.ceiling,
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
    tally = collect(chosen_plan(parser().parse_args()))
    report(tally, (time.perf_counter() - start) / 60)


if __name__ == "__main__":
    main()
