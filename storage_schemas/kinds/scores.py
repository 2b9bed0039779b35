"""Encoding scores of every layer, target and fold, and their resampled summaries."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

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
BEYOND_MEASURES = (*SINGLE_MEASURES, "total")
"""Measures by name, as attributes of `gradenc_core`'s scores; the job stacks them in the order of
the store's own coordinate `measure`. Beyond the baseline all are of what it leaves of a response,
but `total`: the sum of squares of the whole response, the same share in each fold."""

_SCHEMA = Schema(
    {
        "scores": ArraySchema(
            ("layer", "measure", "fold", "target"), "float32", "encoding scores per outer fold"
        ),
        "bootstrap": ArraySchema(
            ("layer", "replicate", "resampled"),
            "float32",
            "scores of MEG summaries, index 0 observed, then by replicate",
            optional=True,
        ),
        # The dimension is not called permutation: xarray would take the array for its coordinate.
        "permutation": ArraySchema(
            ("layer", "shuffle", "summary"),
            "float32",
            "summary scores, index 0 observed, then by permutation",
        ),
        "null": ArraySchema(
            ("layer", "draw"),
            "float32",
            "scores of Gaussian targets, the same in every layer",
            optional=True,
        ),
        "simulated": ArraySchema(
            ("layer", "share", "driver", "tuning"),
            "float32",
            "scores of targets that the gradient of a layer (driver) drives",
            optional=True,
        ),
    },
    {
        **LAYER,
        **STIMULUS,
        "stimulus_fold": CoordSchema(("stimulus",), "integer"),
        "stimulus_block": CoordSchema(("stimulus",), "integer"),
        "stimulus_category": CoordSchema(("stimulus",), "integer", optional=True),
        "measure": CoordSchema(("measure",), "text"),
        "share": CoordSchema(("share",), "float", optional=True),
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

    def resampled(self, group: SummaryGroup) -> slice:
        """Return where a subject's MEG summaries stand on the axis `resampled`."""
        before = (g for g in self.summary_groups if g.windows is not None and g.stop <= group.start)
        start = sum(g.stop - g.start for g in before)
        return slice(start, start + group.stop - group.start)


@dataclass(frozen=True)
class DrawnTargets:
    """How many targets are drawn beside the recorded ones: noise, and known drivers' targets."""

    n_null: int
    shares: tuple[float, ...]
    n_tunings: int


SCORES = Kind("scores", 2, {1: (_SCHEMA,)}, None, unit_dim="layer")


def scores_layout(
    layers: Layers,
    labels: Mapping[str, Any],
    *,
    measures: Sequence[str],
    n_folds: int,
    n_targets: int,
    n_summaries: int,
    n_resampled: int,
    n_bootstrap: int,
    n_permutations: int,
    drawn: DrawnTargets | None = None,
) -> Layout:
    """Return encoding scores and their resampled summaries; a unit is one layer, all targets.

    `labels` are coordinates of the stimuli and, where there are windows, of targets and summaries.
    The bootstrap is that of latencies: it resamples the `n_resampled` summaries of MEG alone.
    """
    chunk = min(TARGETS_PER_CHUNK, n_targets)
    whole = -(-n_targets // chunk) * chunk
    coords = layer_coords(layers) | dict(labels) | {"measure": text_coord("measure", measures)}
    arrays = [
        array_layout(
            _SCHEMA,
            "scores",
            (len(layers), len(measures), n_folds, n_targets),
            chunks=(1, len(measures), n_folds, chunk),
            shards=(1, len(measures), n_folds, whole),
        ),
        *(
            array_layout(_SCHEMA, name, (len(layers), *own), (1, *own))
            for name, own in (
                ("bootstrap", (n_bootstrap + 1, n_resampled)),
                ("permutation", (n_permutations + 1, n_summaries)),
            )
            if own[1]
        ),
    ]
    if drawn is not None:
        coords["share"] = ("share", np.array(drawn.shares))
        sizes = len(drawn.shares), len(layers), drawn.n_tunings
        arrays += [
            array_layout(_SCHEMA, name, (len(layers), *own), (1, *own))
            for name, own in (("null", (drawn.n_null,)), ("simulated", sizes))
        ]
    units = [
        Unit(i, name, {"layer": i}, {array.name: _row(array, i) for array in arrays})
        for i, (name, _) in enumerate(layers)
    ]
    return layout_of(arrays, coords, units)


def _row(array: ArrayLayout, layer: int) -> list[tuple[int, int]]:
    return [(layer, layer + 1), *((0, size) for size in array.shape[1:])]
