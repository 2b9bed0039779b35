"""Scores as a user opens them: by model, subject and modality, with the labels of the responses.

What is derived from the stored measures (r2, unique variance, scores divided by the noise ceiling
or by the reliability of a signal) is computed when it is read.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import xarray as xr

from storage_schemas.errors import DamagedStore
from storage_schemas.kinds.coordinates import Window, window_coords
from storage_schemas.kinds.scores import ScoresAttrs, TargetGroup
from storage_schemas.results.ceilings import NORMALISED, noise_ceiling, normalised
from storage_schemas.results.opened import Node, Opened, named, of_kind, stacked
from storage_schemas.results.partial import COMMITTED
from storage_schemas.results.reliability import (
    DISATTENUATED,
    disattenuated,
    not_known,
    reliabilities_of,
)
from storage_schemas.sources import BEYOND, source_of

GEOMETRY = ("volume_shape", "affine")
"""Attributes of responses that say where their voxels are (see `recordings.export`)."""

TARGET_DIMS = {"fmri": ("voxel",), "meg": ("sensor", "time")}
WINDOW_DIMS = ("sensor", "window")


def score_nodes(own: Sequence[Opened], stores: Sequence[Opened]) -> Iterator[Node]:
    """Yield the scores of every model, subject and modality, of all bands.

    Raises
    ------
    DamagedStore
        If the responses of a scored subject are not among the stores.
    """
    recorded = {
        (store.attrs["subject"], store.attrs["modality"]): store.data
        for store in of_kind(stores, "responses")
    }
    described = {key: _target_coords(data) for key, data in recorded.items()}
    reliabilities = reliabilities_of(stores)
    parts: dict[tuple[str, str, str], dict[str, xr.Dataset]] = {}
    rules: dict[str, dict[str, str]] = {}
    for store in own:
        attrs = store.store.described(ScoresAttrs)
        model, bands = attrs.model, attrs.bands
        rules[model] = {"fold_rule": attrs.fold_rule, "permute_within": attrs.permute_within}
        reliability = reliabilities.get((model, source_of(bands)))
        pooled = _with_reliability(_pooled_scores(store.data), reliability, bands)
        for group in attrs.groups:
            key = group.subject, group.modality
            if key not in recorded:
                raise DamagedStore(
                    f"{store.store.reference} has scores of {' '.join(key)}, whose responses "
                    "are not among the run's stores"
                )
            parts.setdefault((model, *key), {})[bands] = _of_group(
                pooled, group, described[key], bands.startswith(BEYOND)
            )
    for (model, subject, modality), views in parts.items():
        dataset = stacked(list(views.values()), "bands", list(views))
        about = recorded[subject, modality].attrs
        geometry = {name: about[name] for name in GEOMETRY if name in about}
        names = {"model": model, "subject": subject, "modality": modality}
        dataset.attrs = names | rules[model] | geometry
        yield f"/scores/{model}/{subject}/{modality}", dataset


def _pooled_scores(data: xr.Dataset) -> xr.Dataset:
    """Return r, r2, alpha and unique of a scores store, for all its targets.

    Beyond the baseline, r and r2 are of what it leaves of the responses.
    """
    flat = [name for name, coord in data.coords.items() if "target" in coord.dims]
    scores = data["scores"].drop_vars(["fold", *flat], errors="ignore")
    measures = set(scores["measure"].values.tolist())
    # NaN in a fold is NaN in the sum; differences of float32 sums would lose digits.
    totals = scores.astype("float64").sum("fold", skipna=False)
    sums = {name: totals.sel(measure=name, drop=True) for name in sorted(measures)}
    sse, sst = sums["sse"], sums["sst"]
    variables = {
        "r": named(scores.sel(measure="r", drop=True), "Pearson correlation on the held-out fold"),
        "r2": named(1 - sse / sst, "1 - sum SSE / sum SST over held-out folds"),
        "alpha": named(
            scores.sel(measure="alpha", drop=True), "ridge penalty chosen inside the training folds"
        ),
        "unique": named(
            _unique(sums), "share of variance explained beyond the baseline, or the first band"
        ),
    }
    if COMMITTED in data:
        variables[COMMITTED] = data[COMMITTED]
    return xr.Dataset(variables)


def _unique(sums: Mapping[str, xr.DataArray]) -> xr.DataArray:
    """Return U of every target, the share of its variance that a signal alone explains.

    Beyond the baseline it is what the signal explains of the rest, as a share of the whole
    response; with two bands it is what the second adds to the first. A single band has none (NaN).
    """
    sse, sst = sums["sse"], sums["sst"]
    if "total" in sums:
        return (sst - sse) / sums["total"]
    if "sse_off" in sums:
        return (sums["sse_off"] - sse) / sst
    return xr.full_like(sse, np.nan)


def _with_reliability(
    scores: xr.Dataset, reliability: xr.DataArray | None, bands: str
) -> xr.Dataset:
    """Add the reliability of the bands' source and the scores divided by it.

    Two bands together have no single source: only their unique variance is divided.
    """
    if reliability is None:
        reliability = not_known(scores["unique"].isel(target=0))
    two = "+" in bands and not bands.startswith(BEYOND)
    r = xr.full_like(scores["r"], np.nan) if two else scores["r"]
    return scores.assign(
        {
            "reliability": named(reliability, "reliability over seeds"),
            "r" + DISATTENUATED: disattenuated(r, reliability),
            "unique" + DISATTENUATED: disattenuated(scores["unique"], reliability, explained=True),
        }
    )


def _of_group(
    scores: xr.Dataset, group: TargetGroup, coords: xr.Coordinates, beyond: bool
) -> xr.Dataset:
    """Return the scores of one subject and modality over the dimensions of its responses.

    The noise ceiling is that of responses as they are: what a baseline leaves of them has another.
    """
    targets = scores.isel(target=slice(group.start, group.stop))
    if group.windows:
        return _unflatten(targets, WINDOW_DIMS, _in_windows(coords, group.windows))
    view = _unflatten(targets, TARGET_DIMS[group.modality], coords)
    r = xr.full_like(view["r"], np.nan) if beyond else view["r"]
    return view.assign({"r" + NORMALISED: normalised(r, view["noise_ceiling"])})


def _target_coords(responses: xr.Dataset) -> xr.Coordinates:
    """Return the labels of a subject's targets, with their noise ceilings."""
    described = responses.set_coords("ncsnr").drop_dims("stimulus")
    plain = described.drop_vars(COMMITTED, errors="ignore")
    return plain.assign_coords(noise_ceiling=noise_ceiling(responses)).coords


def _in_windows(coords: xr.Coordinates, windows: Sequence[Window]) -> xr.Coordinates:
    """Replace the samples by windows; the ceiling of a mean does not follow from its samples'."""
    return (
        coords.to_dataset().drop_dims("time").assign_coords(window_coords("window", windows)).coords
    )


def _unflatten(scores: xr.Dataset, dims: Sequence[str], coords: xr.Coordinates) -> xr.Dataset:
    """Split `target`, always the last dimension, into the dimensions of the responses."""
    shape = tuple(coords.sizes[dim] for dim in dims)

    def split(array: xr.DataArray) -> xr.DataArray:
        if "target" not in array.dims:
            return array
        data = array.data.reshape((*array.shape[:-1], *shape))
        return xr.DataArray(data, array.coords, (*array.dims[:-1], *dims), attrs=array.attrs)

    return xr.Dataset({name: split(a) for name, a in scores.data_vars.items()}).assign_coords(
        coords
    )
