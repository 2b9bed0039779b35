"""gradenc: activations and gradients of vision models, and what they predict of brains.

This package is the door for notebooks and scripts; everything else of the project lies behind it.
Names are imported when they are first used (SPEC 1), so `import gradenc` is quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradenc.features import extract
    from gradenc.scores import encode
    from gradenc.study import Run, Study
    from gradenc_core.compare.space import spatial_score
    from gradenc_core.compare.time import temporal_score
    from gradenc_core.compare.verdict import judge
    from gradenc_core.models.model import load_model
    from gradenc_core.ridge.estimator import RidgeCV
    from gradenc_core.stimuli.images import read_images
    from storage_schemas import open_run

_HOMES = {
    "load_model": "gradenc_core.models.model",
    "read_images": "gradenc_core.stimuli.images",
    "extract": "gradenc.features",
    "encode": "gradenc.scores",
    "RidgeCV": "gradenc_core.ridge.estimator",
    "spatial_score": "gradenc_core.compare.space",
    "temporal_score": "gradenc_core.compare.time",
    "judge": "gradenc_core.compare.verdict",
    "open_run": "storage_schemas",
    "Study": "gradenc.study",
    "Run": "gradenc.study",
}
"""Module that defines each public name."""

__all__ = [
    "RidgeCV",
    "Run",
    "Study",
    "encode",
    "extract",
    "judge",
    "load_model",
    "open_run",
    "read_images",
    "spatial_score",
    "temporal_score",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(_HOMES)
