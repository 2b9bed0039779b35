"""gradenc: activations and gradients of vision models, and what they predict of brains.

This package is the door for notebooks and scripts; everything else of the project is behind it.
Names are imported when they are first used (SPEC 1), so `import gradenc` is quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradenc_core.models.model import load_model

_HOMES = {
    "load_model": "gradenc_core.models.model",
}
"""Module that defines each public name."""

__all__ = ["load_model"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
