"""The bands of features that a study fits, and the labels of stores of features and scores.

Bands are what one ridge fit uses: one source, such as "forward" or "gradient:energy"; a source
beyond the complete forward baseline, as "baseline+gradient:energy"; or a layer's activations and
its gradient as two bands, as "forward+gradient:energy".
"""

from collections.abc import Iterator, Sequence

from hpc.plan.store_plan import safe
from hpc.plan.subjects import Targets, group_label
from hpc.study.resolved import Resolved, ResolvedModel
from jobs.spec import SAME_LAYER
from storage_schemas.sources import BEYOND, CONTROLS


def bands_of(resolved: Resolved) -> Iterator[str]:
    """Yield the bands that are compared: every source alone, gradients and controls beyond."""
    yield from resolved.sources
    for source in resolved.gradients:
        yield f"{BEYOND}{source}"
    if resolved.gradients:
        yield from (f"{BEYOND}{control}" for control in CONTROLS)


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


def is_beyond(bands: str) -> bool:
    """Whether a source is scored beyond the baseline."""
    return bands.startswith(BEYOND)


def fitted_sources(bands: str) -> tuple[str, ...]:
    """Return the sources whose features are fitted, in the order of the bands."""
    first, _, source = bands.rpartition("+")
    return (source,) if is_beyond(bands) or not first else (first, source)


def score_label(model: ResolvedModel, bands: str, group: Sequence[Targets]) -> str:
    """Return the label of a scores store, after the group of subjects that it holds."""
    return f"{model.name}-{safe(bands)}-{group_label(group)}"


UNRECORDED = "unrecorded"
"""What labels call the set of images without recordings."""


def feature_label(model: str, source: str, number: int | str) -> str:
    """Return the label of a features store; further sets of stimuli are numbered or named."""
    named = f"set{number}" if isinstance(number, int) else number
    return f"{model}-{safe(source)}" + (f"-{named}" if number else "")
