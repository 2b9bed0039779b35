"""Planted studies, judged from their columns as stages encode and compare judge stores.

Many studies share a block of columns, in which ridge is fastest. Numbers that a verdict cannot
depend on are not computed: a modality without a gradient signal says nothing of its order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from _laboratory import Laboratory
from numpy.typing import NDArray

from gradenc_core.compare.agreement import agreement
from gradenc_core.compare.peaks import Sensors, Timing, peak_latency, timing
from gradenc_core.compare.reference import (
    UNKNOWN,
    Curves,
    Reference,
    Regions,
    space_reference,
    time_reference,
)
from gradenc_core.compare.regions import Points
from gradenc_core.compare.space import SpatialScore, kstar, spatial_score
from gradenc_core.compare.statistics import above_zero_p, common_max_p, exceeds_p
from gradenc_core.compare.time import slope, temporal_score
from gradenc_core.compare.verdict import (
    Evidence,
    Order,
    Verdict,
    judge,
    judge_order,
)
from gradenc_core.planted.columns import N_SENSORS, TIMES, Setting, Study
from gradenc_core.ridge.factorise import Design

Array = NDArray[np.float64]
People = Sequence[Sequence[Array]]
"""Studies, each with the columns of its subjects, (..., n_columns)."""

SIGNIFICANCE = 0.05
ORDERS: tuple[Order, Order] = ("spatial", "temporal")
LEVEL = SIGNIFICANCE / len(ORDERS)
"""Of each modality."""
SMALLEST_EFFECT = 0.5
SEARCH_WINDOW = (0.0, 1.0)
FEW, ENOUGH, UNSURE = 19, 99, 0.25
"""First permutations, those of a control, and the p up to which the first leave open whether a test
is significant: five of them above the observed score are more than 5 % of up to 99."""
NAN = float("nan")


@dataclass(frozen=True)
class Effort:
    """How often stimuli are permuted, and blocks of them drawn anew."""

    permutations: int
    bootstraps: int


class Interval(NamedTuple):
    """A 95 % interval, and what the same study would have shown without noise."""

    low: float
    high: float
    noiseless: float


@dataclass(frozen=True)
class Finding:
    """What one planted study found.

    Attributes
    ----------
    evidence : dict of Order to Evidence
        The order of a modality without a gradient signal, or whose baseline is not complete, has
        no reference.
    controls : dict of Order to array, (n_controls,)
        p of the negative controls in each modality.
    spatial : SpatialScore
        The forward order in space, of every study.
    agreement_p : float
        That gradients are where activations are, of every study.
    intervals : dict of str to Interval
    """

    world: str
    setting: Setting
    evidence: dict[Order, Evidence]
    controls: dict[Order, Array]
    spatial: SpatialScore
    agreement_p: float
    intervals: dict[str, Interval]

    @property
    def verdict(self) -> Verdict:
        """The verdict over both modalities."""
        return judge(list(self.evidence.values()), SIGNIFICANCE).verdict

    def verdict_of(self, order: Order) -> Verdict:
        """Return the verdict of one modality."""
        return judge_order(self.evidence[order], LEVEL).verdict

    @property
    def claims_signal(self) -> bool:
        """Whether U is significant in one modality at least, at the study's level."""
        return min(evidence.signal_p for evidence in self.evidence.values()) <= LEVEL

    @property
    def power(self) -> float:
        """The least stated power of the orders that are heard; NaN where none is stated."""
        stated = [evidence.reference.power for evidence in self.evidence.values()]
        return min((power for power in stated if np.isfinite(power)), default=NAN)


def judge_studies(
    laboratory: Laboratory, studies: Sequence[Study], effort: Effort, seed: int
) -> list[Finding]:
    """Test planted studies of one world, all together, and judge each."""
    return _Batch(laboratory, studies, effort, seed).findings()


class _Batch:
    """Studies whose columns stand side by side."""

    def __init__(
        self, laboratory: Laboratory, studies: Sequence[Study], effort: Effort, seed: int
    ) -> None:
        self.laboratory, self.studies, self.effort, self.seed = laboratory, studies, effort, seed
        self.responses: dict[Order, People] = {
            "spatial": [study.fmri for study in studies],
            "temporal": [[_flat(y) for y in study.meg] for study in studies],
        }
        self.residuals = {o: side_by_side(laboratory.residuals, self.responses[o]) for o in ORDERS}
        self.signals = {
            o: self._tested(self.residuals[o], laboratory.gradient, effort.permutations)
            for o in ORDERS
        }
        self.controls = {o: self._control_scores(self.residuals[o]) for o in ORDERS}

    def findings(self) -> list[Finding]:
        """Judge every study."""
        found = list(map(self._in_space, range(len(self.studies))))
        in_time = self._in_time([i for i in range(len(found)) if self._is_heard(i, "temporal")])
        return [self._with(finding, in_time.get(i)) for i, finding in enumerate(found)]

    def _permuted(self, people: People, designs: Sequence[Design], n: int) -> list[list[Array]]:
        """Return scores under permutation, each (n + 1, n_layers, n_columns)."""
        return side_by_side(lambda y: self.laboratory.permuted(designs, y, n, self.seed), people)

    def _control_scores(self, people: People) -> list[list[list[Array]]]:
        """Return scores under permutation of every control, of every study and subject."""
        return [
            self._tested(people, designs, ENOUGH) for designs in self.laboratory.controls.values()
        ]

    def _control_p(self, study: int, order: Order) -> Array:
        """Return p of one study's controls, (n_controls,)."""
        return np.array([common_max_p(scores[study]) for scores in self.controls[order]])

    def _exceeds_p(self, study: int, order: Order) -> float:
        """Return the largest p that gradients exceed a control that is significant."""
        own, p = self.signals[order][study], self._control_p(study, order)
        found = [
            scores[study] for scores, q in zip(self.controls[order], p, strict=True) if q <= LEVEL
        ]
        return max((exceeds_p(own, scores) for scores in found), default=NAN)

    def _tested(self, people: People, designs: Sequence[Design], n: int) -> list[list[Array]]:
        """Return scores under few permutations, or `n` where few leave it open."""
        scores = self._permuted(people, designs, FEW)
        opened = [i for i, study in enumerate(scores) if common_max_p(study) <= UNSURE]
        more = self._permuted([people[i] for i in opened], designs, n)
        for i, study in zip(opened, more, strict=True):
            scores[i] = study
        return scores

    def _is_heard(self, study: int, order: Order) -> bool:
        """Say whether the verdict depends on the order of a modality."""
        signal = common_max_p(self.signals[order][study]) <= LEVEL
        return bool(signal and not self._exceeds_p(study, order) > LEVEL)

    def _evidence(self, study: int, order: Order) -> Evidence:
        """Return the evidence of a modality whose order is not known yet."""
        signal_p = common_max_p(self.signals[order][study])
        control_p = float(self._control_p(study, order).min())
        exceeds = self._exceeds_p(study, order)
        return Evidence(order, signal_p, control_p, exceeds, NAN, UNKNOWN, NAN)

    def _in_space(self, number: int) -> Finding:
        """Find the orders in space; references only where the verdict reads them."""
        study, depth = self.studies[number], self.laboratory.depth
        forward = [self._forward(y) for y in study.fmri]
        gradient = [scores[0] for scores in self.signals["spatial"][number]]
        points = [_points(profile, depth, study) for profile in forward]
        spatial = spatial_score(points, "pearson", self.seed)
        own = [_points(profile, depth, study) for profile in gradient]
        agrees_p = agreement(own, points, "pearson", self.seed).combined_p
        evidence = {order: self._evidence(number, order) for order in ORDERS}
        if self._is_heard(number, "spatial"):
            reference = self._space_reference(number)
            evidence["spatial"] = replace(
                evidence["spatial"],
                forward_p=spatial.combined_p,
                reference=reference,
                agrees_p=agrees_p,
            )
        return Finding(
            self.laboratory.world.name,
            study.setting,
            evidence,
            {order: self._control_p(number, order) for order in ORDERS},
            spatial,
            agrees_p,
            self._spatial_interval(study, spatial),
        )

    def _forward(self, responses: Array) -> Array:
        """Return the scores of activations, (n_layers, n_columns)."""
        scores = self.laboratory.permuted(self.laboratory.forward, responses, 0, self.seed)
        return np.asarray(scores[0])

    def _space_reference(self, number: int) -> Reference:
        study, own = self.studies[number], self.laboratory
        permuted = [own.permuted(own.forward, y, FEW, self.seed) for y in study.fmri]
        drivers = [(scores[0] + scores[1:]).argmax(axis=1) for scores in permuted]
        subjects = [
            Regions(s[0], s[1:], driver, study.position, study.region, own.confusion)
            for s, driver in zip(self.signals["spatial"][number], drivers, strict=True)
        ]
        return space_reference(subjects, self.laboratory.depth, "argmax", LEVEL, self.seed)

    def _spatial_interval(self, study: Study, spatial: SpatialScore) -> dict[str, Interval]:
        if not study.fmri_signal[0].any():
            return {}
        depth = self.laboratory.depth
        points = [_points(self._forward(y), depth, study) for y in study.fmri_signal]
        noiseless = spatial_score(points, "pearson", self.seed).mean
        return {"forward order in space": Interval(spatial.low, spatial.high, noiseless)}

    def _in_time(self, heard: Sequence[int]) -> dict[int, tuple[Evidence, Interval]]:
        """Find the orders in time of the studies whose verdict reads them, all together."""
        responses = [self.responses["temporal"][i] for i in heard]
        residuals = [self.residuals["temporal"][i] for i in heard]
        beyond = [self.signals["temporal"][i] for i in heard]
        own, n = self.laboratory, self.effort.permutations
        permuted = self._permuted(responses, own.forward, n)
        forward = self._timings(responses, permuted, own.forward)
        gradient = self._timings(residuals, beyond, own.gradient)
        return {
            i: self._temporal(i, forward[place], gradient[place], beyond[place])
            for place, i in enumerate(heard)
        }

    def _timings(
        self, people: People, permuted: People, designs: Sequence[Design]
    ) -> list[list[Timing]]:
        """Return when each layer predicts each subject best."""
        own, n = self.laboratory, self.effort.bootstraps
        drawn = side_by_side(lambda y: own.resampled(designs, y, n, self.seed), people)
        return [
            [
                timing(Sensors(_sensors(b), _sensors(p)), TIMES, SEARCH_WINDOW, SIGNIFICANCE)
                for b, p in zip(boots, perms, strict=True)
            ]
            for boots, perms in zip(drawn, permuted, strict=True)
        ]

    def _temporal(
        self,
        number: int,
        forward: Sequence[Timing],
        gradient: Sequence[Timing],
        permuted: Sequence[Array],
    ) -> tuple[Evidence, Interval]:
        depth = self.laboratory.depth
        sweep = temporal_score([t.latencies for t in forward], depth, "slope")
        lags = [g.latencies.plus(f.latencies, -1) for g, f in zip(gradient, forward, strict=True)]
        lag = temporal_score(lags, depth, "mean")
        reference = UNKNOWN
        if sweep.mean > 0:
            reference = time_reference(
                [self._curves(t, p) for t, p in zip(gradient, permuted, strict=True)],
                depth,
                TIMES,
                SEARCH_WINDOW,
                -SMALLEST_EFFECT * sweep.mean,
                LEVEL,
                self.seed,
            )
        evidence = replace(
            self._evidence(number, "temporal"),
            forward_p=above_zero_p(sweep.mean, sweep.combined_p),
            reference=reference,
            agrees_p=above_zero_p(lag.mean, lag.combined_p),
        )
        noiseless = self._noiseless_slope(self.studies[number], forward)
        return evidence, Interval(sweep.low, sweep.high, noiseless)

    def _curves(self, found: Timing, permuted: Array) -> Curves:
        chosen = found.sensors if found.sensors.any() else np.ones_like(found.sensors)
        curves = _sensors(permuted)[:, :, chosen].mean(axis=2)
        return Curves(curves[0], curves[1:], self.laboratory.confusion)

    def _noiseless_slope(self, study: Study, forward: Sequence[Timing]) -> float:
        """Return the mean slope of the same sensors without noise, s per unit depth."""
        slopes = [
            slope(
                peak_latency(
                    _sensors(self._forward(_flat(signal)))[:, own.sensors].mean(axis=1),
                    TIMES,
                    SEARCH_WINDOW,
                ),
                self.laboratory.depth,
            )
            for signal, own in zip(study.meg_signal, forward, strict=True)
            if own.sensors.any()
        ]
        return float(np.mean(slopes)) if slopes else NAN

    def _with(self, finding: Finding, in_time: tuple[Evidence, Interval] | None) -> Finding:
        if in_time is None:
            return finding
        evidence, interval = in_time
        return replace(
            finding,
            evidence={**finding.evidence, "temporal": evidence},
            intervals={**finding.intervals, "forward order in time": interval},
        )


def side_by_side(work: Callable[[Array], Array], people: People) -> list[list[Array]]:
    """Do work on all subjects' columns at once, and return each subject's part of its result."""
    if not people:
        return []
    columns = [y for study in people for y in study]
    stops = np.cumsum([y.shape[1] for y in columns])[:-1]
    parts = iter(np.split(work(np.hstack(columns)), stops, axis=-1))
    return [[next(parts) for _ in study] for study in people]


def _flat(y: Array) -> Array:
    """Return sensors at windows as columns, (n_stimuli, n_sensors * n_windows)."""
    return y.reshape(len(y), -1)


def _sensors(scores: Array) -> Array:
    """Return columns as sensors at windows, (..., n_sensors, n_windows)."""
    return scores.reshape(*scores.shape[:-1], N_SENSORS, len(TIMES))


def _points(profile: Array, depth: Array, study: Study) -> Points:
    return Points(kstar(profile, depth, "argmax"), study.position, study.region)
