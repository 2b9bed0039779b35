"""Every branch of the verdict on one order, and of the verdict over both."""

from dataclasses import replace

import pytest

from gradenc_core.compare.reference import Reference
from gradenc_core.compare.verdict import Evidence, Verdict, judge, judge_order

NAN = float("nan")
LEVEL = 0.025
SPACE = Evidence(
    order="spatial",
    signal_p=0.001,
    control_p=0.4,
    exceeds_p=NAN,
    forward_p=0.002,
    reference=Reference(observed=0.7, none_p=0.004, backprop_p=0.5, power=0.9),
    agrees_p=0.003,
)
TIME = replace(
    SPACE,
    order="temporal",
    reference=Reference(observed=-0.18, none_p=0.004, backprop_p=0.5, power=0.9),
)
DEPARTS = {"none_p": 0.4, "backprop_p": 0.001}


def changed(evidence: Evidence, changes: dict[str, float]) -> Evidence:
    """Change numbers of the evidence, or of its reference."""
    own = {name: value for name, value in changes.items() if hasattr(evidence, name)}
    rest = {name: value for name, value in changes.items() if name not in own}
    return replace(evidence, reference=replace(evidence.reference, **rest), **own)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, Verdict.BACKPROP_LIKE),
        # What could not be tested is not absent.
        ({"signal_p": NAN}, Verdict.UNDECIDED),
        ({"signal_p": NAN, "control_p": 0.001}, Verdict.UNDECIDED),
        # A control that is significant is exceeded, or nothing is said.
        ({"control_p": 0.001, "exceeds_p": LEVEL}, Verdict.BACKPROP_LIKE),
        ({"control_p": 0.001, "exceeds_p": 0.026}, Verdict.UNDECIDED),
        # Nothing of the controls lies beyond the baseline.
        ({"control_p": NAN}, Verdict.BACKPROP_LIKE),
        (
            {"control_p": 0.001, "exceeds_p": 1.0, "signal_p": 0.5},
            Verdict.NO_GRADIENT_SIGNAL,
        ),
        ({"signal_p": LEVEL}, Verdict.BACKPROP_LIKE),
        ({"signal_p": 0.026}, Verdict.NO_GRADIENT_SIGNAL),
        ({"observed": NAN, "none_p": NAN, "backprop_p": NAN, "power": NAN}, Verdict.UNDECIDED),
        ({"signal_p": 0.5, "observed": NAN}, Verdict.NO_GRADIENT_SIGNAL),
        ({"none_p": LEVEL}, Verdict.BACKPROP_LIKE),
        ({"none_p": 0.026}, Verdict.UNDECIDED),
        ({"agrees_p": LEVEL}, Verdict.BACKPROP_LIKE),
        ({"agrees_p": 0.026}, Verdict.UNDECIDED),
        ({"agrees_p": NAN}, Verdict.UNDECIDED),
        ({"forward_p": 0.026}, Verdict.UNDECIDED),
        ({"forward_p": NAN}, Verdict.UNDECIDED),
        # An order that low power could still show is shown.
        ({"power": 0.1}, Verdict.BACKPROP_LIKE),
        ({"power": 0.49, "none_p": 0.2}, Verdict.NOT_IDENTIFIABLE),
        ({"power": 0.49, **DEPARTS}, Verdict.NOT_IDENTIFIABLE),
        ({"power": 0.5, **DEPARTS}, Verdict.MISALIGNED),
        ({**DEPARTS, "backprop_p": LEVEL}, Verdict.MISALIGNED),
        ({**DEPARTS, "backprop_p": 0.026}, Verdict.UNDECIDED),
        # Without a forward order there is nothing to depart from.
        ({**DEPARTS, "forward_p": 0.026}, Verdict.UNDECIDED),
        ({**DEPARTS, "agrees_p": 0.9}, Verdict.MISALIGNED),
        # Worse than backpropagation and better than no order: neither.
        ({**DEPARTS, "none_p": LEVEL}, Verdict.UNDECIDED),
    ],
)
def test_every_branch_of_one_order(changes: dict[str, float], expected: Verdict) -> None:
    for evidence in (SPACE, TIME):
        judgement = judge_order(changed(evidence, changes), LEVEL)
        assert judgement.verdict == expected
        assert judgement.sentence.endswith(".")


SILENT = {"signal_p": 0.5}
OPEN = {"none_p": 0.2}
BLIND = {"none_p": 0.2, "power": 0.2}
UNTESTED = {"signal_p": NAN}


@pytest.mark.parametrize(
    ("in_space", "in_time", "expected"),
    [
        ({}, {}, Verdict.BACKPROP_LIKE),
        ({}, SILENT, Verdict.BACKPROP_LIKE),
        ({}, DEPARTS, Verdict.MISALIGNED),
        ({}, OPEN, Verdict.UNDECIDED),
        # Where an order cannot be seen, nothing is said of it.
        ({}, BLIND, Verdict.BACKPROP_LIKE),
        (BLIND, DEPARTS, Verdict.MISALIGNED),
        ({}, UNTESTED, Verdict.UNDECIDED),
        (SILENT, SILENT, Verdict.NO_GRADIENT_SIGNAL),
        (SILENT, UNTESTED, Verdict.UNDECIDED),
        (SILENT, DEPARTS, Verdict.MISALIGNED),
        (SILENT, BLIND, Verdict.NOT_IDENTIFIABLE),
        (BLIND, BLIND, Verdict.NOT_IDENTIFIABLE),
        (BLIND, OPEN, Verdict.UNDECIDED),
        (DEPARTS, UNTESTED, Verdict.MISALIGNED),
    ],
)
def test_every_branch_over_both_orders(
    in_space: dict[str, float], in_time: dict[str, float], expected: Verdict
) -> None:
    evidence = [changed(SPACE, in_space), changed(TIME, in_time)]
    assert judge(evidence, 2 * LEVEL).verdict == expected
    assert judge(evidence[::-1], 2 * LEVEL).verdict == expected


def test_two_modalities_share_the_level() -> None:
    weak = changed(SPACE, {"signal_p": 0.04})
    assert judge([weak], 0.05).verdict == Verdict.BACKPROP_LIKE
    silent = changed(TIME, SILENT)
    assert judge([weak, silent], 0.05).verdict == Verdict.NO_GRADIENT_SIGNAL


def test_no_modality_is_no_verdict() -> None:
    with pytest.raises(ValueError, match="no modality"):
        judge([], 0.05)


def test_sentences_state_the_numbers() -> None:
    assert judge_order(SPACE, LEVEL).sentence == (
        "In space (fMRI), gradients predict responses beyond the baseline (p = 0.001) in the order "
        "that backpropagation needs: preferred depth follows position at r = 0.70 (no order "
        "p = 0.004, backpropagation p = 0.500, power 0.90); agreement with the activations' "
        "layers p = 0.003, forward order p = 0.002."
    )
    departs = judge_order(changed(TIME, DEPARTS), LEVEL).sentence
    assert departs.startswith("In time (MEG or EEG), ")
    assert "but not in the order" in departs
    assert "latency changes by -0.180 s per unit depth" in departs
    assert "power 0.20" in judge_order(changed(SPACE, BLIND), LEVEL).sentence
    assert "forward order p not known" in (
        judge_order(changed(SPACE, {"forward_p": NAN}), LEVEL).sentence
    )
    equal = judge_order(changed(SPACE, {"control_p": 1e-4, "exceeds_p": 0.3}), LEVEL).sentence
    assert "controls predict beyond the baseline too (p < 0.001)" in equal
    assert "do not surely exceed them (p = 0.300)" in equal


def test_a_sentence_says_what_is_not_said() -> None:
    both = judge([SPACE, TIME], 0.05).sentence
    assert "Nothing is said" not in both
    assert judge([TIME], 0.05).sentence.endswith("Nothing is said of the order in space.")
    silent = judge([changed(SPACE, SILENT), TIME], 0.05).sentence
    assert "gradients predict nothing beyond the baseline (p = 0.500)" in silent
    assert silent.endswith("Nothing is said of the order in space.")
    blind = judge([SPACE, changed(TIME, BLIND)], 0.05).sentence
    assert blind.endswith("Nothing is said of the order in time.")
    neither = judge([changed(SPACE, SILENT), changed(TIME, SILENT)], 0.05)
    assert neither.sentence.endswith("Nothing is said of the order in space or in time.")
