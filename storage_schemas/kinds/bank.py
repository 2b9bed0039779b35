"""Reference banks: a model's readings of the bank's images, their mean and their prototypes."""

from storage_schemas.kinds.layouts import one_unit, whole_arrays
from storage_schemas.kinds.prepared import WEIGHTS_DIGEST
from storage_schemas.kinds.schema import ArraySchema, Kind, Schema
from storage_schemas.layout import Layout

_SCHEMA = Schema(
    {
        **WEIGHTS_DIGEST,
        "manifest_digest": ArraySchema(("byte",), "uint8", "sha256 of item digests"),
        "item_digest": ArraySchema(("item", "byte"), "uint8", "sha256 of items"),
        "pooled": ArraySchema(("item", "channel"), "float64", "last block's pooled output"),
        "embedding": ArraySchema(
            ("item", "channel"), "float64", "what projection heads are trained on"
        ),
        "pooled_mean": ArraySchema(("channel",), "float64", "mean over the bank"),
        "prototypes": ArraySchema(("prototype", "channel"), "float64", "prototypes of norm 1"),
    },
    attrs=("model",),
)
BANK = Kind("bank", 1, {1: (_SCHEMA,)}, "/bank/{model}")


def bank_layout(n_items: int, n_channels: int, n_prototypes: int) -> Layout:
    """Return a model's reference bank: its items' readings, their mean and prototypes."""
    sizes = {"byte": 32, "item": n_items, "channel": n_channels, "prototype": n_prototypes}
    return one_unit(whole_arrays(_SCHEMA, sizes), {})
