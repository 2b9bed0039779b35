"""The orders that the page shows and what stands beside them, over subjects and one by one."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from gradenc_core.compare.people import FEWEST_PEOPLE, untestable
from jobs.compare.evidence import AGREEMENT_CELL, SPATIAL_CELL, TEMPORAL_CELL
from jobs.compare.tables import labels
from jobs.report.words import number, p_value, signal_title


@dataclass(frozen=True)
class Quantity:
    """A score as the page lists it.

    Attributes
    ----------
    title, name : str
        For people, and as the store's tables begin.
    cell : mapping
        Which of the stored combinations.
    subjects : str
        Dimension of its subjects.
    unit : str
        " ms" of quantities that the store holds in s.
    against_forward : bool
        Whether it compares a signal with the forward one, which then has none.
    """

    title: str
    name: str
    cell: Mapping[str, str]
    subjects: str
    unit: str = ""
    against_forward: bool = False

    def write(self, value: float) -> str:
        """Return a value as the page prints it."""
        if self.unit and np.isfinite(value):
            return f"{1000 * value:.0f}{self.unit}"
        return number(value)


QUANTITIES = (
    Quantity("spatial", "spatial", SPATIAL_CELL, "fmri_subject"),
    Quantity(
        "agreement with activations",
        "agreement",
        AGREEMENT_CELL,
        "fmri_subject",
        against_forward=True,
    ),
    Quantity("temporal", "temporal", TEMPORAL_CELL, "meg_subject"),
    *(
        Quantity(title, "timing", {"timing": timing}, "meg_subject", " ms", timing != "slope")
        for title, timing in (
            ("slope of latency, per unit of depth", "slope"),
            ("lag behind activations", "lag"),
            ("slope of lag, per unit of depth", "lag_slope"),
        )
    ),
)


def subject_rows(tables: xr.Dataset, level: float) -> Iterator[dict[str, str]]:
    """Yield the scores of all subjects together and of each.

    `level`: the study's significance, up to which a p counts.
    """
    for quantity in QUANTITIES:
        if f"{quantity.name}_score" not in tables:
            continue
        for signal in labels(tables, "signal"):
            at = {"signal": signal, **quantity.cell}
            values, p = (tables[f"{quantity.name}_{k}"].sel(at).values for k in ("score", "p"))
            if signal == "forward" and quantity.against_forward:
                continue
            common = {"signal": signal_title(signal), "score": quantity.title}
            yield {**common, **_together(tables, quantity, at, p, level)}
            names = labels(tables, quantity.subjects)
            for subject, value, own in zip(names, values, p, strict=True):
                shown = {"value": quantity.write(value), "p": p_value(own)}
                yield {**common, "subject": subject, **shown}


def people_rows(tables: xr.Dataset) -> Iterator[dict[str, str]]:
    """Yield the test over people, where they are many and regions too few for one over regions."""
    if not too_few_regions(tables) or tables.sizes["fmri_subject"] < FEWEST_PEOPLE:
        return
    cell = {dim: label for dim, label in SPATIAL_CELL.items() if dim != "correlation"}
    for signal in labels(tables, "signal"):
        at = {"signal": signal, **cell}
        values = tables["people_slope"].sel(at).values
        yield {
            "signal": signal_title(signal),
            "score": "rise of depth with position, tested over people",
            "subject": f"all {int(np.isfinite(values).sum())}",
            "value": f"{tables['people_mean'].sel(at).item():.4f} per mm; "
            f"{int((values > 0).sum())} people rise, {int((values < 0).sum())} fall",
            "p": p_value(tables["people_p"].sel(at).item()),
        }


def too_few_regions(tables: xr.Dataset) -> str:
    """Say why an order over regions has no p, where so; empty where regions are enough."""
    if "region" not in tables.coords:
        return ""
    recorded = (tables["region_voxels"] > 0).any("fmri_subject").sum().item()
    return untestable(recorded, tables.sizes["fmri_subject"])


def _together(
    tables: xr.Dataset,
    quantity: Quantity,
    at: Mapping[str, str],
    p: NDArray[np.float64],
    level: float,
) -> dict[str, str]:
    """Return the row of all subjects: mean and interval, p of the mean, and the subjects' p."""
    mean, combined, interval = (
        tables[f"{quantity.name}_{kind}"].sel(at) for kind in ("mean", "combined_p", "interval")
    )
    low, high = (quantity.write(interval.sel(bound=bound).item()) for bound in ("low", "high"))
    shown = quantity.write(mean.item())
    if np.isfinite(interval).all():
        shown += f" [{low}, {high}]"
    known = np.isfinite(p)
    alone = f" (alone: {int((p <= level).sum())} of {int(known.sum())} at or below {level:g})"
    return {
        "subject": f"all {len(p)}",
        "value": shown,
        "p": p_value(combined.item()) + (alone if known.any() else ""),
    }
