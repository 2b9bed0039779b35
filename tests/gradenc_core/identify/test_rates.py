"""Rates of verdicts over simulated studies, and the advice that follows."""

from dataclasses import replace

import numpy as np
import pytest

from gradenc_core.compare.verdict import Verdict
from gradenc_core.identify import rates
from gradenc_core.identify.assumed import Assumed
from gradenc_core.identify.design import Hypothesis
from gradenc_core.identify.fmri import FmriDesign
from gradenc_core.identify.rates import PLANNED, Rates, changed, identify, n_simulated

REGION = np.arange(6)
DESIGN = FmriDesign(
    1, 200, 5, 0, False, np.arange(1, 12) / 11, 0.05, Assumed(), 10.0 * REGION, REGION
)
STIMULI, SUBJECTS, LAYERS = rates.CHANGES


def of_power(found: float = 1.0, **power: float) -> Rates:
    verdicts = {Hypothesis.BACKPROP: {Verdict.NO_GRADIENT_SIGNAL: 1 - found}}
    names = {"planned": PLANNED, "stimuli": STIMULI, "subjects": SUBJECTS, "layers": LAYERS}
    return Rates(verdicts, {names[name]: value for name, value in power.items()})


def test_every_study_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "N_STUDIES", 3)
    monkeypatch.setattr(rates, "N_FOR_POWER", 2)
    told: list[None] = []
    found = identify(DESIGN, lambda: told.append(None))
    assert len(told) == n_simulated(DESIGN) == 3 * 3 + 6 * 2
    for shares in found.verdicts.values():
        assert sum(shares.values()) == pytest.approx(1)
    assert all(0 <= power <= 1 for power in found.power.values())
    assert identify(DESIGN) == found


def test_designs_change_in_one_size_each() -> None:
    designs = changed(DESIGN)
    assert designs[PLANNED] is DESIGN
    assert designs[STIMULI].n_stimuli == 400
    assert designs[SUBJECTS].n_subjects == 2
    assert np.allclose(designs[LAYERS].depth, np.arange(1, 12, 2) / 11)
    assert designs["as planned, 100% specific"].assumed == Assumed(specific=1.0)
    even = replace(DESIGN, depth=np.arange(1, 13) / 12)
    assert np.allclose(changed(even)[LAYERS].depth, np.arange(2, 13, 2) / 12)
    assert LAYERS not in changed(replace(DESIGN, depth=np.arange(1, 10) / 9))


def test_the_greatest_help_is_named() -> None:
    best = of_power(planned=0.3, stimuli=0.5, subjects=0.7, layers=0.2).advice()
    assert best == "Most would help twice the subjects: power 0.70 instead of 0.30."
    assert "needs no help" in of_power(planned=0.85, stimuli=1.0, subjects=1.0).advice()


def test_what_limits_a_study_is_said_where_nothing_helps() -> None:
    small = {"planned": 0.04, "stimuli": 0.05, "subjects": 0.06}
    assert "found in 10% of such brains" in of_power(found=0.1, **small).advice()
    assert "hardly seen" in of_power(found=0.9, **small).advice()
