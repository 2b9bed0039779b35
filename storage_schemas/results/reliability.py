"""Scores divided by their signal's reliability, computed when they are read (docs/methods.md)."""

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from storage_schemas.results.opened import Opened, named, of_kind
from storage_schemas.sources import source_of

LEAST_RELIABILITY = 0.25
"""Nothing is divided by less: r would more than double, on an estimate that may itself be noise."""

DIVIDED_TABLES = ("region_profile", "curve")
"""Tables of comparisons that hold scores by signal and layer."""

DISATTENUATED = "_disattenuated"
"""Ends the name of a divided variable."""

_WHERE = f"NaN where the reliability is below {LEAST_RELIABILITY} or not known"


def reliabilities_of(stores: Sequence[Opened]) -> dict[tuple[str, str], xr.DataArray]:
    """Return the reliability of every layer, (layer,) without coordinates, by model and source."""
    return {
        (s.attrs["model"], s.attrs["source"]): xr.DataArray(
            s.data["reliability"].data, dims="layer"
        )
        for s in of_kind(stores, "stability")
    }


def not_known(layers: xr.DataArray) -> xr.DataArray:
    """Return NaN for every layer, (layer,) without coordinates."""
    return xr.DataArray(xr.full_like(layers, np.nan, dtype=np.float64).data, dims="layer")


def disattenuated(
    scores: xr.DataArray, reliability: xr.DataArray, explained: bool = False
) -> xr.DataArray:
    """Return r / sqrt(reliability), or U / reliability: a share of variance falls with its square.

    Spearman (1904), for the predictor alone; responses have their noise ceiling.

    Parameters
    ----------
    scores : xr.DataArray, (..., layer, ...)
    reliability : xr.DataArray, (..., layer)
        Without coordinates: its layers are those of `scores`.
    explained : bool
        Whether the scores are shares of variance (U).
    """
    known = reliability.where(reliability >= LEAST_RELIABILITY)
    formula = "score / reliability" if explained else "score / sqrt(reliability)"
    return named(scores / (known if explained else known**0.5), f"{formula}; {_WHERE}")


def with_disattenuated_tables(
    tables: xr.Dataset, reliabilities: Mapping[str, xr.DataArray]
) -> xr.Dataset:
    """Add ``reliability`` (signal, layer) and the divided tables to a model's comparisons.

    Parameters
    ----------
    reliabilities : mapping of str to xr.DataArray, (layer,)
        By source; a source that is missing has NaN.
    """
    signals = [str(signal) for signal in tables["signal"].values]
    unknown = not_known(tables["usable"].isel(signal=0))
    rows = [reliabilities.get(source_of(signal), unknown) for signal in signals]
    reliability = xr.concat(rows, "signal")
    divided = {
        name + DISATTENUATED: disattenuated(tables[name], reliability)
        for name in DIVIDED_TABLES
        if name in tables
    }
    described = named(reliability, "reliability over seeds")
    return tables.assign({"reliability": described, **divided})
