"""Which verdict is right of a planted brain, which one is an error, and what is counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from _laboratory import CONTROLS
from _rates import Count, Target, pooled
from _studies import ORDERS, SIGNIFICANCE, Finding
from _timing import print_rows

from gradenc_core.compare.verdict import Order, Verdict
from gradenc_core.planted.brain import BACKPROP, FORWARD, SCENARIOS, Scenario

NOTHING, BACKPROP_LIKE, MISALIGNED, UNDECIDED, UNSEEN = (
    Verdict.NO_GRADIENT_SIGNAL,
    Verdict.BACKPROP_LIKE,
    Verdict.MISALIGNED,
    Verdict.UNDECIDED,
    Verdict.NOT_IDENTIFIABLE,
)
CLAIMS = (BACKPROP_LIKE, MISALIGNED)


@dataclass(frozen=True)
class Expected:
    """What may be concluded of a brain.

    Attributes
    ----------
    right : tuple of Verdict
    error : tuple of Verdict
        Confident errors: claims that are wrong.
    silent : tuple of Order
        In which nothing may be claimed.
    """

    right: tuple[Verdict, ...]
    error: tuple[Verdict, ...]
    silent: tuple[Order, ...] = ()


EXPECTED: dict[Scenario, Expected] = {
    "null_noise": Expected((NOTHING,), CLAIMS),
    "forward_only": Expected((NOTHING,), CLAIMS),
    # It violates what U tests, yet a claim would be as wrong.
    "forward_nonlinear": Expected((NOTHING,), CLAIMS),
    "cls_only": Expected((NOTHING,), CLAIMS),
    "deep_only": Expected((NOTHING,), CLAIMS),
    # Gradients without order beside activations without order: nothing to follow or depart from.
    "null_order": Expected((UNDECIDED, UNSEEN), CLAIMS),
    "meg_only": Expected((BACKPROP_LIKE,), (MISALIGNED,), silent=("spatial",)),
    "plausible_backprop": Expected((BACKPROP_LIKE,), (MISALIGNED,)),
    "collinear_backprop": Expected((BACKPROP_LIKE, UNSEEN), (MISALIGNED,)),
    "misaligned": Expected((MISALIGNED,), (BACKPROP_LIKE,)),
}
WITHOUT_GRADIENT: tuple[Scenario, ...] = ("null_noise", *FORWARD)
ENOUGH_POWER = 0.8
"""Stated power from which a verdict on a brain with gradients enters the accuracy."""
OFTEN = 100
"""Fewest brains of a rate that enters the extremes over tests."""
PLACES: dict[Order, str] = {"spatial": "in space", "temporal": "in time"}


@dataclass
class Tally:
    """All that a run counts.

    Attributes
    ----------
    tests : list of Count
        Tests at .05 whose null hypothesis holds.
    conservative : list of Count
        The same, of tests that may reject less often than their level.
    intervals : list of Count
        Intervals of 95 % that cover.
    others : list of Count
        Shown, and judged by nothing.
    findings : list of Finding
        Studies of settings that were drawn.
    references : list of Finding
        Studies of plausible backpropagation at the reference setting.
    """

    tests: list[Count] = field(default_factory=list)
    conservative: list[Count] = field(default_factory=list)
    intervals: list[Count] = field(default_factory=list)
    others: list[Count] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    references: list[Finding] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        """Take over what another run counted."""
        for name, own in vars(self).items():
            own.extend(getattr(other, name))

    def count_findings(self) -> None:
        """Count the tests of all findings."""
        for kind, tested in (
            (self.tests, _tests),
            (self.conservative, _conservative_tests),
            (self.intervals, _covered),
            (self.others, _others),
        ):
            seen = Counter((f.world, name, hit) for f in self.findings for name, hit in tested(f))
            for world, name in dict.fromkeys((world, name) for world, name, _ in seen):
                hits, misses = seen[world, name, True], seen[world, name, False]
                kind.append(Count(world, name, hits, hits + misses))


def is_right(finding: Finding) -> bool:
    """Say whether a verdict is right."""
    return finding.verdict in EXPECTED[finding.setting.scenario].right


def is_confident_error(finding: Finding) -> bool:
    """Say whether a verdict claims what is wrong, over both modalities or where none may speak."""
    expected = EXPECTED[finding.setting.scenario]
    claimed = [finding.verdict_of(order) in CLAIMS for order in expected.silent]
    return finding.verdict in expected.error or any(claimed)


def can_tell(finding: Finding) -> bool:
    """Say whether a study enters the accuracy: of brains with gradients, where it has the power."""
    return finding.setting.scenario in WITHOUT_GRADIENT or finding.power >= ENOUGH_POWER


def targets_of(tally: Tally) -> list[Target]:
    """Return the rates that the benchmark is judged by."""
    found = tally.findings
    backprop = [f for f in found if f.setting.scenario in BACKPROP]
    forward = [f for f in found if f.setting.scenario in FORWARD]
    told = [f for f in found if can_tell(f)]
    rates = (
        ("scenario_accuracy", [is_right(f) for f in told], 0.95, 1.0),
        ("confident_errors", [is_confident_error(f) for f in found], 0.0, 0.01),
        ("false_misaligned", [f.verdict == MISALIGNED for f in backprop], 0.0, 0.05),
        ("false_u", [f.claims_signal for f in forward], 0.0, 0.05),
        ("power_reference", [f.claims_signal for f in tally.references], 0.8, 1.0),
    )
    return [Target(name, sum(hits), len(hits), *span) for name, hits, *span in rates if hits]


def extremes(tally: Tally) -> dict[str, float | None]:
    """Return the lowest and highest rates of false positives and of coverage."""
    exact, conservative = _rates(tally.tests), _rates(tally.conservative)
    coverage = _rates(tally.intervals)
    return {
        "false_positive_min": min(exact, default=None),
        "false_positive_max": max([*exact, *conservative], default=None),
        "coverage_min": min(coverage, default=None),
        "coverage_max": max(coverage, default=None),
    }


def too_often(tally: Tally) -> list[Target]:
    """Return every test in every world, whose null hypothesis holds, as a rate with its limit."""
    tests = (*tally.tests, *tally.conservative)
    return [Target(f"{c.name} in {c.world}", c.hits, c.n, 0.0, SIGNIFICANCE) for c in tests if c.n]


def _rates(counts: Sequence[Count]) -> list[float]:
    return [hits / n for hits, n in pooled(counts).values() if n >= OFTEN]


Tested = Iterator[tuple[str, bool]]


def _tests(finding: Finding) -> Tested:
    """Yield exact tests whose null hypothesis holds, and whether each is significant."""
    scenario = finding.setting.scenario
    if scenario == "null_noise":
        yield from _signals(finding)
        yield from _controls(finding)
    if scenario == "null_order":
        yield "forward order in space: null_order", finding.spatial.combined_p <= SIGNIFICANCE
        yield "agreement in space: null_order", finding.agreement_p <= SIGNIFICANCE


def _conservative_tests(finding: Finding) -> Tested:
    """Yield the same of tests that may reject less often: features, too, lose their forward part.

    Backpropagation is tested at the least specific share that is not excluded.
    """
    scenario = finding.setting.scenario
    if scenario in FORWARD and scenario != "forward_nonlinear":
        yield from _signals(finding)
    yield from _of_references(finding)


def _others(finding: Finding) -> Tested:
    """Yield what is shown beside: power, and tests whose null hypothesis does not hold."""
    scenario = finding.setting.scenario
    if scenario in FORWARD:
        yield from _controls(finding)
    if scenario == "forward_nonlinear" or scenario not in WITHOUT_GRADIENT:
        yield from _signals(finding)
    yield f"a gradient signal is claimed: {scenario}", _claims(finding)
    for order, evidence in finding.evidence.items():
        if evidence.reference.power >= ENOUGH_POWER:
            right = finding.verdict_of(order) in EXPECTED[scenario].right
            yield f"right {PLACES[order]} at a power of {ENOUGH_POWER:g}: {scenario}", right


def _claims(finding: Finding) -> bool:
    """Say whether a verdict says that there is a gradient signal, in what order soever."""
    return any(np.isfinite(e.reference.observed) for e in finding.evidence.values())


def _signals(finding: Finding) -> Tested:
    for order in ORDERS:
        p = finding.evidence[order].signal_p
        yield f"U {PLACES[order]}: {finding.setting.scenario}", p <= SIGNIFICANCE


def _controls(finding: Finding) -> Tested:
    for order in ORDERS:
        for name, p in zip(CONTROLS, finding.controls[order], strict=True):
            what = f"control {PLACES[order]}, {name}: {finding.setting.scenario}"
            yield what, bool(p <= SIGNIFICANCE)


def _of_references(finding: Finding) -> Tested:
    scenario = finding.setting.scenario
    for order, evidence in finding.evidence.items():
        reference = evidence.reference
        if np.isnan(reference.observed):
            continue
        if scenario in ("null_order", "misaligned"):
            yield f"no order {PLACES[order]}: {scenario}", reference.none_p <= SIGNIFICANCE
        if scenario in BACKPROP:
            what = f"backpropagation {PLACES[order]}: {scenario}"
            yield what, reference.backprop_p <= SIGNIFICANCE


def _covered(finding: Finding) -> Tested:
    for name, (low, high, noiseless) in finding.intervals.items():
        if np.isfinite([low, high, noiseless]).all():
            yield name, low <= noiseless <= high


def print_confusion(title: str, findings: Sequence[Finding], order: Order | None = None) -> None:
    """Print how often each verdict was given in each scenario."""
    rows = []
    for scenario in SCENARIOS:
        own = [f for f in findings if f.setting.scenario == scenario]
        given = Counter(f.verdict if order is None else f.verdict_of(order) for f in own)
        if own:
            rows.append({"scenario": scenario, **{v.value: given[v] for v in Verdict}})
    if rows:
        print_rows(title, rows)
