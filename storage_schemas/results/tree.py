"""How stores look in the tree of results: one builder per kind, arrays in, labelled arrays out.

Each builder takes all stores of its kind and yields (path in the tree, lazy dataset).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from storage_schemas.errors import DamagedStore
from storage_schemas.kinds.coordinates import Window, window_coords
from storage_schemas.kinds.names import source_of
from storage_schemas.protocol.store import Store
from storage_schemas.results.labels import LabelIndex
from storage_schemas.results.partial import COMMITTED, partial_dataset
from storage_schemas.results.reliability import (
    DISATTENUATED,
    disattenuated,
    not_known,
    with_disattenuated_tables,
)

Node = tuple[str, xr.Dataset]


@dataclass(frozen=True)
class Opened:
    """A store with its lazy data."""

    store: Store
    data: xr.Dataset

    @property
    def attrs(self) -> dict[str, Any]:
        """The store's attributes under the study's names."""
        return self.store.attrs


Builder = Callable[[Sequence[Opened], Sequence[Opened]], Iterator[Node]]

GEOMETRY = ("volume_shape", "affine")
"""Attributes of responses that say where their voxels are (see `recordings.export`)."""

LABELS = ("roi", "hemisphere", "subject", "model")
"""Coordinates of targets and layers that can be selected like dimensions."""

TARGET_DIMS = {"fmri": ("voxel",), "meg": ("sensor", "time")}
WINDOW_DIMS = ("sensor", "window")


def build_nodes(stores: Sequence[Store], partial: bool = False) -> dict[str, xr.Dataset]:
    """Return the datasets of the tree by path.

    With `partial`, each has the coordinate ``committed`` and the attribute ``completeness``.

    Raises
    ------
    ValueError
        If two stores claim the same place.
    """
    read = partial_dataset if partial else Store.dataset
    opened = [Opened(store, read(store)) for store in stores]
    nodes: dict[str, xr.Dataset] = {}
    for kind, builder in BUILDERS.items():
        for path, dataset in builder(_of_kind(opened, kind), opened):
            if path in nodes:
                raise ValueError(f"two stores of this run hold {path}; plan it in a new folder")
            shown = _with_completeness(dataset) if partial else dataset
            nodes[path] = with_indexes(shown)
    return nodes


def with_indexes(dataset: xr.Dataset) -> xr.Dataset:
    """Let `.sel` take the labels of targets, also together: ``.sel(subject="01", roi="V4")``."""
    for dim in list(dataset.dims):
        shared = [n for n in LABELS if n in dataset.coords and dataset[n].dims == (dim,)]
        if shared:
            # One index for all of a dimension: xarray takes no labels of two.
            own = [str(dim)] if dim in dataset.xindexes else []
            dataset = dataset.drop_indexes(own).set_xindex([*own, *shared], LabelIndex)
    return dataset


def _with_completeness(dataset: xr.Dataset) -> xr.Dataset:
    share = float(dataset[COMMITTED].mean())
    return dataset.set_coords(COMMITTED).assign_attrs(completeness=share)


def _prepared(own: Sequence[Opened], stores: Sequence[Opened]) -> Iterator[Node]:
    """Weights' digest; class of every gradient source's layers (source, layer)."""
    for store in own:
        model = store.attrs["model"]
        classes = [s for s in _of_kind(stores, "classes") if s.attrs["model"] == model]
        parts = [store.data]
        if classes:
            sources = [s.attrs["source"] for s in classes]
            stacked = _stack([s.data for s in classes], "source", sources)
            if COMMITTED in stacked:
                # One word for both: a source counts where model and classes are there.
                stacked[COMMITTED] &= store.data[COMMITTED]
            parts.insert(0, stacked)
        merged = xr.merge(parts, combine_attrs="override", **EXACT)
        yield f"/prepared/{model}", merged.assign_attrs(store.data.attrs)


def _bank(own: Sequence[Opened], _: Sequence[Opened]) -> Iterator[Node]:
    for store in own:
        yield f"/bank/{store.attrs['model']}", store.data


def _pca(own: Sequence[Opened], _: Sequence[Opened]) -> Iterator[Node]:
    for store in own:
        yield f"/pca/{store.attrs['model']}/{store.attrs['source']}", store.data


def _responses(own: Sequence[Opened], _: Sequence[Opened]) -> Iterator[Node]:
    for store in own:
        yield f"/responses/{store.attrs['subject']}/{store.attrs['modality']}", store.data


def _features(own: Sequence[Opened], _: Sequence[Opened]) -> Iterator[Node]:
    """Features of all stimulus sets, (layer, stimulus, feature); shared stimuli once."""
    for (model, source), group in _grouped(own, "model", "source"):
        datasets = [store.data for store in group]
        if len(datasets) > 1:
            joined = xr.concat(datasets, "stimulus", combine_attrs="override", **PLAIN, **EXACT)
            datasets = [joined.drop_duplicates("stimulus")]
        yield f"/features/{model}/{source}", datasets[0]


def _stability(own: Sequence[Opened], _: Sequence[Opened]) -> Iterator[Node]:
    for store in own:
        yield f"/stability/{store.attrs['model']}/{store.attrs['source']}", store.data


def _collinearity(own: Sequence[Opened], _: Sequence[Opened]) -> Iterator[Node]:
    """CKA (layer, other_layer); with several stimulus sets also along stimulus_set."""
    for (model, source), group in _grouped(own, "model", "source"):
        datasets = [store.data for store in group]
        if len(datasets) > 1:
            datasets = [_stack(datasets, "stimulus_set", [store.store.label for store in group])]
        yield f"/collinearity/{model}/{source}", datasets[0]


def _scores(own: Sequence[Opened], stores: Sequence[Opened]) -> Iterator[Node]:
    """Scores of one model, subject and modality for all bands, with the responses' coordinates."""
    recorded = {
        (store.attrs["subject"], store.attrs["modality"]): store.data
        for store in _of_kind(stores, "responses")
    }
    described = {key: _target_coords(data) for key, data in recorded.items()}
    reliabilities = _reliabilities(stores)
    parts: dict[tuple[str, str, str], dict[str, xr.Dataset]] = {}
    for store in own:
        model, bands = store.attrs["model"], store.attrs["bands"]
        reliability = reliabilities.get((model, source_of(bands)))
        pooled = _with_reliability(_pooled_scores(store.data), reliability, "+" in bands)
        for group in store.attrs["groups"]:
            subject, modality = group["subject"], group["modality"]
            if (subject, modality) not in recorded:
                raise DamagedStore(
                    f"{store.store.reference} has scores of {subject} {modality}, whose responses "
                    "are not among the run's stores"
                )
            targets = pooled.isel(target=slice(group["start"], group["stop"]))
            dims, coords = TARGET_DIMS[modality], described[subject, modality]
            if group.get("windows"):  # versions 1 and 2 do not say
                dims, coords = WINDOW_DIMS, _in_windows(coords, group["windows"])
            view = _unflatten(targets, dims, coords)
            parts.setdefault((model, subject, modality), {})[bands] = view
    for (model, subject, modality), views in parts.items():
        dataset = _stack(list(views.values()), "bands", list(views))
        attrs = recorded[subject, modality].attrs
        geometry = {name: attrs[name] for name in GEOMETRY if name in attrs}
        dataset.attrs = {"model": model, "subject": subject, "modality": modality, **geometry}
        yield f"/scores/{model}/{subject}/{modality}", dataset


def _comparisons(own: Sequence[Opened], stores: Sequence[Opened]) -> Iterator[Node]:
    """Tables of comparisons, those of scores also divided by the signals' reliability."""
    reliabilities = _reliabilities(stores)
    for store in own:
        model = store.attrs["model"]
        by_source = {source: r for (name, source), r in reliabilities.items() if name == model}
        yield f"/comparisons/{model}", with_disattenuated_tables(store.data, by_source)


def _drill(own: Sequence[Opened], _: Sequence[Opened]) -> Iterator[Node]:
    for store in own:
        yield f"/drill/{store.attrs['stage']}", store.data


BUILDERS: dict[str, Builder] = {
    "prepared": _prepared,
    "bank": _bank,
    "pca": _pca,
    "responses": _responses,
    "features": _features,
    "stability": _stability,
    "collinearity": _collinearity,
    "scores": _scores,
    "comparisons": _comparisons,
    "drill": _drill,
}
"""Kind of store -> what it shows; `classes` are shown with `prepared`."""

PLAIN: dict[str, Any] = {"data_vars": "minimal", "coords": "minimal"}
EXACT: dict[str, Any] = {"compat": "override", "join": "exact"}
"""Stores of one run agree in their labels; that they do is checked, their values are not read."""


def _pooled_scores(data: xr.Dataset) -> xr.Dataset:
    """Return r, r2, alpha and unique of a scores store, for all its targets."""
    flat = [name for name, coord in data.coords.items() if "target" in coord.dims]
    scores = data["scores"].drop_vars(["fold", *flat], errors="ignore")
    measures = set(scores["measure"].values.tolist())
    # NaN in a fold is NaN in the sum; differences of float32 sums would lose digits.
    totals = scores.astype("float64").sum("fold", skipna=False)
    sse, sst = (totals.sel(measure=name, drop=True) for name in ("sse", "sst"))
    without = totals.sel(measure="sse_off", drop=True) if "sse_off" in measures else sse * np.nan
    variables = {
        "r": _named(scores.sel(measure="r", drop=True), "Pearson correlation on the held-out fold"),
        "r2": _named(1 - sse / sst, "1 - sum SSE / sum SST over held-out folds"),
        "alpha": _named(
            scores.sel(measure="alpha", drop=True), "ridge penalty chosen inside the training folds"
        ),
        "unique": _named(
            (without - sse) / sst, "R2 of both bands minus R2 without the gradient band"
        ),
    }
    if COMMITTED in data:
        variables[COMMITTED] = data[COMMITTED]
    return xr.Dataset(variables)


def _with_reliability(
    scores: xr.Dataset, reliability: xr.DataArray | None, banded: bool
) -> xr.Dataset:
    """Add the reliability of the bands' source and the scores divided by it.

    The r of two bands together is of no one source: there, only their unique variance is divided.
    """
    if reliability is None:
        reliability = not_known(scores["unique"].isel(target=0))
    r = xr.full_like(scores["r"], np.nan) if banded else scores["r"]
    return scores.assign(
        {
            "reliability": _named(reliability, "reliability over seeds"),
            "r" + DISATTENUATED: disattenuated(r, reliability, False),
            "unique" + DISATTENUATED: disattenuated(scores["unique"], reliability, True),
        }
    )


def _reliabilities(stores: Sequence[Opened]) -> dict[tuple[str, str], xr.DataArray]:
    """Return the reliability of every layer, (layer,) without coordinates, by model and source."""
    return {
        (s.attrs["model"], s.attrs["source"]): xr.DataArray(
            s.data["reliability"].data, dims="layer"
        )
        for s in _of_kind(stores, "stability")
    }


def _target_coords(responses: xr.Dataset) -> xr.Coordinates:
    """Return the labels of a subject's targets, with their noise ceilings."""
    described = responses.set_coords("ncsnr").drop_dims("stimulus")
    ceiling = _named(
        _noise_ceiling(responses), "share of a mean response's variance that is signal, r^2 at most"
    )
    plain = described.drop_vars(COMMITTED, errors="ignore")
    return plain.assign_coords(noise_ceiling=ceiling).coords


def _in_windows(coords: xr.Coordinates, windows: Sequence[Window]) -> xr.Coordinates:
    """Replace the samples by windows; the ceiling of a mean does not follow from its samples'."""
    return (
        coords.to_dataset().drop_dims("time").assign_coords(window_coords("window", windows)).coords
    )


def _noise_ceiling(responses: xr.Dataset) -> xr.DataArray:
    """Return ncsnr^2 / (ncsnr^2 + mean(1 / n_repeats)) over all stimuli, which are all scored."""
    noise = (1 / responses["n_repeats"].astype("float64")).mean()
    power = responses["ncsnr"].astype("float64") ** 2
    return (power / (power + noise)).drop_vars("ncsnr", errors="ignore")


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


def _named(array: xr.DataArray, long_name: str) -> xr.DataArray:
    return array.assign_attrs(units="1", long_name=long_name)


def _stack(datasets: Sequence[xr.Dataset], dim: str, labels: Sequence[str]) -> xr.Dataset:
    """Stack datasets that agree in all labels along a new, labelled dimension."""
    coord = xr.DataArray(np.array(labels, dtype=object), dims=dim, name=dim)
    return xr.concat(
        datasets, coord, data_vars="all", coords="minimal", combine_attrs="override", **EXACT
    )


def _of_kind(stores: Iterable[Opened], kind: str) -> list[Opened]:
    return [store for store in stores if store.store.kind == kind]


def _grouped(
    stores: Iterable[Opened], *keys: str
) -> Iterator[tuple[tuple[str, ...], list[Opened]]]:
    groups: dict[tuple[str, ...], list[Opened]] = {}
    for store in stores:
        groups.setdefault(tuple(store.attrs[key] for key in keys), []).append(store)
    yield from groups.items()
