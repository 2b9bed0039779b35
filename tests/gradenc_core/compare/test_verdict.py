from dataclasses import replace

import pytest

from gradenc_core.compare.verdict import Evidence, Score, Verdict, judge

NAN = float("nan")
FOLLOWS = Evidence(
    gradient_p=0.001,
    forward_space=Score(0.9, 0.8, 0.95),
    gradient_space=Score(0.8, 0.6, 0.9),
    forward_time=Score(0.9, 0.7, 0.95),
    gradient_time=Score(-0.8, -0.9, -0.5),
    identifiable=True,
    significance=0.05,
    smallest_effect=0.5,
)
FLAT = Score(0.02, -0.1, 0.15)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, Verdict.BACKPROP_LIKE),
        ({"identifiable": False}, Verdict.NOT_IDENTIFIABLE),
        ({"gradient_p": 0.05}, Verdict.BACKPROP_LIKE),
        ({"gradient_p": 0.051}, Verdict.NO_GRADIENT_SIGNAL),
        # What could not be tested is not absent.
        ({"gradient_p": NAN}, Verdict.UNDECIDED),
        ({"gradient_p": NAN, "identifiable": False}, Verdict.NOT_IDENTIFIABLE),
        ({"gradient_p": 0.9, "identifiable": False}, Verdict.NOT_IDENTIFIABLE),
        ({"gradient_p": 0.9, "gradient_space": FLAT}, Verdict.NO_GRADIENT_SIGNAL),
        ({"gradient_space": FLAT}, Verdict.MISALIGNED),
        ({"gradient_time": Score(0.0, -0.2, 0.2)}, Verdict.MISALIGNED),
        # Not significant is not misaligned: the interval must exclude the smallest effect.
        ({"gradient_space": Score(0.1, -0.6, 0.7)}, Verdict.UNDECIDED),
        ({"gradient_time": Score(-0.3, -0.7, 0.2)}, Verdict.UNDECIDED),
        # Half of no order is no order: forward must have a hierarchy to depart from.
        ({"gradient_space": FLAT, "forward_space": Score(0.2, -0.3, 0.6)}, Verdict.UNDECIDED),
        ({"gradient_time": Score(0, -0.2, 0.2), "forward_time": FLAT}, Verdict.UNDECIDED),
        ({"gradient_space": Score(NAN, NAN, NAN)}, Verdict.UNDECIDED),
        ({"gradient_space": Score(0.7, NAN, NAN)}, Verdict.UNDECIDED),
        # Early layers first, like the forward pass, is the departure in time.
        ({"gradient_time": Score(0.8, 0.6, 0.9)}, Verdict.MISALIGNED),
        ({"gradient_space": Score(-0.8, -0.9, -0.5)}, Verdict.MISALIGNED),
        # One modality follows, the other is open; bounds that touch decide nothing.
        ({"gradient_time": Score(-0.6, -0.9, 0.0)}, Verdict.UNDECIDED),
        ({"gradient_space": Score(0.2, -0.1, 0.45)}, Verdict.UNDECIDED),
        ({"gradient_time": Score(-0.2, -0.45, 0.1)}, Verdict.UNDECIDED),
        ({"forward_time": None, "gradient_time": None}, Verdict.BACKPROP_LIKE),
        ({"forward_space": None, "gradient_space": None}, Verdict.BACKPROP_LIKE),
    ],
)
def test_every_branch(changes: dict, expected: Verdict) -> None:
    judgement = judge(replace(FOLLOWS, **changes))
    assert judgement.verdict == expected
    assert judgement.sentence.endswith(".")


def test_the_smallest_effect_decides_where_a_departure_begins() -> None:
    weak = replace(FOLLOWS, gradient_space=Score(0.3, 0.2, 0.4))
    assert judge(weak).verdict == Verdict.MISALIGNED
    assert judge(replace(weak, smallest_effect=0.3)).verdict == Verdict.BACKPROP_LIKE


def test_sentences_state_the_numbers() -> None:
    follows = judge(FOLLOWS).sentence
    assert "p = 0.001" in follows
    assert "spatial score 0.80 [0.60, 0.90], temporal score -0.80 [-0.90, -0.50]" in follows
    departs = judge(replace(FOLLOWS, gradient_space=FLAT)).sentence
    assert "spatial order, 0.02 [-0.10, 0.15], is below 0.45" in departs
    assert "forward: 0.90 [0.80, 0.95]" in departs


def test_an_undecided_sentence_says_what_is_missing() -> None:
    open_space = replace(FOLLOWS, gradient_space=FLAT, forward_space=Score(0.2, -0.3, 0.6))
    assert "nor is the forward hierarchy established in space (0.20 [-0.30, 0.60])" in (
        judge(open_space).sentence
    )
    nothing = replace(
        FOLLOWS, forward_space=None, gradient_space=None, forward_time=None, gradient_time=None
    )
    assert judge(nothing).verdict == Verdict.UNDECIDED
    assert "no hierarchy score" in judge(nothing).sentence
    assert "could not be tested" in judge(replace(FOLLOWS, gradient_p=NAN)).sentence
