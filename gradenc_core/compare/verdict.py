"""The verdict on one model's gradient signal (docs/methods.md).

"Not significant" never means "misaligned": a departure needs an interval that excludes the smallest
effect of interest.
"""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np


class Verdict(StrEnum):
    """The conclusion of a study about a gradient signal."""

    NO_GRADIENT_SIGNAL = "no_gradient_signal"
    BACKPROP_LIKE = "backprop_like"
    MISALIGNED = "misaligned"
    UNDECIDED = "undecided"
    NOT_IDENTIFIABLE = "not_identifiable"


@dataclass(frozen=True)
class Score:
    """A score's mean over subjects and its 95 % interval; NaN where undefined."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        """Return the numbers as a report prints them."""
        if not np.isfinite(self.mean):
            return "undefined"
        if not np.isfinite(self.low):
            return f"{self.mean:.2f} (no interval)"
        return f"{self.mean:.2f} [{self.low:.2f}, {self.high:.2f}]"


@dataclass(frozen=True)
class Evidence:
    """The numbers that a verdict rests on; scores of a modality that was not recorded are None.

    Attributes
    ----------
    gradient_p : float
        Maximum-statistic p of U over subjects and modalities.
    forward_space, gradient_space : Score or None
        Spatial scores of the activations (in r) and of the gradient (in U).
    forward_time, gradient_time : Score or None
        Temporal scores.
    identifiable : bool
        Whether the layers can be told apart in both signals.
    significance : float
        Level that `gradient_p` may reach.
    smallest_effect : float
        Share of the forward score that a gradient order must reach to count as an order.
    """

    gradient_p: float
    forward_space: Score | None
    gradient_space: Score | None
    forward_time: Score | None
    gradient_time: Score | None
    identifiable: bool
    significance: float
    smallest_effect: float


@dataclass(frozen=True)
class Judgement:
    """A verdict and the sentence that explains it with its numbers."""

    verdict: Verdict
    sentence: str


def judge(evidence: Evidence) -> Judgement:
    """Judge a gradient signal.

    Parameters
    ----------
    evidence : Evidence

    Returns
    -------
    Judgement
        The first of these that holds:

        - `not_identifiable`: the layers are too alike for an order to mean anything;
        - `undecided`: U has no p value;
        - `no_gradient_signal`: the p of U is above the level;
        - `misaligned`: in one recorded modality the forward hierarchy is established (its interval
          is above 0) and the gradient's interval excludes the smallest effect of interest, even
          where the other modality follows. Without a forward hierarchy there is nothing to
          depart from;
        - `backprop_like`: in every recorded modality the interval has the sign that
          backpropagation needs: above 0 in space, below 0 in time (deep layers first);
        - `undecided`.

    Notes
    -----
    The hypotheses are those of arXiv 2605.28693; the rules are this project's (docs/methods.md).

    Examples
    --------
    >>> from gradenc_core.compare.verdict import Evidence, Score, judge
    >>> evidence = Evidence(
    ...     gradient_p=0.002,
    ...     forward_space=Score(0.8, 0.7, 0.9),
    ...     gradient_space=Score(0.6, 0.4, 0.8),
    ...     forward_time=None,
    ...     gradient_time=None,
    ...     identifiable=True,
    ...     significance=0.05,
    ...     smallest_effect=0.5,
    ... )
    >>> print(judge(evidence).verdict)
    backprop_like
    """
    if not evidence.identifiable:
        return Judgement(
            Verdict.NOT_IDENTIFIABLE,
            "The layers of this model are too alike (linear CKA) for their order to mean anything.",
        )
    if np.isnan(evidence.gradient_p):
        return Judgement(
            Verdict.UNDECIDED,
            "Whether gradients predict the brain beyond all activations could not be tested: "
            "U has no p value.",
        )
    if evidence.gradient_p > evidence.significance:
        return Judgement(
            Verdict.NO_GRADIENT_SIGNAL,
            "Gradients predict nothing beyond the activations of all layers together "
            f"(U: {_p(evidence)}).",
        )
    return _judge_order(evidence)


def _judge_order(evidence: Evidence) -> Judgement:
    """Judge the order of a gradient signal that is there."""
    departures = _departures(evidence)
    if departures:
        return Judgement(
            Verdict.MISALIGNED,
            "Gradients do predict the brain beyond all activations "
            f"(U: {_p(evidence)}), but {' and '.join(departures)}.",
        )
    if _follows(evidence):
        return Judgement(
            Verdict.BACKPROP_LIKE,
            "Gradients predict the brain beyond all activations "
            f"(U: {_p(evidence)}) in the order that backpropagation needs: "
            f"{_scores(evidence)}.",
        )
    return Judgement(
        Verdict.UNDECIDED,
        "Gradients predict the brain beyond all activations "
        f"(U: {_p(evidence)}), but the intervals neither show nor exclude the order "
        f"that backpropagation needs: {_scores(evidence)}{_unestablished(evidence)}.",
    )


def _follows(evidence: Evidence) -> bool:
    space, time = evidence.gradient_space, evidence.gradient_time
    recorded = [score for score in (space, time) if score is not None]
    in_space = space is None or space.low > 0
    in_time = time is None or time.high < 0
    return bool(recorded) and in_space and in_time


def _departures(evidence: Evidence) -> list[str]:
    """Describe the modalities whose interval excludes the smallest effect of interest."""
    found = []
    forward, gradient = evidence.forward_space, evidence.gradient_space
    if forward and gradient and forward.low > 0:
        least = evidence.smallest_effect * forward.mean
        if gradient.high < least:
            found.append(
                f"their spatial order, {gradient}, is below {least:.2f}, the smallest effect of "
                f"interest (forward: {forward})"
            )
    forward, gradient = evidence.forward_time, evidence.gradient_time
    if forward and gradient and forward.low > 0:
        least = -evidence.smallest_effect * forward.mean
        if gradient.low > least:
            found.append(
                f"their temporal order, {gradient}, is above {least:.2f}, the smallest effect of "
                f"interest (forward: {forward})"
            )
    return found


def _scores(evidence: Evidence) -> str:
    parts = [
        f"{name} {score}"
        for name, score in (
            ("spatial score", evidence.gradient_space),
            ("temporal score", evidence.gradient_time),
        )
        if score is not None
    ]
    return ", ".join(parts) or "no hierarchy score"


def _unestablished(evidence: Evidence) -> str:
    """Name the modalities without a forward hierarchy that a gradient could depart from."""
    names = [
        f"{name} ({score})"
        for name, score in (("space", evidence.forward_space), ("time", evidence.forward_time))
        if score is not None and not score.low > 0
    ]
    return f"; nor is the forward hierarchy established in {' or '.join(names)}" if names else ""


def _p(evidence: Evidence) -> str:
    p = evidence.gradient_p
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
