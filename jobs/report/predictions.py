"""What each hypothesis predicts of a study, beside what was found (docs/methods.md)."""

from dataclasses import dataclass

import numpy as np
import xarray as xr

from gradenc_core.compare.verdict import Score
from jobs.compare.evidence import judged_score

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
        judged_score(tables, "spatial", "forward"),
        judged_score(tables, "spatial", signal),
        judged_score(tables, "temporal", "forward"),
        judged_score(tables, "temporal", signal),
        None,
    ]
    rows = tuple(
        Row(name, tuple(_cell(text, score) for text, score in zip(cells, found, strict=True)))
        for name, cells in PREDICTIONS.items()
    )
    shown = [str(score) if score else "not recorded" for score in found[:-1]]
    return HypothesisTable(title, COLUMNS, rows, (*shown, _lag(tables, signal)))


def _cell(prediction: str, score: Score | None) -> Cell:
    """Mark a prediction by whether the interval lies in it, outside it, or across."""
    if score is None or not np.isfinite(score.low) or not prediction.startswith(("<", ">")):
        return Cell(prediction)
    above, below = score.low > 0, score.high < 0
    agrees, excludes = (above, below) if prediction.startswith(">") else (below, above)
    mark, sign = ("yes", "✓") if agrees else ("no", "✗") if excludes else ("open", "?")
    return Cell(prediction, mark, sign)


def _lag(tables: xr.Dataset, signal: str) -> str:
    """Say by how much the gradient's peaks follow the forward ones, early and late layers apart."""
    if "latency" not in tables:
        return "not recorded"
    latency = tables["latency"].mean("meg_subject")
    lag = (latency.sel(signal=signal) - latency.sel(signal="forward")).values
    if np.isfinite(lag).sum() < 2:
        return "undefined"
    half = len(lag) // 2
    early, deep = (
        part[np.isfinite(part)].mean() if np.isfinite(part).any() else np.nan
        for part in (lag[:half], lag[half:])
    )
    return f"early layers {1000 * early:+.0f} ms, deep layers {1000 * deep:+.0f} ms"
