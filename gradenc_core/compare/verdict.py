"""The verdict on one model's gradient signal (docs/methods.md).

fMRI decides the spatial order and MEG or EEG the temporal one, each by itself; a study's verdict
follows from both. "Not significant" never means "misaligned": a departure is the rejection of
backpropagation at the study's own noise, where the study could have told it from no order.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

import numpy as np

from gradenc_core.compare.reference import Reference

LEAST_POWER = 0.5
"""Share of brains without an order that a study must be able to tell from backpropagation."""

Order = Literal["spatial", "temporal"]


class Verdict(StrEnum):
    """The conclusion of a study about a gradient signal."""

    NO_GRADIENT_SIGNAL = "no_gradient_signal"
    BACKPROP_LIKE = "backprop_like"
    MISALIGNED = "misaligned"
    UNDECIDED = "undecided"
    NOT_IDENTIFIABLE = "not_identifiable"


@dataclass(frozen=True)
class Evidence:
    """The numbers of one modality that a verdict rests on; p are one-sided, NaN where untested.

    Attributes
    ----------
    order : {"spatial", "temporal"}
        fMRI decides the spatial order, MEG or EEG the temporal one.
    signal_p : float
        Of U, what gradients predict beyond the baseline.
    control_p : float
        The smallest p of the controls (forward features, and gradients of random objectives);
        NaN where the baseline leaves nothing of them.
    exceeds_p : float
        That gradients predict more than a control, the largest over the controls that predict
        beyond the baseline; NaN where none does.
    forward_p : float
        Of the forward order: preferred depth rises along the cortex, or deeper layers peak later.
    reference : Reference
        The gradient's order between no order and backpropagation.
    agrees_p : float
        That a region's gradients prefer the layer that its activations prefer, or that gradients
        come later than activations.
    """

    order: Order
    signal_p: float
    control_p: float
    exceeds_p: float
    forward_p: float
    reference: Reference
    agrees_p: float


@dataclass(frozen=True)
class Judgement:
    """A verdict and the sentences that explain it with its numbers."""

    verdict: Verdict
    sentence: str


def judge(evidence: Sequence[Evidence], significance: float) -> Judgement:
    """Judge a gradient signal by all modalities that were recorded.

    Parameters
    ----------
    evidence : sequence of Evidence
        One per recorded modality.
    significance : float
        Of the study: each of k modalities is judged at `significance / k`, at which the power of
        its reference must be stated too.

    Returns
    -------
    Judgement
        A modality without a gradient signal says nothing of its order, and so does one in which the
        order cannot be seen. The first that holds:

        - `no_gradient_signal`: no modality has one;
        - `misaligned`: one modality is, even where another follows backpropagation;
        - `not_identifiable`: no modality with a signal can show its order;
        - `backprop_like`: all that say something of their order are;
        - `undecided`.

    Raises
    ------
    ValueError
        Without any evidence.

    Notes
    -----
    The hypotheses are those of arXiv 2605.28693; the rules are this project's (docs/methods.md).

    Examples
    --------
    >>> from gradenc_core.compare.reference import Reference
    >>> from gradenc_core.compare.verdict import Evidence, judge
    >>> evidence = Evidence(
    ...     order="spatial",
    ...     signal_p=0.002,
    ...     control_p=0.4,
    ...     exceeds_p=float("nan"),
    ...     forward_p=0.001,
    ...     reference=Reference(observed=0.8, none_p=0.004, backprop_p=0.6, power=0.9),
    ...     agrees_p=0.003,
    ... )
    >>> print(judge([evidence], significance=0.05).verdict)
    backprop_like
    """
    if not evidence:
        raise ValueError("no modality to judge: give the evidence of one at least")
    level = significance / len(evidence)
    judged = {e.order: judge_order(e, level) for e in evidence}
    verdict = _over_orders([judgement.verdict for judgement in judged.values()])
    sentences = [judgement.sentence for judgement in judged.values()]
    return Judgement(verdict, " ".join([*sentences, *_silence(judged)]))


def _over_orders(verdicts: Sequence[Verdict]) -> Verdict:
    heard = {verdict for verdict in verdicts if verdict != Verdict.NO_GRADIENT_SIGNAL}
    if not heard:
        return Verdict.NO_GRADIENT_SIGNAL
    if Verdict.MISALIGNED in heard:
        return Verdict.MISALIGNED
    heard -= {Verdict.NOT_IDENTIFIABLE}
    if not heard:
        return Verdict.NOT_IDENTIFIABLE
    return heard.pop() if len(heard) == 1 else Verdict.UNDECIDED


def _silence(judged: dict[Order, Judgement]) -> list[str]:
    """Name the orders of which nothing is said."""
    nothing = (Verdict.NO_GRADIENT_SIGNAL, Verdict.NOT_IDENTIFIABLE)
    heard = [order for order, judgement in judged.items() if judgement.verdict not in nothing]
    silent = [name for order, name in _NAMES.items() if order not in heard]
    return [f"Nothing is said of the order {' or '.join(silent)}."] if silent else []


def judge_order(evidence: Evidence, level: float) -> Judgement:
    """Judge the order of one modality.

    Parameters
    ----------
    evidence : Evidence
    level : float
        That each p may reach.

    Returns
    -------
    Judgement
        The first of these that holds:

        - `undecided`: U has no p;
        - `no_gradient_signal`: the p of U is above the level;
        - `undecided`: a control predicts beyond the baseline as well and is not exceeded, or the
          order has no score;
        - `backprop_like`: no order is rejected and backpropagation is not, the forward order is
          established, and gradients agree with it (space) or come after it (time);
        - `not_identifiable`: fewer than half of the brains without an order would be told from
          backpropagation;
        - `misaligned`: backpropagation is rejected and no order is not, and the forward order is
          established: without it there is nothing to depart from;
        - `undecided`.
    """
    verdict, said = _without_order(evidence, level) or _of_order(evidence, level)
    return Judgement(verdict, f"{_PLACES[evidence.order]}, {said}.")


_NAMES: dict[Order, str] = {"spatial": "in space", "temporal": "in time"}
_PLACES: dict[Order, str] = {"spatial": "In space (fMRI)", "temporal": "In time (MEG or EEG)"}


def _without_order(evidence: Evidence, level: float) -> tuple[Verdict, str] | None:
    """Judge what needs no order; None where there is a signal whose order can be judged."""
    if np.isnan(evidence.signal_p):
        return (
            Verdict.UNDECIDED,
            "whether gradients predict responses beyond the baseline could not be tested",
        )
    if evidence.signal_p > level:
        return (
            Verdict.NO_GRADIENT_SIGNAL,
            f"gradients predict nothing beyond the baseline ({_p(evidence.signal_p)})",
        )
    if evidence.exceeds_p > level:
        return (
            Verdict.UNDECIDED,
            f"controls predict beyond the baseline too ({_p(evidence.control_p)}), and gradients "
            f"do not surely exceed them ({_p(evidence.exceeds_p)}): they may show what the "
            "baseline lacks, or what any objective would",
        )
    if np.isnan(evidence.reference.observed):
        return Verdict.UNDECIDED, f"{_signal(evidence)}, but their order has no score"
    return None


def _of_order(evidence: Evidence, level: float) -> tuple[Verdict, str]:
    """Judge the order of a gradient signal that is there."""
    reference = evidence.reference
    established = evidence.forward_p <= level
    no_order_rejected = reference.none_p <= level
    backprop_rejected = reference.backprop_p <= level
    agrees = evidence.agrees_p <= level
    if no_order_rejected and not backprop_rejected and agrees and established:
        return (
            Verdict.BACKPROP_LIKE,
            f"{_signal(evidence)} in the order that backpropagation needs: {_numbers(evidence)}",
        )
    if reference.power < LEAST_POWER:
        return (
            Verdict.NOT_IDENTIFIABLE,
            f"{_signal(evidence)}, but this study can hardly tell backpropagation from no order: "
            f"{_numbers(evidence)}",
        )
    if backprop_rejected and not no_order_rejected and established:
        return (
            Verdict.MISALIGNED,
            f"{_signal(evidence)}, but not in the order that backpropagation would show at this "
            f"study's noise: {_numbers(evidence)}",
        )
    return (
        Verdict.UNDECIDED,
        f"{_signal(evidence)}, but it is open in which order: {_numbers(evidence)}",
    )


def _signal(evidence: Evidence) -> str:
    return f"gradients predict responses beyond the baseline ({_p(evidence.signal_p)})"


def _numbers(evidence: Evidence) -> str:
    """Return all numbers of an order as a report prints them."""
    reference = evidence.reference
    if evidence.order == "spatial":
        order = f"preferred depth follows position at r = {reference.observed:.2f}"
        agrees = "agreement with the activations' layers"
    else:
        order = f"latency changes by {reference.observed:.3f} s per unit depth"
        agrees = "gradients after activations"
    return (
        f"{order} (no order {_p(reference.none_p)}, backpropagation {_p(reference.backprop_p)}, "
        f"power {reference.power:.2f}); {agrees} {_p(evidence.agrees_p)}, "
        f"forward order {_p(evidence.forward_p)}"
    )


def _p(p: float) -> str:
    if np.isnan(p):
        return "p not known"
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
