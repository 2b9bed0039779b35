"""What each kind of store holds, by version: dimensions, types, units, coordinates, attributes.

Versions enter every identity, so a change never reuses old bytes; they are counted per kind, so a
change of one kind leaves the others' results in use. An old version stays listed here for as long
as its stores can be opened.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

FORMAT_VERSION = 2
"""Layout of what surrounds the data: run.json, plan.json, records, seals. Not in any identity."""

ALGORITHM_VERSION = {
    "prepared": 1,
    "bank": 1,
    "pca": 1,
    "classes": 2,
    "responses": 1,
    "features": 1,
    "stability": 2,
    "collinearity": 3,
    "scores": 4,
    "comparisons": 2,
    "drill": 1,
}
"""Kind of store -> version of the computation that fills it; raise it when its bytes change."""

SIGNAL_CLASSES = ("ok", "zero", "constant", "identical_to_forward")
"""What a code of `signal_class` means, by its value (CF `flag_meanings`)."""

TypeOfCoord = Literal["text", "integer", "float"]


@dataclass(frozen=True)
class ArraySchema:
    """One array; values written there are finite or NaN, never unwritten."""

    dims: tuple[str, ...]
    dtype: str
    long_name: str
    units: str = "1"
    optional: bool = False
    attrs: Mapping[str, Any] = field(default_factory=dict)
    """More CF attributes, e.g. `flag_meanings`."""


@dataclass(frozen=True)
class CoordSchema:
    """One coordinate."""

    dims: tuple[str, ...]
    type: TypeOfCoord
    units: str | None = None
    optional: bool = False


@dataclass(frozen=True)
class Schema:
    """All arrays and coordinates of a store and the attributes that it must have."""

    arrays: Mapping[str, ArraySchema]
    coords: Mapping[str, CoordSchema]
    attrs: tuple[str, ...] = ()


_LAYER = {
    "layer": CoordSchema(("layer",), "text"),
    "layer_depth": CoordSchema(("layer",), "float"),
}
_STIMULUS = {
    "stimulus": CoordSchema(("stimulus",), "text"),
    "stimulus_digest": CoordSchema(("stimulus",), "text"),
}
_VOXEL = {
    "roi": CoordSchema(("voxel",), "text"),
    "hemisphere": CoordSchema(("voxel",), "text"),
    **{axis: CoordSchema(("voxel",), "float", "mm") for axis in "xyz"},
}
_VOXEL_INDEX = {axis: CoordSchema(("voxel",), "integer") for axis in "ijk"}
_SENSOR = {
    "sensor": CoordSchema(("sensor",), "text"),
    **{f"sensor_{axis}": CoordSchema(("sensor",), "float", "m") for axis in "xyz"},
    "time": CoordSchema(("time",), "float", "s"),
}
_SENSOR_PLACE = {
    "sensor_type": CoordSchema(("sensor",), "text"),
    "sensor_loc": CoordSchema(("sensor", "loc"), "float"),
}

RESOLUTIONS = ("voxel", "region")
KSTARS = ("argmax", "centre_of_mass")
CORRELATIONS = ("pearson", "spearman")
_SPATIAL = ("signal", "position", "resolution", "kstar", "correlation")

VERDICT_TABLES: dict[str, tuple[str, ...]] = {
    "verdict": ("signal",),
    "gradient_p": ("signal",),
    "identifiable": ("signal",),
    "usable": ("signal", "layer"),
}
"""`verdict` codes VERDICTS, NaN where a signal gets none; p of U over all subjects; whether the
layers can be told apart; whether a layer entered the order scores."""

FMRI_TABLES: dict[str, tuple[str, ...]] = {
    "spatial_score": (*_SPATIAL, "fmri_subject"),
    "spatial_p": (*_SPATIAL, "fmri_subject"),
    "spatial_mean": _SPATIAL,
    "spatial_interval": (*_SPATIAL, "bound"),
    "spatial_combined_p": _SPATIAL,
    "region_profile": ("signal", "layer", "region", "fmri_subject"),
    "region_depth": ("signal", "kstar", "region", "fmri_subject"),
    "region_position": ("position", "region", "fmri_subject"),
    "significant_voxels": ("signal", "fmri_subject"),
    "gradient_p_fmri": ("signal", "fmri_subject"),
}

MEG_TABLES: dict[str, tuple[str, ...]] = {
    "temporal_score": ("signal", "correlation", "meg_subject"),
    "temporal_p": ("signal", "correlation", "meg_subject"),
    "dropped_replicates": ("signal", "correlation", "meg_subject"),
    "temporal_mean": ("signal", "correlation"),
    "temporal_interval": ("signal", "correlation", "bound"),
    "temporal_combined_p": ("signal", "correlation"),
    "latency": ("signal", "layer", "meg_subject"),
    "onset": ("signal", "layer", "meg_subject"),
    "curve": ("signal", "layer", "window", "meg_subject"),
    "significant_sensors": ("signal", "meg_subject"),
    "gradient_p_meg": ("signal", "meg_subject"),
}


MOST_LAYERS = 1000
"""Layers that a store without projection can have."""


def layer_array(index: int) -> str:
    """Return the name of a layer's array of unprojected features."""
    return f"features_{index:03d}"


def mean_array(index: int) -> str:
    """Return the name of the mean of a layer's signal, about which components are taken."""
    return f"mean_{index:03d}"


def components_array(index: int) -> str:
    """Return the name of a layer's principal components."""
    return f"components_{index:03d}"


def _pca() -> dict[str, ArraySchema]:
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


def _features(arrays: Mapping[str, ArraySchema]) -> Schema:
    return Schema(arrays, {**_LAYER, **_STIMULUS}, ("model", "source"))


def _responses(dims: tuple[str, ...], coords: Mapping[str, CoordSchema], *attrs: str) -> Schema:
    return Schema(
        {
            "responses": ArraySchema(("stimulus", *dims), "float32", "mean response"),
            "n_repeats": ArraySchema(("stimulus",), "float32", "trials averaged"),
            "ncsnr": ArraySchema(dims, "float32", "noise ceiling signal-to-noise ratio"),
        },
        {**_STIMULUS, **coords},
        ("subject", "modality", *attrs),
    )


def _windows(dim: str, prefix: str = "") -> dict[str, CoordSchema]:
    """Return name and edges of windows along a dimension, which studies without MEG lack."""
    return {
        f"{prefix}window": CoordSchema((dim,), "text", optional=True),
        f"{prefix}window_start": CoordSchema((dim,), "float", "s", optional=True),
        f"{prefix}window_stop": CoordSchema((dim,), "float", "s", optional=True),
    }


def _scores(permuted: str, windows: Mapping[str, CoordSchema]) -> Schema:
    return Schema(
        {
            "scores": ArraySchema(
                ("layer", "measure", "fold", "target"),
                "float32",
                "encoding scores per outer fold",
            ),
            "bootstrap": ArraySchema(
                ("layer", "replicate", "summary"),
                "float32",
                "summary scores, index 0 observed, then by replicate",
            ),
            "permutation": ArraySchema(
                ("layer", permuted, "summary"),
                "float32",
                "summary scores, index 0 observed, then by permutation",
            ),
        },
        {
            **_LAYER,
            **_STIMULUS,
            "stimulus_fold": CoordSchema(("stimulus",), "integer"),
            "stimulus_block": CoordSchema(("stimulus",), "integer"),
            "measure": CoordSchema(("measure",), "text"),
            **windows,
        },
        ("model", "bands", "groups", "summary_groups"),
    )


def _tables() -> dict[str, ArraySchema]:
    """Return the tables of comparisons; those of a modality nobody was recorded in are absent."""
    return {
        name: ArraySchema(
            dims, "float64", name.replace("_", " "), optional=name not in VERDICT_TABLES
        )
        for name, dims in (VERDICT_TABLES | FMRI_TABLES | MEG_TABLES).items()
    }


def _table_coords(windows: Mapping[str, CoordSchema]) -> dict[str, CoordSchema]:
    labels = (
        *("resolution", "kstar", "correlation", "bound"),
        *("region", "position", "fmri_subject", "meg_subject"),
    )
    return {
        **_LAYER,
        "signal": CoordSchema(("signal",), "text"),
        **{name: CoordSchema((name,), "text", optional=True) for name in labels},
        **windows,
    }


def _comparisons(windows: Mapping[str, CoordSchema]) -> Schema:
    return Schema(_tables(), _table_coords(windows), ("model", "control"))


SCHEMAS: dict[str, dict[int, tuple[Schema, ...]]] = {
    "prepared": {
        1: (
            Schema(
                {"weights_digest": ArraySchema(("byte",), "uint8", "sha256 of weights")},
                {},
                ("model",),
            ),
        )
    },
    "bank": {
        1: (
            Schema(
                {
                    "weights_digest": ArraySchema(("byte",), "uint8", "sha256 of weights"),
                    "manifest_digest": ArraySchema(("byte",), "uint8", "sha256 of item digests"),
                    "item_digest": ArraySchema(("item", "byte"), "uint8", "sha256 of items"),
                    "pooled": ArraySchema(
                        ("item", "channel"), "float64", "last block's pooled output"
                    ),
                    "embedding": ArraySchema(
                        ("item", "channel"), "float64", "what projection heads are trained on"
                    ),
                    "pooled_mean": ArraySchema(("channel",), "float64", "mean over the bank"),
                    "prototypes": ArraySchema(
                        ("prototype", "channel"), "float64", "prototypes of norm 1"
                    ),
                },
                {},
                ("model",),
            ),
        )
    },
    "pca": {1: (Schema(_pca(), {**_LAYER, **_STIMULUS}, ("model", "source")),)},
    "classes": {
        1: (
            Schema(
                {
                    "signal_class": ArraySchema(
                        ("layer",),
                        "int8",
                        "class of the gradient",
                        attrs={
                            "flag_values": list(range(len(SIGNAL_CLASSES))),
                            "flag_meanings": " ".join(SIGNAL_CLASSES),
                        },
                    )
                },
                _LAYER,
                ("model", "source"),
            ),
        )
    },
    "responses": {
        1: (_responses(("voxel",), _VOXEL), _responses(("sensor", "time"), _SENSOR)),
        # The voxels' indices and grid and the sensors' types: results go back where they came from.
        2: (
            _responses(("voxel",), {**_VOXEL, **_VOXEL_INDEX}, "volume_shape", "affine"),
            _responses(("sensor", "time"), {**_SENSOR, **_SENSOR_PLACE}),
        ),
    },
    "features": {
        # Of one width, or (without projection) an array for each layer, as wide as it is.
        1: (
            _features(
                {
                    "features": ArraySchema(
                        ("layer", "stimulus", "feature"), "float32", "pooled and projected signal"
                    )
                }
            ),
            _features(
                {
                    layer_array(index): ArraySchema(
                        ("stimulus", f"feature_{index:03d}"),
                        "float32",
                        "pooled signal of a layer",
                        optional=True,
                    )
                    for index in range(MOST_LAYERS)
                }
            ),
        )
    },
    "stability": {
        1: (
            Schema(
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
                {**_LAYER, "perturbation": CoordSchema(("perturbation",), "text")},
                ("model", "source"),
            ),
        )
    },
    "collinearity": {
        1: (
            Schema(
                {"cka": ArraySchema(("layer", "other_layer"), "float64", "linear CKA")},
                {**_LAYER, "other_layer": CoordSchema(("other_layer",), "text")},
                ("model", "source"),
            ),
        )
    },
    "scores": {
        # Version 1 named a dimension like its array, which xarray takes for a coordinate.
        1: (_scores("permutation", {}),),
        2: (_scores("shuffle", {}),),
        3: (
            _scores(
                "shuffle", {**_windows("target", "target_"), **_windows("summary", "summary_")}
            ),
        ),
    },
    "comparisons": {
        # Version 1 had the windows' centres alone.
        1: (_comparisons({"window": CoordSchema(("window",), "float", "s", optional=True)}),),
        2: (_comparisons(_windows("window")),),
    },
    "drill": {
        1: (
            Schema(
                {"noise": ArraySchema(("unit", "value"), "float32", "seeded noise")},
                {},
                ("stage",),
            ),
        )
    },
}
"""Kind of store -> version -> what it may look like (responses: of fMRI or of MEG)."""

SCHEMA_VERSION = {kind: max(versions) for kind, versions in SCHEMAS.items()}
"""Kind of store -> the version that is written."""


def current(kind: str, dims: tuple[str, ...] | None = None) -> Schema:
    """Return the schema that new stores of a kind follow; of responses, that with these `dims`."""
    forms = SCHEMAS[kind][SCHEMA_VERSION[kind]]
    if dims is None:
        return forms[0]
    return next(form for form in forms if form.arrays["ncsnr"].dims == dims)


UNIT_DIM = {"features": "stimulus", "scores": "layer", "drill": "unit"}
"""Kind of store -> dimension along which its units divide it; the others are one unit."""
