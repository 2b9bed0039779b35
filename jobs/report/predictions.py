"""What each hypothesis predicts of a study, beside what was found (docs/methods.md)."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import xarray as xr

from gradenc_core.compare.verdict import Order
from jobs.compare.evidence import CELLS
from storage_schemas.kinds.comparisons import BOUNDS

COLUMNS = (
    "forward, space",
    "gradient, space",
    "forward, time",
    "gradient, time",
    "gradient minus forward latency",
)
PREDICTIONS: dict[str, tuple[str, ...]] = {
    "forward hierarchy": ("> 0", "", "> 0", "", ""),
    "biologically plausible backpropagation": (
        "> 0",
        "> 0",
        "> 0",
        "< 0 (deep layers first)",
        "> 0, larger for early layers",
    ),
    "reported finding (arXiv 2605.28693)": ("> 0", "departs", "> 0", "departs", "late for all"),
}


@dataclass(frozen=True)
class Score:
    """A score's mean over subjects and its 95 % interval; NaN where undefined."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        """Return the numbers as the page prints them."""
        if not np.isfinite(self.mean):
            return "undefined"
        if not np.isfinite(self.low):
            return f"{self.mean:.2f} (no interval)"
        return f"{self.mean:.2f} [{self.low:.2f}, {self.high:.2f}]"


@dataclass(frozen=True)
class Cell:
    """A prediction, with a mark (class and sign) where the finding agrees with it or not."""

    text: str
    mark: str = ""
    sign: str = ""


@dataclass(frozen=True)
class Row:
    """The predictions of one hypothesis."""

    name: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class HypothesisTable:
    """What each hypothesis predicts of one gradient, and what was found."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    found: tuple[str, ...]


def hypothesis_table(tables: xr.Dataset, signal: str, title: str) -> HypothesisTable:
    """Return the rows of predictions with marks, and the row of findings, for one gradient."""
    found = [
        _order(tables, "spatial", "forward"),
        _order(tables, "spatial", signal),
        _order(tables, "temporal", "forward"),
        _order(tables, "temporal", signal),
        _lag(tables, signal, "lag"),
    ]
    rows = tuple(
        Row(name, tuple(_cell(text, score) for text, score in zip(cells, found, strict=True)))
        for name, cells in PREDICTIONS.items()
    )
    shown = [str(score) if score else "not recorded" for score in found[:-1]]
    return HypothesisTable(title, COLUMNS, rows, (*shown, _lag_found(tables, signal)))


def _cell(prediction: str, score: Score | None) -> Cell:
    """Mark a prediction by whether the interval lies in it, outside it, or across."""
    if score is None or not np.isfinite(score.low) or not prediction.startswith(("<", ">")):
        return Cell(prediction)
    above, below = score.low > 0, score.high < 0
    agrees, excludes = (above, below) if prediction.startswith(">") else (below, above)
    mark, sign = ("yes", "✓") if agrees else ("no", "✗") if excludes else ("open", "?")
    return Cell(prediction, mark, sign)


def _order(tables: xr.Dataset, order: Order, signal: str) -> Score | None:
    """Return a signal's order in space or time; None if nobody was recorded."""
    return _score(tables, order, {"signal": signal, **CELLS[order]})


def _lag(tables: xr.Dataset, signal: str, name: str) -> Score | None:
    """Return the gradient's lag behind the activations in s, or its slope over depth."""
    return _score(tables, "timing", {"signal": signal, "timing": name})


def _score(tables: xr.Dataset, name: str, at: Mapping[str, str]) -> Score | None:
    if f"{name}_mean" not in tables:
        return None
    interval = tables[f"{name}_interval"].sel(at)
    low, high = (interval.sel(bound=bound).item() for bound in BOUNDS)
    return Score(tables[f"{name}_mean"].sel(at).item(), low, high)


def _lag_found(tables: xr.Dataset, signal: str) -> str:
    """Say by how much the gradient's peaks follow the forward ones, and how that changes."""
    lag, change = (_lag(tables, signal, name) for name in ("lag", "lag_slope"))
    if lag is None or change is None:
        return "not recorded"
    return f"{lag} s; {change} s per unit of depth"
