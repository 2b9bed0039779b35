"""The evidence behind a verdict, read from the tables of comparisons.

Stage compare judges by it and the report explains it, through the same functions: so the page
cannot explain another number than the one that was judged.
"""

from collections.abc import Mapping
from typing import Literal

import xarray as xr

from gradenc_core.compare.verdict import Evidence, Score
from jobs.spec import CompareOptions
from storage_schemas.kinds.comparisons import DISTANCE

Order = Literal["spatial", "temporal"]

TEMPORAL_CELL = {"correlation": "pearson"}
SPATIAL_CELL = {"position": DISTANCE, "resolution": "voxel", "kstar": "argmax", **TEMPORAL_CELL}
"""Dimension -> label of the score that a verdict reads; all others stand beside it in the store."""

CELLS: Mapping[Order, Mapping[str, str]] = {"spatial": SPATIAL_CELL, "temporal": TEMPORAL_CELL}
"""The scores that a verdict reads, in space and in time."""


def evidence_of(tables: xr.Dataset, signal: str, options: CompareOptions) -> Evidence:
    """Return what the verdict on a learning signal's unique variance rests on."""
    identifiable = tables["identifiable"].sel(signal=["forward", signal])
    return Evidence(
        gradient_p=tables["gradient_p"].sel(signal=signal).item(),
        forward_space=judged_score(tables, "spatial", "forward"),
        gradient_space=judged_score(tables, "spatial", signal),
        forward_time=judged_score(tables, "temporal", "forward"),
        gradient_time=judged_score(tables, "temporal", signal),
        identifiable=bool(identifiable.all()),
        significance=options.significance,
        smallest_effect=options.smallest_effect,
    )


def judged_score(tables: xr.Dataset, order: Order, signal: str) -> Score | None:
    """Return the spatial or temporal score that a verdict reads; None if nobody was recorded."""
    if f"{order}_mean" not in tables:
        return None
    cell = {"signal": signal, **CELLS[order]}
    interval = tables[f"{order}_interval"].sel(cell)
    low, high = (interval.sel(bound=bound).item() for bound in ("low", "high"))
    return Score(tables[f"{order}_mean"].sel(cell).item(), low, high)
