"""Prepared models: the digest of a model's weights."""

from storage_schemas.kinds.layouts import one_unit, whole_arrays
from storage_schemas.kinds.schema import ArraySchema, Kind, Schema
from storage_schemas.layout import Layout

WEIGHTS_DIGEST = {"weights_digest": ArraySchema(("byte",), "uint8", "sha256 of weights")}

_SCHEMA = Schema(WEIGHTS_DIGEST, attrs=("model",))
PREPARED = Kind("prepared", 1, {1: (_SCHEMA,)}, None)


def prepared_layout() -> Layout:
    """Return the digest of a model's weights, (32,) uint8."""
    return one_unit(whole_arrays(_SCHEMA, {"byte": 32}), {})
