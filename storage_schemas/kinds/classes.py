"""Classes of gradients: whether each layer's gradient carries a signal of its own."""

from storage_schemas.kinds.coordinates import LAYER, Layers, layer_coords
from storage_schemas.kinds.layouts import one_unit, whole_arrays
from storage_schemas.kinds.schema import ArraySchema, Kind, Schema, flags
from storage_schemas.layout import Layout

SIGNAL_CLASSES = ("ok", "zero", "constant", "identical_to_forward")
"""Classes in the order of their values in `signal_class`."""

_SCHEMA = Schema(
    {
        "signal_class": ArraySchema(
            ("layer",), "int8", "class of the gradient", attrs=flags(SIGNAL_CLASSES)
        )
    },
    LAYER,
    ("model", "source"),
)
CLASSES = Kind("classes", 1, {1: (_SCHEMA,)}, None)


def classes_layout(layers: Layers) -> Layout:
    """Return the class of every layer's gradient, (n_layers,) int8."""
    return one_unit(whole_arrays(_SCHEMA, {"layer": len(layers)}), layer_coords(layers))
