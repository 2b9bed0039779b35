"""Comparisons: the tables of one model's hierarchy comparisons, and its verdicts.

This module alone says which labels an axis has. The reducer fills a table label by label, by the
coordinates of the store that it fills, so the order of a tuple here cannot mislabel a number.
"""

from collections.abc import Sequence

from storage_schemas.kinds.coordinates import (
    LAYER,
    Coords,
    Layers,
    Window,
    layer_coords,
    text_coord,
    window_coords,
    window_schema,
)
from storage_schemas.kinds.layouts import one_unit, whole_arrays
from storage_schemas.kinds.schema import ArraySchema, CoordSchema, Kind, Schema, flags
from storage_schemas.layout import Layout
from storage_schemas.sources import CONTROLS, unique_of

DISTANCE = "distance"
"""The position in mm from the seed region; other positions are places on ladders of regions."""

RESOLUTIONS = ("voxel", "region", "mean_response")
"""Targets of a spatial score: significant voxels, regions by the mean score of their significant
voxels, or the mean responses of regions, whether significant or not."""
KSTARS = ("argmax", "centre_of_mass")
CORRELATIONS = ("pearson", "spearman")
TIMINGS = ("slope", "lag", "lag_slope", "contrast")
"""Quantities of latencies, in s: their slope on depth; of a gradient signal also its lag behind the
forward signal (mean over layers), the slope of the lag, and slope + smallest_effect x the forward
slope."""
BOUNDS = ("low", "high")
ORDERS = {"spatial": "fmri", "temporal": "meg"}
"""Orders that a verdict judges, and the modality that decides each."""

CONTROL_SIGNALS = tuple(map(unique_of, CONTROLS))
"""What forward features add to the baseline: of these signals only the p's are filled, and a small
one forbids a verdict."""

NOT_JUDGED = "not_judged"
VERDICTS = (
    NOT_JUDGED,
    "no_gradient_signal",
    "backprop_like",
    "misaligned",
    "undecided",
    "not_identifiable",
)
"""Verdicts in the order of their values in `verdict` and `order_verdict`; only what a learning
signal adds to the baseline is judged."""

_SPATIAL = ("signal", "position", "resolution", "kstar", "correlation")
_TEMPORAL = ("signal", "correlation")
_RISE = "correlation of preferred depth (k*) with position over selected targets"
_LATER = "correlation of layer depth with peak latency"
_AGREEMENT = ("signal", "resolution", "kstar", "correlation")
_AGREES = "correlation of the gradient's preferred depth (k*) with the forward one"
_CONTRAST = ("signal", "position", "resolution", "kstar")
_SLOWER = "slope on position of k* of the gradient - smallest_effect x k* of the forward signal"
_TIMING = ("signal", "timing")
_SCORE = "r, of unique signals with what the baseline leaves of the responses"
_BEYOND = "largest r beyond the baseline (unique signals)"
_SECONDS = "slope on depth, lag, slope of lag, or contrast of slopes of peak latencies"


def _number(dims: tuple[str, ...], long_name: str, units: str = "1") -> ArraySchema:
    return ArraySchema(dims, "float64", long_name, units, optional=True)


VERDICT_TABLES = {
    "verdict": ArraySchema(
        ("signal",), "int8", "verdict on a learning signal", attrs=flags(VERDICTS)
    ),
    "gradient_p": ArraySchema(
        ("signal",), "float64", "smallest signal_p over orders, times their number"
    ),
    "identifiable": ArraySchema(
        ("signal",), "bool", "whether linear CKA tells the layers apart; decides nothing"
    ),
    "usable": ArraySchema(("signal", "layer"), "bool", "whether the layer enters the order scores"),
}
_JUDGED = ("signal", "order")


def _judged(long_name: str) -> ArraySchema:
    return ArraySchema(_JUDGED, "float64", long_name)


JUDGED_TABLES = {
    "signal_p": _judged(f"p of the mean over subjects of the {_BEYOND}, over permuted stimuli"),
    "control_p": _judged("smallest signal_p of the controls"),
    "exceeds_p": _judged(
        "one-sided p that the signal exceeds a control, largest over controls that are significant"
    ),
    "forward_order_p": _judged(
        "one-sided p of the activations' order: rise with position, or later with depth"
    ),
    "observed_order": _judged(
        "spatial: mean correlation of k* with position; temporal: mean slope of latency on depth, "
        "s per unit depth"
    ),
    "no_order_p": _judged("share of simulated studies without an order that show this one or more"),
    "backprop_p": _judged("share of simulated studies with backpropagation that show this or less"),
    "power": _judged("share of simulated studies without an order that reject backpropagation"),
    "agrees_p": _judged(
        "one-sided p of the gradient's agreement with activations (spatial), or lag (temporal)"
    ),
    "order_verdict": ArraySchema(
        _JUDGED, "int8", "verdict on a learning signal in one order", attrs=flags(VERDICTS)
    ),
}
"""What each order's verdict rests on; every order belongs to one modality."""

FMRI_TABLES = {
    "spatial_score": _number((*_SPATIAL, "fmri_subject"), _RISE),
    "spatial_p": _number(
        (*_SPATIAL, "fmri_subject"), "one-sided p of the spatial score, over orders of regions"
    ),
    "spatial_mean": _number(_SPATIAL, "mean over subjects of the spatial score"),
    "spatial_interval": _number(
        (*_SPATIAL, "bound"), "95 % interval of the mean spatial score, jackknife over regions"
    ),
    "spatial_combined_p": _number(
        _SPATIAL, "one-sided p of the mean spatial score, over common orders of regions"
    ),
    "agreement_score": _number((*_AGREEMENT, "fmri_subject"), _AGREES),
    "agreement_p": _number(
        (*_AGREEMENT, "fmri_subject"), "one-sided p of the agreement, over orders of regions"
    ),
    "agreement_mean": _number(_AGREEMENT, "mean over subjects of the agreement"),
    "agreement_interval": _number(
        (*_AGREEMENT, "bound"), "95 % interval of the mean agreement, jackknife over regions"
    ),
    "agreement_combined_p": _number(
        _AGREEMENT, "one-sided p of the mean agreement, over common orders of regions"
    ),
    "contrast": _number((*_CONTRAST, "fmri_subject"), f"{_SLOWER}, per mm or place on a ladder"),
    "contrast_mean": _number(_CONTRAST, f"mean over subjects of the {_SLOWER}"),
    "contrast_p": _number(
        _CONTRAST, f"one-sided p of a mean below 0 of the {_SLOWER}, over common orders of regions"
    ),
    "spatial_moran_p": _number(
        ("signal", "position", "kstar"),
        "one-sided p of the mean spatial score of mean responses, over maps of equal Moran's I",
    ),
    "people_slope": _number(
        (*_CONTRAST, "fmri_subject"),
        "slope of preferred depth (k*) on position, per mm or place on a ladder",
    ),
    "people_mean": _number(_CONTRAST, "mean over subjects of the slope of k* on position"),
    "people_p": _number(
        _CONTRAST, "one-sided p of the mean slope of k* on position, over subjects' signs"
    ),
    "kstar_reliability": _number(
        ("signal", "resolution", "kstar", "fmri_subject"),
        "reliability of k* over targets, between halves of the folds (Spearman-Brown)",
    ),
    "spatial_over_ceiling": _number(
        (*_CONTRAST, "fmri_subject"), "Pearson spatial score over the root of k*'s reliability"
    ),
    "agreement_over_ceiling": _number(
        ("signal", "resolution", "kstar", "fmri_subject"),
        "Pearson agreement over the root of the product of both k*'s reliabilities",
    ),
    "kstar_set": _number(
        ("signal", "layer", "region", "fmri_subject"),
        "1 where the layer is within a standard error over folds of the region's best, 0 elsewhere",
    ),
    "tied_voxels": _number(
        ("signal", "fmri_subject"),
        "number of selected voxels with several layers within a standard error of the best",
    ),
    "region_profile_all": _number(
        ("signal", "layer", "region", "fmri_subject"),
        f"mean score ({_SCORE}) of all the region's voxels, selected or not",
    ),
    "region_voxels": _number(("region", "fmri_subject"), "number of the region's voxels"),
    "region_selected": _number(
        ("signal", "region", "fmri_subject"), "number of the region's selected voxels"
    ),
    "region_profile": _number(
        ("signal", "layer", "region", "fmri_subject"),
        f"mean score ({_SCORE}) of the region's selected voxels",
    ),
    "region_depth": _number(
        ("signal", "kstar", "region", "fmri_subject"),
        "relative depth (0 to 1) that the region's mean profile prefers (k*)",
    ),
    "region_position": _number(
        ("region", "fmri_subject"), "mean distance of the region's voxels to the seed region", "mm"
    ),
    "significant_voxels": _number(("signal", "fmri_subject"), "number of selected voxels"),
    "gradient_p_fmri": _number(
        ("signal", "fmri_subject"), f"p of the {_BEYOND} over regions and layers"
    ),
}
MEG_TABLES = {
    "temporal_score": _number((*_TEMPORAL, "meg_subject"), _LATER),
    "temporal_p": _number(
        (*_TEMPORAL, "meg_subject"), "two-sided p of the temporal score, over resampled stimuli"
    ),
    "dropped_replicates": _number(
        (*_TEMPORAL, "meg_subject"), "number of bootstrap replicates without a temporal score"
    ),
    "temporal_mean": _number(_TEMPORAL, "mean over subjects of the temporal score"),
    "temporal_interval": _number(
        (*_TEMPORAL, "bound"), "95 % interval of the mean temporal score, over resampled stimuli"
    ),
    "temporal_combined_p": _number(
        _TEMPORAL, "two-sided p of the mean temporal score, over resampled stimuli"
    ),
    "timing_score": _number((*_TIMING, "meg_subject"), _SECONDS, "s"),
    "timing_p": _number(
        (*_TIMING, "meg_subject"), f"two-sided p of the {_SECONDS}, over resampled stimuli"
    ),
    "timing_mean": _number(_TIMING, f"mean over subjects of the {_SECONDS}", "s"),
    "timing_interval": _number(
        (*_TIMING, "bound"), f"95 % interval of the mean {_SECONDS}, over resampled stimuli", "s"
    ),
    "timing_combined_p": _number(
        _TIMING, f"two-sided p of the mean {_SECONDS}, over resampled stimuli"
    ),
    "lag": _number(
        ("signal", "layer", "meg_subject"),
        "peak latency of a gradient signal minus that of the forward signal",
        "s",
    ),
    "edge_peaks": _number(
        ("signal", "meg_subject"),
        "number of layers that are highest at an edge of the search window, so have no latency",
    ),
    "latency": _number(
        ("signal", "layer", "meg_subject"), "peak latency of the layer's curve", "s"
    ),
    "onset": _number(("signal", "layer", "meg_subject"), "onset of the layer's curve", "s"),
    "curve": _number(
        ("signal", "layer", "window", "meg_subject"),
        f"mean score ({_SCORE}) over selected sensors, over all if there are none",
    ),
    "significant_sensors": _number(("signal", "meg_subject"), "number of selected sensors"),
    "gradient_p_meg": _number(
        ("signal", "meg_subject"),
        f"p of the {_BEYOND} over sensors, windows and layers",
    ),
}

_LABELS = (
    *("position", "resolution", "kstar", "correlation", "timing", "bound"),
    *("region", "order", "fmri_subject", "meg_subject"),
)
_SCHEMA = Schema(
    VERDICT_TABLES | JUDGED_TABLES | FMRI_TABLES | MEG_TABLES,
    {
        **LAYER,
        "signal": CoordSchema(("signal",), "text"),
        **{name: CoordSchema((name,), "text", optional=True) for name in _LABELS},
        **window_schema("window"),
    },
    ("model", "control"),
)
COMPARISONS = Kind("comparisons", 2, {1: (_SCHEMA,)}, None)


def comparisons_layout(
    signals: Sequence[str],
    layers: Layers,
    regions: Sequence[str],
    positions: Sequence[str],
    fmri_subjects: Sequence[str],
    meg_subjects: Sequence[str],
    windows: Sequence[Window],
) -> Layout:
    """Return the tables of one model's hierarchy comparisons; a single unit owns them all.

    `signals` are "forward", "gradient:<objective>", "unique:<objective>" and the controls. Tables
    of a modality that nobody was recorded in are left out, and so is its order.
    """
    recorded = {"fmri": fmri_subjects, "meg": meg_subjects}
    labels = {
        "signal": signals,
        "order": [order for order, modality in ORDERS.items() if recorded[modality]],
        "resolution": RESOLUTIONS,
        "kstar": KSTARS,
        "correlation": CORRELATIONS,
        "timing": TIMINGS,
        "bound": BOUNDS,
        "region": regions,
        "position": positions,
        "fmri_subject": fmri_subjects,
        "meg_subject": meg_subjects,
    }
    coords: Coords = layer_coords(layers) | window_coords("window", windows)
    coords |= {dim: text_coord(dim, names) for dim, names in labels.items()}
    tables = VERDICT_TABLES | JUDGED_TABLES
    tables |= FMRI_TABLES if fmri_subjects else {}
    tables |= MEG_TABLES if meg_subjects else {}
    used = {dim for table in tables.values() for dim in table.dims}
    kept = {name: coord for name, coord in coords.items() if coord[0] in used}
    sizes = {dim: len(coords[dim][1]) for dim in used}
    return one_unit(whole_arrays(Schema(tables), sizes), kept)
