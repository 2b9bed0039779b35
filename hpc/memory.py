"""Whether the ridge of every scores store fits into the memory of one process of stage encode."""

import numpy as np

from gradenc_core.solver import Shapes, plan_solver
from hpc.plan import encoding_spec, is_diagnostic, n_features, split_bands
from hpc.resolve import Resolved, ResolvedModel
from hpc.store_plan import StorePlan
from hpc.study import Study, StudyError
from jobs.encode import ridge_options


def check_memory(study: Study, resolved: Resolved, plan: StorePlan, limit: float | None) -> None:
    """Refuse a scores store whose ridge needs more than `limit` bytes (None: no limit is known).

    Raises
    ------
    StudyError
        With what it needs, what there is, and the keys that change either.
    """
    shapes, banded = shapes_of(study, resolved, plan)
    try:
        plan_solver(shapes, ridge_options(encoding_spec(study)), banded, limit)
    except ValueError as error:
        raise StudyError(f"{study._file}: {plan.label}: {error}") from error


def shapes_of(study: Study, resolved: Resolved, plan: StorePlan) -> tuple[Shapes, bool]:
    """Return what one unit of a scores store fits, and whether it has two bands."""
    arrays = {array.name: array.shape for array in plan.layout.arrays}
    model = next(m for m in resolved.models if m.name == plan.attrs["model"])
    width, banded = _width(study, model, plan.attrs["bands"])
    encoding, resampled = study.encoding, not is_diagnostic(plan.attrs["bands"])
    return (
        Shapes(
            n_stimuli=plan.layout.coords.sizes["stimulus"],
            n_features=width,
            n_targets=arrays["scores"][-1],
            n_folds=encoding.folds,
            n_summaries=arrays["bootstrap"][-1],
            n_bootstraps=encoding.bootstrap * resampled,
            n_permutations=encoding.permutations * resampled,
            n_blocks=encoding.blocks,
        ),
        banded,
    )


def _width(study: Study, model: ResolvedModel, bands: str) -> tuple[int, bool]:
    """Return the features of all bands together, of the widest layer, and whether they are two."""
    forward, source = split_bands(bands)
    if source is None:
        return _widest(n_features(study, model, "forward")), False
    own = _widest(n_features(study, model, source))
    if not forward:
        return own, False
    every = n_features(study, model, "forward")
    if is_diagnostic(bands):
        return own + _widest(every), True
    total = every * len(model.layers) if isinstance(every, int) else sum(every)
    return own + min(study.encoding.forward_all, total), True


def _widest(widths: int | list[int]) -> int:
    return int(np.max(widths))
