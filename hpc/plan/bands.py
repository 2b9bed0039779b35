"""The bands of features that a study fits, and the labels of stores of features and scores.

Bands are what one ridge fit uses: "forward", a gradient source such as "gradient:energy", or both
as "forward_all+gradient:energy" and "forward+gradient:energy".
"""

from collections.abc import Iterator, Sequence

from hpc.plan.store_plan import safe
from hpc.plan.subjects import Targets, group_label
from hpc.study.resolved import Resolved, ResolvedModel
from jobs.spec import SAME_LAYER


def bands_of(resolved: Resolved) -> Iterator[str]:
    """Yield the bands that are compared: every source alone, every gradient beside all forward."""
    yield from resolved.sources
    for source in resolved.gradients:
        yield f"forward_all+{source}"


def fitted_bands(resolved: Resolved) -> Iterator[str]:
    """Yield the bands that are fitted: those that are compared, and the same-layer diagnostic."""
    yield from bands_of(resolved)
    for source in resolved.gradients:
        yield f"{SAME_LAYER}{source}"


def is_diagnostic(bands: str) -> bool:
    """Whether bands are scored only, never tested: a gradient beside its own layer's activations.

    A gradient is a function of deeper activations, so it adds to its own layer's in any brain.
    """
    return bands.startswith(SAME_LAYER)


def split_bands(bands: str) -> tuple[bool, str | None]:
    """Return whether forward features enter, and the gradient source if one does."""
    if bands == "forward":
        return True, None
    forward, _, source = bands.rpartition("+")
    return bool(forward), source


def score_label(model: ResolvedModel, bands: str, group: Sequence[Targets]) -> str:
    """Return the label of a scores store, after the group of subjects that it holds."""
    return f"{model.name}-{safe(bands)}-{group_label(group)}"


UNRECORDED = "unrecorded"
"""What labels call the set of images without recordings."""


def feature_label(model: str, source: str, number: int | str) -> str:
    """Return the label of a features store; further sets of stimuli are numbered or named."""
    named = f"set{number}" if isinstance(number, int) else number
    return f"{model}-{safe(source)}" + (f"-{named}" if number else "")
