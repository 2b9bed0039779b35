"""Simulated studies of known truth: limits without noise, and how often verdicts are wrong."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from gradenc_core.compare.time import slope
from gradenc_core.compare.verdict import Verdict, judge_order
from gradenc_core.identify.assumed import Assumed
from gradenc_core.identify.design import RIGHT, Design, Hypothesis
from gradenc_core.identify.fmri import COMMON_NOISE, FmriDesign
from gradenc_core.identify.meg import BACKWARD_S, MegDesign

DEPTH = np.arange(1, 9) / 8
REGION = np.tile(np.arange(8), 2)
FMRI = FmriDesign(2, 1000, 5, 0, False, DEPTH, 0.05, Assumed(), 10.0 * REGION, REGION)
TIMES = 0.025 + 0.025 * np.arange(39)
MEG = MegDesign(2, 1000, 5, 0, False, DEPTH, 0.05, Assumed(), TIMES, (0.0, 1.0), 0.5)
ENDLESS = 10**9
"""Stimuli with which no noise is left."""
RARELY = 6
"""99.6 % of binomial draws of 40 at the level are at most as many."""


def judged(design: Design, hypothesis: Hypothesis, n: int) -> Counter[Verdict]:
    found: Counter[Verdict] = Counter()
    for number in range(n):
        evidence = design.evidence(hypothesis, np.random.default_rng(number))
        found[judge_order(evidence, design.level).verdict] += 1
    return found


def power(design: Design, n: int = 12) -> float:
    evidence = [
        design.evidence(Hypothesis.NO_ORDER, np.random.default_rng(number)) for number in range(n)
    ]
    return float(np.nan_to_num([e.reference.power for e in evidence]).mean())


def with_specific(design: Design, share: float) -> Design:
    return replace(design, assumed=replace(design.assumed, specific=share))


@pytest.mark.parametrize("hypothesis", [Hypothesis.BACKPROP, Hypothesis.NO_ORDER])
def test_without_noise_every_brain_in_space_gets_the_right_verdict(hypothesis: Hypothesis) -> None:
    clear = replace(with_specific(FMRI, 1.0), n_stimuli=ENDLESS)
    found = judged(clear, hypothesis, 10)
    # Regions may have each other's layers in nearly the order of the cortex.
    assert found[RIGHT[hypothesis]] >= 9
    assert power(clear) > 0.95


def test_gradients_that_are_the_same_in_all_layers_have_no_power() -> None:
    assert power(with_specific(FMRI, 0.0)) < 0.12


def test_power_rises_with_stimuli_subjects_and_what_is_specific() -> None:
    few = replace(FMRI, n_stimuli=500)
    assert power(few) + 0.1 < power(replace(few, n_stimuli=4000))
    assert power(with_specific(FMRI, 0.1)) + 0.1 < power(with_specific(FMRI, 1.0))
    half = with_specific(FMRI, 0.6)
    assert power(half) < power(replace(half, n_subjects=6))


@pytest.mark.parametrize("specific", [0.1, 0.4, 1.0])
def test_a_brain_with_backpropagation_is_rarely_misaligned(specific: float) -> None:
    for design in (with_specific(FMRI, specific), with_specific(MEG, specific)):
        assert judged(design, Hypothesis.BACKPROP, 40)[Verdict.MISALIGNED] <= RARELY


@pytest.mark.parametrize("design", [FMRI, MEG], ids=["fmri", "meg"])
def test_a_brain_without_gradients_rarely_shows_any(design: Design) -> None:
    found = judged(design, Hypothesis.NO_GRADIENT, 40)
    assert 40 - found[Verdict.NO_GRADIENT_SIGNAL] <= RARELY


def test_regions_share_noise_as_is_said() -> None:
    flat = FMRI.permuted[0][:, 0]
    correlation = np.corrcoef(flat.T)[np.triu_indices(len(REGION), 1)]
    assert correlation.mean() == pytest.approx(COMMON_NOISE, abs=0.06)


def test_without_noise_layers_peak_in_the_order_of_the_truth() -> None:
    clear = replace(with_specific(MEG, 1.0), n_stimuli=ENDLESS)
    found = clear.evidence(Hypothesis.BACKPROP, np.random.default_rng(0))
    assert found.signal_p <= clear.level
    assert found.forward_p <= clear.level
    assert found.agrees_p <= clear.level
    # Layers hold the responses of their neighbours, which pulls peaks together.
    assert BACKWARD_S[1] - BACKWARD_S[0] < found.reference.observed < 0
    flat = clear.evidence(Hypothesis.NO_ORDER, np.random.default_rng(0))
    assert flat.reference.observed == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize(
    ("n_columns", "unrecorded", "left"),
    [(0, False, 999), (100, False, 899), (100, True, 899), (5000, False, 599), (5000, True, 999)],
)
def test_a_baseline_takes_the_room_that_it_has(n_columns: int, unrecorded: bool, left: int) -> None:
    design = replace(FMRI, n_columns=n_columns, unrecorded=unrecorded)
    assert design.n_rows == left


def test_regions_are_driven_by_deeper_layers_further_away() -> None:
    turned = replace(FMRI, position=-FMRI.position)
    assert list(FMRI.drivers) == list(REGION)
    assert list(turned.drivers) == list(7 - REGION)
    assert slope(DEPTH[FMRI.drivers][:8], DEPTH) == pytest.approx(1)
