"""What the stores of a run say against the settings of its study, each with its remedy.

A gradient that is zero in a layer is known once stage prepare is done. Ridge penalties at an edge
of their grid are counted among targets that are clearly predicted: for the others the best penalty
is the largest there is, in any grid.
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


def cautions(stores: Iterable[Store]) -> Iterator[str]:
    """Yield a warning, with its remedy, for layers without a gradient and for edges of the grid.

    Units that are not committed yet are left out.
    """
    for store in stores:
        if store.kind == "classes":
            yield from _zero_gradients(store)
        elif store.kind == "scores":
            yield from _edges(store)


def _zero_gradients(store: Store) -> Iterator[str]:
    """Warn of layers that a loss does not reach through the tokens of the study."""
    classes = facts_of(store, store.units[0]).get("classes", [])
    if "zero" in classes:
        layers = store.dataset()["layer"].values
        zero = [str(layer) for layer, name in zip(layers, classes, strict=True) if name == "zero"]
        yield (
            f"{store.label}: the gradient is zero in {', '.join(zero)}, which get no scores; take "
            "other tokens, or name the other layers in layers"
        )


def _edges(store: Store) -> Iterator[str]:
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
