"""How a study file names objectives; imports nothing slow."""

import re
from importlib.metadata import entry_points
from typing import Annotated

from pydantic import AfterValidator, Field

from hpc.overrides import did_you_mean

OBJECTIVES = ("classification", "contrastive", "dino", "energy", "masked", "random")
ENTRY_POINTS = "gradenc.objectives"
"""Group of entry points in which an installed package offers objectives."""


def _objective(name: str) -> str:
    """Return the name of an objective, or refuse one that is neither known nor a module's."""
    known = [*OBJECTIVES, *sorted(entry_points(group=ENTRY_POINTS).names)]
    if name in known or _MODULE_FUNCTION.fullmatch(name):
        return name
    raise ValueError(f"{', '.join(known)}, module:function{did_you_mean(name, known)}")


_MODULE_FUNCTION = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
Objective = Annotated[str, Field(strict=True), AfterValidator(_objective)]
