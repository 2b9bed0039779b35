"""Comparisons as a user opens them: tables with verdicts in words and what each rests on."""

from collections.abc import Iterator, Sequence

import dask.array
import numpy as np
import xarray as xr

from storage_schemas.protocol.commit import facts_of
from storage_schemas.results.opened import Node, Opened, in_words
from storage_schemas.results.reliability import reliabilities_of, with_disattenuated_tables


def comparison_nodes(own: Sequence[Opened], stores: Sequence[Opened]) -> Iterator[Node]:
    """Yield every model's tables, those of scores also divided by the signals' reliability."""
    reliabilities = reliabilities_of(stores)
    for store in own:
        model = store.attrs["model"]
        by_source = {source: r for (name, source), r in reliabilities.items() if name == model}
        tables = in_words(store.data).assign(sentence=_sentences(store))
        yield f"/comparisons/{model}", with_disattenuated_tables(tables, by_source)


def _sentences(store: Opened) -> xr.DataArray:
    """Return the sentence that explains the verdict on each signal; "" where there is none."""
    verdicts = facts_of(store.store, store.store.units[0]).get("verdicts", {})
    signals = store.data["signal"].values.tolist()
    sentences = [verdicts.get(signal, {}).get("sentence", "") for signal in signals]
    return xr.DataArray(
        dask.array.from_array(np.array(sentences, dtype=object), chunks=-1),
        dims="signal",
        attrs={"long_name": "evidence that the verdict rests on"},
    )
