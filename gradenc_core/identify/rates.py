"""How often simulated studies of a design get each verdict, and what would help them most."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from gradenc_core.compare.verdict import LEAST_POWER, Verdict, judge_order
from gradenc_core.identify.design import Design, Hypothesis

N_STUDIES = 40
"""Simulated studies of each hypothesis."""
N_FOR_POWER = 20
"""Simulated studies whose stated power is averaged."""
OTHER_SHARES = (0.1, 1.0)
"""Shares specific to layers at which power is given beside the assumed one."""
WORTH = 0.05
"""Power that a change must add to be named as a help."""
ENOUGH = 0.8
"""Power from which a study needs no help."""
FEWEST_TO_HALVE = 10
"""Layers of which half have an order in time."""
PLANNED, CHANGES = "as planned", ("twice the stimuli", "twice the subjects", "half the layers")

D = TypeVar("D", bound=Design)


@dataclass(frozen=True)
class Rates:
    """What simulated studies of one modality concluded.

    Attributes
    ----------
    verdicts : mapping of Hypothesis to mapping of Verdict to float
        Share of the studies of each hypothesis that get each verdict.
    power : mapping of str to float
        By design: that backpropagation is rejected in brains whose gradients have no order, mean
        over studies. A study without a significant gradient signal, or without an order, has none.
    """

    verdicts: Mapping[Hypothesis, Mapping[Verdict, float]]
    power: Mapping[str, float]

    @property
    def found(self) -> float:
        """Share of brains with backpropagation in which a gradient signal is found."""
        return 1 - self.verdicts[Hypothesis.BACKPROP][Verdict.NO_GRADIENT_SIGNAL]

    def advice(self) -> str:
        """Say what of more stimuli, more subjects and fewer layers would help most."""
        planned = self.power[PLANNED]
        if planned >= ENOUGH:
            return f"Its power is {planned:.2f}: it needs no help."
        changes = {name: self.power[name] for name in CHANGES if name in self.power}
        best = max(changes, key=lambda name: changes[name])
        if changes[best] >= planned + WORTH:
            return f"Most would help {best}: power {changes[best]:.2f} instead of {planned:.2f}."
        limit = (
            f"gradients themselves would be found in {self.found:.0%} of such brains"
            if self.found < LEAST_POWER
            else "the order of such gradients is hardly seen at any of these sizes"
        )
        return f"None of {', '.join(changes)} would raise its power of {planned:.2f} much: {limit}."


def identify(design: Design, tell: Callable[[], None] = lambda: None) -> Rates:
    """Simulate studies of a design and of its changes.

    Parameters
    ----------
    design : Design
    tell : callable
        Called after each of `n_simulated(design)` studies.

    Returns
    -------
    Rates
    """
    verdicts = {hypothesis: _verdicts(design, hypothesis, tell) for hypothesis in Hypothesis}
    return Rates(verdicts, {name: _power(one, tell) for name, one in changed(design).items()})


def n_simulated(design: Design) -> int:
    """Return how many studies `identify` simulates."""
    return len(Hypothesis) * N_STUDIES + len(changed(design)) * N_FOR_POWER


def changed(design: D) -> dict[str, D]:
    """Return the design as it is, changed in one size, and with other shares specific to layers."""
    n_layers = len(design.depth)
    sizes = (
        replace(design, n_stimuli=2 * design.n_stimuli),
        replace(design, n_subjects=2 * design.n_subjects),
        replace(design, depth=design.depth[(n_layers - 1) % 2 :: 2]),
    )
    designs = {PLANNED: design, **dict(zip(CHANGES, sizes, strict=True))}
    if n_layers < FEWEST_TO_HALVE:
        del designs[CHANGES[-1]]
    for share in OTHER_SHARES:
        assumed = replace(design.assumed, specific=share)
        designs[f"as planned, {share:.0%} specific"] = replace(design, assumed=assumed)
    return designs


def _verdicts(
    design: Design, hypothesis: Hypothesis, tell: Callable[[], None]
) -> dict[Verdict, float]:
    found: Counter[Verdict] = Counter()
    for number in range(N_STUDIES):
        evidence = design.evidence(hypothesis, np.random.default_rng([number, 0]))
        found[judge_order(evidence, design.level).verdict] += 1
        tell()
    return {verdict: found[verdict] / N_STUDIES for verdict in Verdict}


def _power(design: Design, tell: Callable[[], None]) -> float:
    """Return the mean stated power; all designs have the same random numbers."""
    stated = []
    for number in range(N_FOR_POWER):
        evidence = design.evidence(Hypothesis.NO_ORDER, np.random.default_rng([number, 1]))
        stated.append(evidence.reference.power)
        tell()
    return float(np.nan_to_num(stated).mean())
