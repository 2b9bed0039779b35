"""How a study file names objectives and signals; imports nothing slow."""

import re
from importlib.metadata import entry_points
from typing import Annotated

from pydantic import AfterValidator, Field

from gradenc_core.spelling import did_you_mean

OBJECTIVES = ("classification", "contrastive", "dino", "energy", "masked", "random")
ENTRY_POINTS = "gradenc.objectives"
"""Group of entry points in which an installed package offers objectives."""
SIGNAL_ENTRY_POINTS = "gradenc.signals"
"""Group of entry points in which an installed package offers signals."""


def _signal(name: str) -> str:
    """Return the name of a signal, or refuse one that is neither known nor a module's."""
    return _known(name, ["forward", "gradient", *sorted(_points(SIGNAL_ENTRY_POINTS))])


def _objective(name: str) -> str:
    """Return the name of an objective, or refuse one that is neither known nor a module's."""
    return _known(name, [*OBJECTIVES, *sorted(_points(ENTRY_POINTS))])


def _points(group: str) -> set[str]:
    return set(entry_points(group=group).names)


def _known(name: str, known: list[str]) -> str:
    if name in known or _MODULE_FUNCTION.fullmatch(name):
        return name
    raise ValueError(f"{', '.join(known)}, module:function{did_you_mean(name, known)}")


_MODULE_FUNCTION = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
Objective = Annotated[str, Field(strict=True), AfterValidator(_objective)]
Signal = Annotated[str, Field(strict=True), AfterValidator(_signal)]
