"""The scores that verdicts read, subject by subject."""

from collections.abc import Iterator

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from gradenc_core.compare.statistics import t_interval
from jobs.compare.compare import labels
from jobs.compare.evidence import CELLS, Order
from jobs.report.words import number, p_value, signal_title

SUBJECTS: dict[Order, str] = {"spatial": "fmri_subject", "temporal": "meg_subject"}
"""Score -> dimension of the subjects that it was computed for."""


def subject_rows(tables: xr.Dataset, level: float) -> Iterator[dict[str, str]]:
    """Yield the scores that verdicts read, of all subjects together and of each.

    `level`: the study's significance, below which a p counts.
    """
    for order, dim in SUBJECTS.items():
        if f"{order}_score" not in tables:
            continue
        for signal in labels(tables, "signal"):
            at = {"signal": signal, **CELLS[order]}
            values, p = (tables[f"{order}_{kind}"].sel(at).values for kind in ("score", "p"))
            common = {"signal": signal_title(signal), "score": order}
            yield {**common, **_together(values, p, level)}
            for subject, value, own in zip(labels(tables, dim), values, p, strict=True):
                yield {**common, "subject": subject, "value": number(value), "p": p_value(own)}


def _together(values: NDArray[np.float64], p: NDArray[np.float64], level: float) -> dict[str, str]:
    """Return the row of all subjects: mean, t interval and how many are significant."""
    low, high = t_interval(values)
    known = values[np.isfinite(values)]
    mean = known.mean() if len(known) else np.nan
    return {
        "subject": f"all {len(values)} (descriptive)",
        "value": f"{number(mean)} [{number(low)}, {number(high)}]",
        "p": f"{int((p < level).sum())} of {len(p)} below {level:g}",
    }
