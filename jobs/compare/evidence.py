"""The evidence behind a verdict, read from the tables of comparisons.

Stage compare judges by it and the report explains it, through the same functions: so the page
cannot explain another number than the one that was judged.
"""

from collections.abc import Mapping, Sequence

import xarray as xr

from gradenc_core.compare.reference import Reference
from gradenc_core.compare.verdict import Evidence, Order
from jobs.compare.tables import labels
from storage_schemas.kinds.comparisons import CONTROL_SIGNALS, DISTANCE
from storage_schemas.sources import UNIQUE, is_control

TEMPORAL_CELL = {"correlation": "pearson"}
AGREEMENT_CELL = {"resolution": "mean_response", "kstar": "argmax", **TEMPORAL_CELL}
SPATIAL_CELL = {"position": DISTANCE, **AGREEMENT_CELL}
"""Dimension -> label of the score that a verdict reads; all others stand beside it in the store.
Its references are simulated for the mean responses of regions, so those are judged."""

CELLS: Mapping[Order, Mapping[str, str]] = {"spatial": SPATIAL_CELL, "temporal": TEMPORAL_CELL}
"""The scores that the report shows beside a verdict, in space and in time."""


def compared_signals(tables: xr.Dataset) -> list[str]:
    """Return the signals whose orders are compared: all but the controls."""
    return [signal for signal in labels(tables, "signal") if signal not in CONTROL_SIGNALS]


def judged_signals(tables: xr.Dataset) -> list[str]:
    """Return the signals that are judged: what learning signals add to the baseline."""
    return [signal for signal in compared_signals(tables) if signal.startswith(UNIQUE)]


def controls_of(tables: xr.Dataset, signal: str) -> list[str]:
    """Return the signals that a learning signal must exceed, where they are significant.

    Forward features beyond the baseline, and gradients of objectives that no brain has: a network
    shapes both, whatever is learned.
    """
    beyond = [name for name in labels(tables, "signal") if name.startswith(UNIQUE)]
    if is_control(signal):
        return [name for name in beyond if name in CONTROL_SIGNALS]
    return [name for name in beyond if is_control(name)]


def evidence_of(tables: xr.Dataset, signal: str) -> Sequence[Evidence]:
    """Return what the verdict on a learning signal rests on, of each recorded modality."""
    orders: Sequence[Order] = tables["order"].values.tolist()
    return [_of_order(tables.sel(signal=signal, order=order), order) for order in orders]


def _of_order(numbers: xr.Dataset, order: Order) -> Evidence:
    def number(name: str) -> float:
        return float(numbers[name].item())

    return Evidence(
        order=order,
        signal_p=number("signal_p"),
        control_p=number("control_p"),
        exceeds_p=number("exceeds_p"),
        forward_p=number("forward_order_p"),
        reference=Reference(
            observed=number("observed_order"),
            none_p=number("no_order_p"),
            backprop_p=number("backprop_p"),
            power=number("power"),
        ),
        agrees_p=number("agrees_p"),
    )
