"""Stability: how much a signal changes under invisible changes of an image, and over seeds."""

from collections.abc import Sequence

from storage_schemas.kinds.coordinates import LAYER, Layers, layer_coords, text_coord
from storage_schemas.kinds.layouts import one_unit, whole_arrays
from storage_schemas.kinds.schema import ArraySchema, CoordSchema, Kind, Schema
from storage_schemas.layout import Layout

_SCHEMA = Schema(
    {
        "cosine": ArraySchema(
            ("layer", "perturbation", "image"),
            "float64",
            "cosine of an image's signal with that of the perturbed image",
        ),
        "reliability": ArraySchema(
            ("layer",), "float64", "reliability over seeds of views and masks"
        ),
        "precision_error": ArraySchema(
            ("layer",), "float64", "relative difference to the signal in float32"
        ),
    },
    {**LAYER, "perturbation": CoordSchema(("perturbation",), "text")},
    ("model", "source"),
)
STABILITY = Kind("stability", 1, {1: (_SCHEMA,)}, "/stability/{model}/{source}")


def stability_layout(layers: Layers, perturbations: Sequence[str], n_images: int) -> Layout:
    """Return cosine(layer, perturbation, image); reliability(layer) and precision_error(layer)."""
    sizes = {"layer": len(layers), "perturbation": len(perturbations), "image": n_images}
    coords = layer_coords(layers) | {"perturbation": text_coord("perturbation", perturbations)}
    return one_unit(whole_arrays(_SCHEMA, sizes), coords)
