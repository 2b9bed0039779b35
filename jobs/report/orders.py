"""What every order's verdict rests on, as the page lists it."""

from collections.abc import Iterator

import numpy as np
import xarray as xr

from gradenc_core.compare.verdict import Evidence, Verdict
from jobs.compare.evidence import evidence_of, judged_signals
from jobs.report.words import number, p_value, signal_title
from storage_schemas.kinds.schema import flag_names

CLAIMS = {
    Verdict.BACKPROP_LIKE: "It says that gradients of this network and objective predict responses "
    "beyond all that the forward pass computes, in the order that backpropagation needs, wherever "
    "a modality is named with a signal. It does not say that the brain computes gradients: "
    "whatever is not linear in the activations, and ordered alike, would look the same.",
    Verdict.MISALIGNED: "It says that gradients of this network and objective predict responses "
    "beyond all that the forward pass computes, and that a brain with backpropagation would have "
    "shown a clearer order at this study's noise. It says nothing of learning signals of another "
    "network, objective or order.",
    Verdict.NO_GRADIENT_SIGNAL: "It says that this study found no linear trace of gradients beyond "
    "all that the forward pass computes. It does not say that there is none: a weaker signal, or "
    "that of another objective, would be missed.",
    Verdict.UNDECIDED: "It is no evidence for or against backpropagation: the sentence says what "
    "is missing.",
    Verdict.NOT_IDENTIFIABLE: "It says that gradients of this network's layers look too alike at "
    "this study's noise: even a brain without an order would hardly be told from backpropagation. "
    "It says nothing of the order.",
}
"""What a verdict says and does not."""


def order_rows(tables: xr.Dataset) -> Iterator[dict[str, str]]:
    """Yield the numbers of every judged signal and order."""
    for signal in judged_signals(tables):
        for evidence in evidence_of(tables, signal):
            verdicts = tables["order_verdict"]
            code = verdicts.sel(signal=signal, order=evidence.order).item()
            yield {
                "signal": signal_title(signal),
                "order": evidence.order,
                "verdict": flag_names(verdicts.attrs)[code].replace("_", " "),
                "signal_p": p_value(evidence.signal_p),
                "control_p": p_value(evidence.control_p),
                "exceeds_p": _exceeds(evidence),
                "forward_p": p_value(evidence.forward_p),
                "agrees_p": p_value(evidence.agrees_p),
                "observed": _observed(evidence),
                "place": _place(evidence),
                "power": number(evidence.reference.power),
            }


def _exceeds(evidence: Evidence) -> str:
    """Return the p that gradients exceed the controls that predict too, if any does."""
    return "not needed" if np.isnan(evidence.exceeds_p) else p_value(evidence.exceeds_p)


def _observed(evidence: Evidence) -> str:
    """Return the observed order with its unit."""
    observed = evidence.reference.observed
    if evidence.order == "spatial" or not np.isfinite(observed):
        return number(observed)
    return f"{1000 * observed:.0f} ms per unit of depth"


def _place(evidence: Evidence) -> str:
    """Say where an order falls between no order and backpropagation."""
    reference = evidence.reference
    if not np.isfinite(reference.observed):
        return "not known"
    return (
        f"{_percent(reference.none_p)} of simulated studies without an order show as much of "
        f"backpropagation's order, {_percent(reference.backprop_p)} of those with backpropagation "
        "as little"
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
