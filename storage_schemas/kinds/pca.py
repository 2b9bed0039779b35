"""Principal components of every layer's signal, with the layers' means and explained variances."""

from collections.abc import Sequence

from storage_schemas.kinds.coordinates import (
    LAYER,
    STIMULUS,
    Layers,
    layer_coords,
    stimulus_coords,
)
from storage_schemas.kinds.features import MOST_LAYERS
from storage_schemas.kinds.layouts import array_layout, one_unit
from storage_schemas.kinds.schema import ArraySchema, Kind, Schema
from storage_schemas.layout import Layout


def mean_array(index: int) -> str:
    """Return the name of the mean of a layer's signal, about which components are taken."""
    return f"mean_{index:03d}"


def components_array(index: int) -> str:
    """Return the name of a layer's principal components."""
    return f"components_{index:03d}"


def _arrays() -> dict[str, ArraySchema]:
    arrays = {
        "explained": ArraySchema(("layer", "component"), "float64", "share of variance explained")
    }
    for index in range(MOST_LAYERS):
        width = f"feature_{index:03d}"
        arrays[mean_array(index)] = ArraySchema(
            (width,), "float32", "mean of a layer's pooled signal", optional=True
        )
        arrays[components_array(index)] = ArraySchema(
            ("component", width), "float32", "principal components of a layer", optional=True
        )
    return arrays


_SCHEMA = Schema(_arrays(), {**LAYER, **STIMULUS}, ("model", "source"))
PCA = Kind("pca", 1, {1: (_SCHEMA,)}, "/pca/{model}/{source}")


def pca_layout(
    layers: Layers,
    stimuli: Sequence[str],
    digests: Sequence[str],
    widths: Sequence[int],
    n_components: int,
) -> Layout:
    """Return mean and components of every layer's signal, and what they explain.

    Parameters
    ----------
    widths : sequence of int
        Width of each layer's signal before projection.
    """
    arrays = [array_layout(_SCHEMA, "explained", (len(layers), n_components))]
    for index, width in enumerate(widths):
        arrays.append(array_layout(_SCHEMA, mean_array(index), (width,)))
        arrays.append(array_layout(_SCHEMA, components_array(index), (n_components, width)))
    coords = layer_coords(layers) | stimulus_coords(stimuli, digests)
    return one_unit(arrays, coords, key={"start": 0, "stop": len(stimuli)})
