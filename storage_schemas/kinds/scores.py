"""Encoding scores of every layer, target and fold, and their resampled summaries."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from storage_schemas.kinds.coordinates import (
    LAYER,
    STIMULUS,
    Layers,
    Window,
    layer_coords,
    text_coord,
    window_schema,
)
from storage_schemas.kinds.layouts import array_layout, layout_of
from storage_schemas.kinds.schema import ArraySchema, CoordSchema, Kind, Schema
from storage_schemas.layout import ArrayLayout, Layout, Unit

TARGETS_PER_CHUNK = 16_384

SINGLE_MEASURES = ("r", "sse", "sst", "alpha")
BANDED_MEASURES = (*SINGLE_MEASURES, "ratio", "r_off", "sse_off")
"""Measures by name, as attributes of `gradenc_core`'s scores; the job stacks them in the order of
the store's own coordinate `measure`."""

_SCHEMA = Schema(
    {
        "scores": ArraySchema(
            ("layer", "measure", "fold", "target"), "float32", "encoding scores per outer fold"
        ),
        "bootstrap": ArraySchema(
            ("layer", "replicate", "summary"),
            "float32",
            "summary scores, index 0 observed, then by replicate",
        ),
        # The dimension is not called permutation: xarray would take the array for its coordinate.
        "permutation": ArraySchema(
            ("layer", "shuffle", "summary"),
            "float32",
            "summary scores, index 0 observed, then by permutation",
        ),
    },
    {
        **LAYER,
        **STIMULUS,
        "stimulus_fold": CoordSchema(("stimulus",), "integer"),
        "stimulus_block": CoordSchema(("stimulus",), "integer"),
        "stimulus_category": CoordSchema(("stimulus",), "integer", optional=True),
        "measure": CoordSchema(("measure",), "text"),
        **window_schema("target", "target_"),
        **window_schema("summary", "summary_"),
    },
    ("model", "bands", "fold_rule", "permute_within", "groups", "summary_groups"),
)


@dataclass(frozen=True)
class TargetGroup:
    """The part of the flat axis `target` that is one subject's in one modality."""

    subject: str
    modality: str
    start: int
    stop: int
    windows: tuple[Window, ...] | None
    """Of MEG whose targets are window means; None where targets are voxels, or samples."""


@dataclass(frozen=True)
class SummaryGroup:
    """The part of the flat axis `summary` that is one subject's in one modality."""

    subject: str
    modality: str
    start: int
    stop: int
    names: tuple[str, ...]
    """Regions (fMRI) or sensors (MEG)."""
    windows: tuple[Window, ...] | None
    """Windows of every sensor; None for fMRI."""


@dataclass(frozen=True)
class ScoresAttrs:
    """Attributes of a scores store: what was fitted, and whose targets stand where."""

    model: str
    bands: str
    fold_rule: str
    permute_within: str
    groups: tuple[TargetGroup, ...]
    summary_groups: tuple[SummaryGroup, ...]
    """In the order of `groups`."""


SCORES = Kind("scores", 1, {1: (_SCHEMA,)}, None, unit_dim="layer")


def scores_layout(
    layers: Layers,
    labels: Mapping[str, Any],
    *,
    banded: bool,
    n_folds: int,
    n_targets: int,
    n_summaries: int,
    n_bootstrap: int,
    n_permutations: int,
) -> Layout:
    """Return encoding scores and their resampled summaries; a unit is one layer, all targets.

    `labels` are coordinates of the stimuli and, where there are windows, of targets and summaries.
    """
    measures = BANDED_MEASURES if banded else SINGLE_MEASURES
    chunk = min(TARGETS_PER_CHUNK, n_targets)
    whole = -(-n_targets // chunk) * chunk
    arrays = [
        array_layout(
            _SCHEMA,
            "scores",
            (len(layers), len(measures), n_folds, n_targets),
            chunks=(1, len(measures), n_folds, chunk),
            shards=(1, len(measures), n_folds, whole),
        ),
        *(
            array_layout(_SCHEMA, name, (len(layers), n + 1, n_summaries), (1, n + 1, n_summaries))
            for name, n in (("bootstrap", n_bootstrap), ("permutation", n_permutations))
        ),
    ]
    units = [
        Unit(i, name, {"layer": i}, {array.name: _row(array, i) for array in arrays})
        for i, (name, _) in enumerate(layers)
    ]
    coords = layer_coords(layers) | dict(labels) | {"measure": text_coord("measure", measures)}
    return layout_of(arrays, coords, units)


def _row(array: ArrayLayout, layer: int) -> list[tuple[int, int]]:
    return [(layer, layer + 1), *((0, size) for size in array.shape[1:])]
