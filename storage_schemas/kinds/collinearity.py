"""Collinearity: how alike the layers of one signal are, by linear CKA."""

from storage_schemas.kinds.coordinates import LAYER, Layers, layer_coords, text_coord
from storage_schemas.kinds.layouts import one_unit, whole_arrays
from storage_schemas.kinds.schema import ArraySchema, CoordSchema, Kind, Schema
from storage_schemas.layout import Layout

_SCHEMA = Schema(
    {"cka": ArraySchema(("layer", "other_layer"), "float64", "linear CKA")},
    {**LAYER, "other_layer": CoordSchema(("other_layer",), "text")},
    ("model", "source"),
)
COLLINEARITY = Kind("collinearity", 1, {1: (_SCHEMA,)}, None)


def collinearity_layout(layers: Layers) -> Layout:
    """Return linear CKA between layers, (n_layers, n_layers) float64."""
    sizes = {"layer": len(layers), "other_layer": len(layers)}
    others = text_coord("other_layer", [name for name, _ in layers])
    return one_unit(whole_arrays(_SCHEMA, sizes), layer_coords(layers) | {"other_layer": others})
