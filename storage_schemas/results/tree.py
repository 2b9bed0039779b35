"""How stores look in the tree of results.

A store stands as it is at its kind's place. Only where stores of one place are joined, or something
is computed from several kinds, does a kind have a function of its own.
"""

from collections.abc import Callable, Iterator, Sequence

import xarray as xr

from storage_schemas.kinds.features import IMAGES
from storage_schemas.kinds.registry import KINDS
from storage_schemas.protocol.store import Store
from storage_schemas.results.comparisons import comparison_nodes
from storage_schemas.results.labels import LabelIndex
from storage_schemas.results.opened import (
    EXACT,
    PLAIN,
    Node,
    Opened,
    grouped,
    in_words,
    of_kind,
    stacked,
)
from storage_schemas.results.partial import COMMITTED, partial_dataset
from storage_schemas.results.scores import score_nodes

Builder = Callable[[Sequence[Opened], Sequence[Opened]], Iterator[Node]]
"""Takes the stores of its kind and all stores."""

LABELS = ("roi", "hemisphere", "subject", "model")
"""Coordinates of targets and layers that can be selected like dimensions."""


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
    for kind in KINDS:
        for path, dataset in BUILDERS.get(kind, _as_it_is)(of_kind(opened, kind), opened):
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


def _as_it_is(own: Sequence[Opened], _: Sequence[Opened]) -> Iterator[Node]:
    for store in own:
        if place := KINDS[store.store.kind].place:
            yield place.format(**store.attrs), in_words(store.data)


def _prepared(own: Sequence[Opened], stores: Sequence[Opened]) -> Iterator[Node]:
    """Weights' digest; class of every gradient source's layers (source, layer)."""
    for store in own:
        model = store.attrs["model"]
        classes = [s for s in of_kind(stores, "classes") if s.attrs["model"] == model]
        parts = [store.data]
        if classes:
            sources = [s.attrs["source"] for s in classes]
            of_sources = in_words(stacked([s.data for s in classes], "source", sources))
            if COMMITTED in of_sources:
                # One word for both: a source counts where model and classes are there.
                of_sources[COMMITTED] &= store.data[COMMITTED]
            parts.insert(0, of_sources)
        merged = xr.merge(parts, combine_attrs="override", **EXACT)
        yield f"/prepared/{model}", merged.assign_attrs(store.data.attrs)


def _features(own: Sequence[Opened], _: Sequence[Opened]) -> Iterator[Node]:
    """Features of all stimulus sets, (layer, stimulus, feature); shared stimuli once.

    Those of images that no subject was shown stand apart, so that nobody takes them for stimuli.
    """
    for store in own:
        if IMAGES in store.attrs:
            yield "/{images}/{model}/{source}".format(**store.attrs), store.data
    recorded = [store for store in own if IMAGES not in store.attrs]
    for (model, source), group in grouped(recorded, "model", "source"):
        datasets = [store.data for store in group]
        if len(datasets) > 1:
            joined = xr.concat(datasets, "stimulus", combine_attrs="override", **PLAIN, **EXACT)
            datasets = [joined.drop_duplicates("stimulus")]
        yield f"/features/{model}/{source}", datasets[0]


def _collinearity(own: Sequence[Opened], _: Sequence[Opened]) -> Iterator[Node]:
    """CKA (layer, other_layer); with several stimulus sets also along stimulus_set."""
    for (model, source), group in grouped(own, "model", "source"):
        datasets = [store.data for store in group]
        if len(datasets) > 1:
            datasets = [stacked(datasets, "stimulus_set", [store.store.label for store in group])]
        yield f"/collinearity/{model}/{source}", datasets[0]


BUILDERS: dict[str, Builder] = {
    "prepared": _prepared,
    "features": _features,
    "collinearity": _collinearity,
    "scores": score_nodes,
    "comparisons": comparison_nodes,
}
"""Kind of store -> what it shows, where that is not each store as it is."""
