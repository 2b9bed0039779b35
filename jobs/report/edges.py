"""Ridge penalties at an edge of their grid: beyond it, many targets would be predicted better.

Only targets that are clearly predicted are counted: for the others the best penalty is the largest
there is, in any grid.
"""

from collections.abc import Iterable, Iterator

from storage_schemas.protocol.commit import facts_of
from storage_schemas.protocol.store import Store

MOST_AT_EDGE = 0.05
"""Share of the predicted targets that may choose one edge."""

_EDGES = {
    "lowest": ("smallest", "lower encoding.alphas.low"),
    "highest": ("largest", "raise encoding.alphas.high"),
}
"""Edge -> the word for it, and the remedy."""


def edge_warnings(stores: Iterable[Store]) -> Iterator[str]:
    """Yield a warning, with its remedy, for every edge that too many targets of a store chose.

    Layers that are not committed yet are left out.
    """
    for store in stores:
        if store.kind == "scores":
            yield from _warnings(store)


def _warnings(store: Store) -> Iterator[str]:
    facts = [facts_of(store, unit) for unit in store.units]
    # A layer that could not be tested beyond the baseline has no counts.
    counted = [layer for layer in facts if "predicted" in layer]
    n_predicted = sum(layer["predicted"] for layer in counted)
    for edge, (which, remedy) in _EDGES.items():
        n_chose = sum(layer[f"{edge}_alpha"] for layer in counted)
        if n_chose > MOST_AT_EDGE * n_predicted:
            yield (
                f"{store.label}: {100 * n_chose / n_predicted:.0f} % of the fits of targets that "
                f"are clearly predicted chose the {which} ridge penalty; {remedy}"
            )
