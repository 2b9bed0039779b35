"""How stores look in the tree of results: one builder per kind, arrays in, labelled arrays out.

Each builder takes all stores of its kind and yields (path in the tree, lazy dataset).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import xarray as xr

from storage_schemas.store import Store

Node = tuple[str, xr.Dataset]
Builder = Callable[[Sequence[Store], Sequence[Store]], Iterator[Node]]

TARGET_DIMS = {"fmri": ("voxel",), "meg": ("sensor", "time")}


def build_nodes(stores: Sequence[Store]) -> dict[str, xr.Dataset]:
    """Return the datasets of the tree by path.

    Raises
    ------
    ValueError
        If two stores claim the same place.
    """
    nodes: dict[str, xr.Dataset] = {}
    for kind, builder in BUILDERS.items():
        for path, dataset in builder(_of_kind(stores, kind), stores):
            if path in nodes:
                raise ValueError(f"two stores of this run hold {path}; plan it in a new folder")
            nodes[path] = dataset
    return nodes


def _prepared(own: Sequence[Store], stores: Sequence[Store]) -> Iterator[Node]:
    """Weights' digest; class of every gradient source's layers (source, layer)."""
    for store in own:
        model = store.attrs["model"]
        classes = [s for s in _of_kind(stores, "classes") if s.attrs["model"] == model]
        parts = [store.dataset()]
        if classes:
            sources = [s.attrs["source"] for s in classes]
            parts.append(_stack([s.dataset() for s in classes], "source", sources))
        yield f"/prepared/{model}", xr.merge(parts, combine_attrs="override", **EXACT)


def _responses(own: Sequence[Store], _: Sequence[Store]) -> Iterator[Node]:
    for store in own:
        yield f"/responses/{store.attrs['subject']}/{store.attrs['modality']}", store.dataset()


def _features(own: Sequence[Store], _: Sequence[Store]) -> Iterator[Node]:
    """Features of all stimulus sets, (layer, stimulus, feature); shared stimuli once."""
    for (model, source), group in _grouped(own, "model", "source"):
        datasets = [store.dataset() for store in group]
        if len(datasets) > 1:
            joined = xr.concat(datasets, "stimulus", combine_attrs="override", **PLAIN, **EXACT)
            datasets = [joined.drop_duplicates("stimulus")]
        yield f"/features/{model}/{source}", datasets[0]


def _collinearity(own: Sequence[Store], _: Sequence[Store]) -> Iterator[Node]:
    """CKA (layer, other_layer); with several stimulus sets also along stimulus_set."""
    for (model, source), group in _grouped(own, "model", "source"):
        datasets = [store.dataset() for store in group]
        if len(datasets) > 1:
            datasets = [_stack(datasets, "stimulus_set", [store.label for store in group])]
        yield f"/collinearity/{model}/{source}", datasets[0]


def _scores(own: Sequence[Store], stores: Sequence[Store]) -> Iterator[Node]:
    """Scores of one model, subject and modality for all bands, with the responses' coordinates."""
    responses = {
        (store.attrs["subject"], store.attrs["modality"]): store
        for store in _of_kind(stores, "responses")
    }
    parts: dict[tuple[str, str, str], dict[str, xr.Dataset]] = {}
    for store in own:
        for group in store.attrs["groups"]:
            key = (store.attrs["model"], group["subject"], group["modality"])
            if key[1:] not in responses:
                raise ValueError(
                    f"{store.reference} has scores of {key[1]} {key[2]}, whose responses are not "
                    "among the run's stores; run `gradenc resume RUN`"
                )
            view = _score_view(store, group, responses[key[1:]].dataset())
            parts.setdefault(key, {})[store.attrs["bands"]] = view
    for (model, subject, modality), views in parts.items():
        dataset = _stack(list(views.values()), "bands", list(views))
        dataset.attrs = {"model": model, "subject": subject, "modality": modality}
        yield f"/scores/{model}/{subject}/{modality}", dataset


def _comparisons(own: Sequence[Store], _: Sequence[Store]) -> Iterator[Node]:
    for store in own:
        yield f"/comparisons/{store.attrs['model']}", store.dataset()


BUILDERS: dict[str, Builder] = {
    "prepared": _prepared,
    "responses": _responses,
    "features": _features,
    "collinearity": _collinearity,
    "scores": _scores,
    "comparisons": _comparisons,
}
"""Kind of store -> what it shows; `classes` are shown with `prepared`."""

PLAIN: dict[str, Any] = {"data_vars": "minimal", "coords": "minimal"}
EXACT: dict[str, Any] = {"compat": "override", "join": "exact"}
"""Stores of one run agree in their labels; that they do is checked, their values are not read."""


def _score_view(store: Store, group: dict[str, Any], responses: xr.Dataset) -> xr.Dataset:
    """Return r, r2, alpha and unique of one group's targets, for the store's bands."""
    described = responses.set_coords("ncsnr").drop_dims("stimulus")
    dims = TARGET_DIMS[group["modality"]]
    shape = tuple(described.sizes[dim] for dim in dims)
    scores = store.dataset()["scores"].isel(target=slice(group["start"], group["stop"]))
    scores = _unflatten(scores, dims, shape).drop_vars("fold", errors="ignore")
    measures = set(scores["measure"].values.tolist())

    def measure(name: str) -> xr.DataArray:
        return scores.sel(measure=name, drop=True)

    def total(name: str) -> xr.DataArray:
        # NaN in a fold is NaN in the sum; differences of float32 sums would lose digits.
        return measure(name).astype("float64").sum("fold", skipna=False)

    explained = 1 - total("sse") / total("sst")
    off = total("sse_off") if "sse_off" in measures else xr.full_like(explained, np.nan)
    unique = (off - total("sse")) / total("sst")
    variables = {
        "r": _named(measure("r"), "Pearson correlation on the held-out fold"),
        "r2": _named(explained, "1 - sum SSE / sum SST over held-out folds"),
        "alpha": _named(measure("alpha"), "ridge penalty chosen inside the training folds"),
        "unique": _named(unique, "R2 of both bands minus R2 without the gradient band"),
    }
    ceiling = _named(
        _noise_ceiling(responses), "share of a mean response's variance that is signal, r^2 at most"
    )
    return (
        xr.Dataset(variables).assign_coords(described.coords).assign_coords(noise_ceiling=ceiling)
    )


def _noise_ceiling(responses: xr.Dataset) -> xr.DataArray:
    """Return ncsnr^2 / (ncsnr^2 + mean(1 / n_repeats)) over all stimuli, which are all scored."""
    noise = (1 / responses["n_repeats"].astype("float64")).mean()
    power = responses["ncsnr"].astype("float64") ** 2
    return (power / (power + noise)).drop_vars("ncsnr", errors="ignore")


def _unflatten(scores: xr.DataArray, dims: Sequence[str], shape: tuple[int, ...]) -> xr.DataArray:
    """Split the last dimension, `target`, into the dimensions of the responses."""
    data = scores.data.reshape((*scores.shape[:-1], *shape))
    return xr.DataArray(data, scores.coords, (*scores.dims[:-1], *dims))


def _named(array: xr.DataArray, long_name: str) -> xr.DataArray:
    return array.assign_attrs(units="1", long_name=long_name)


def _stack(datasets: Sequence[xr.Dataset], dim: str, labels: Sequence[str]) -> xr.Dataset:
    """Stack datasets that agree in all labels along a new, labelled dimension."""
    coord = xr.DataArray(np.array(labels, dtype=object), dims=dim, name=dim)
    return xr.concat(
        datasets, coord, data_vars="all", coords="minimal", combine_attrs="override", **EXACT
    )


def _of_kind(stores: Iterable[Store], kind: str) -> list[Store]:
    return [store for store in stores if store.kind == kind]


def _grouped(stores: Iterable[Store], *keys: str) -> Iterator[tuple[tuple[str, ...], list[Store]]]:
    groups: dict[tuple[str, ...], list[Store]] = {}
    for store in stores:
        groups.setdefault(tuple(store.attrs[key] for key in keys), []).append(store)
    yield from groups.items()
