"""Stage encode: ridge scores of one layer for every target of all subjects who saw its stimuli.

Features are read by rows and responses by columns, so that memory does not grow with either.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from xarray import Coordinates

from gradenc_core.arrays import Columns
from gradenc_core.ridge.cost import Shapes, plan_solver
from gradenc_core.ridge.encode import EncodingScores, score_targets
from gradenc_core.ridge.factorise import Design, factorise
from gradenc_core.ridge.resample import bootstrap_scores, permutation_scores
from gradenc_core.unique.residuals import Learned, NoRoomError
from jobs.recorded import Recorded, SideBySide, split_like
from jobs.rows import fitted_rows, layer_widths, n_rows
from jobs.runner import Arrays, Facts, Work
from jobs.spec import EncodingSpec, ScoresSpec
from jobs.unique import (
    CONTROL_WIDTH,
    Situation,
    about,
    design_beyond,
    drawn_targets,
    responses_beyond,
    seen_beyond,
    variance_of_responses,
)
from storage_schemas.protocol.store import Store, Unit

LIBRARIES = 8e8
"""Memory (bytes) reserved for libraries in a Dask worker: 0.8 GB covers torch, which is loaded only
where there is a GPU driver; without it they take 0.16 GB."""


def compute(work: Work) -> Iterator[tuple[Store, Unit, Arrays, Facts]]:
    """Yield scores, bootstrap and permutation refits of one layer.

    One thread of BLAS everywhere: the bytes of an eigendecomposition depend on the thread count.
    """
    for store, unit in work.units:
        spec = ScoresSpec.model_validate(store.spec)
        with threadpool_limits(1):
            encode = _encode_layer if spec.beyond is None else _encode_beyond
            arrays, facts = encode(spec, store, unit, work)
        yield store, unit, arrays, facts


@dataclass(frozen=True)
class Fitted:
    """A factorised layer and what it predicts.

    Attributes
    ----------
    design : Design
    responses : Columns, (n_rows, n_targets)
    summaries : tuple of Columns, each (n_rows, n_summaries)
        One per subject.
    timed : tuple of bool
        Whose summaries are those of MEG, which the bootstrap resamples for their latencies.
    sessions : tuple of array or None
        Per subject, the sessions within which rows change places; None: all with each other.
    categories : array or None, (n_rows,)
        Categories whose rows change places together.
    blocks : array, (n_rows,)
    """

    design: Design
    responses: Columns
    summaries: tuple[Columns, ...]
    timed: tuple[bool, ...]
    sessions: Sequence[NDArray[np.str_] | None]
    categories: NDArray[np.int64] | None
    blocks: NDArray[np.integer]


def _encode_layer(spec: ScoresSpec, store: Store, unit: Unit, work: Work) -> tuple[Arrays, Facts]:
    """Score features and responses as they are; NaN where no feature varies."""
    coords, layer = store.dataset().coords, unit.key["layer"]
    targets = Recorded.of(spec.responses, store, work.root)
    x, bands = fitted_rows(spec.features, layer, work.root)
    options = spec.encoding.ridge_options
    plan = plan_solver(
        stored_shapes(spec, store, work.root, layer),
        options,
        spec.banded,
        fit_memory(work.how.memory),
    )
    rows = x[slice(None)] if plan.hold_rows else x
    design = factorise(rows, coords["stimulus_fold"].values, targets.weights, options, bands)
    if design.is_empty:
        return _no_numbers(store), {"constant_layers": 1}
    fitted = Fitted(
        design,
        targets.responses,
        targets.summaries.parts,
        targets.timed,
        _sessions(spec, targets),
        _categories(coords),
        coords["stimulus_block"].values,
    )
    scores = score_targets(design, targets.responses)
    measures = {name: getattr(scores, name) for name in _labels(coords)}
    return _arrays(measures, fitted, spec), asdict(scores.counts)


def _encode_beyond(spec: ScoresSpec, store: Store, unit: Unit, work: Work) -> tuple[Arrays, Facts]:
    """Score what the baseline leaves of features and responses.

    NaN where it leaves no room, or where no feature varies.
    """
    coords = store.dataset().coords
    targets = Recorded.of(spec.responses, store, work.root)
    situation = Situation.of(spec, coords, targets, work.root)
    said = about(situation)
    try:
        seen = seen_beyond(situation)
    except NoRoomError as error:
        return _no_numbers(store), {"baseline": said | {"untested": str(error)}}
    learned = isinstance(seen, Learned)
    design = design_beyond(situation, spec, unit.key["layer"])
    if design.is_empty:
        facts = {"constant_layers": 1, "baseline": said | {"learned": learned}}
        return _no_numbers(store), facts
    responses, summaries = responses_beyond(situation)
    fitted = Fitted(
        design,
        responses,
        split_like(summaries, targets.summaries.parts),
        targets.timed,
        # Residual coordinates belong to no session and no category.
        _sessions(spec, targets) if learned else (None,) * len(targets.sessions),
        _categories(coords) if learned else None,
        seen.blocks,
    )
    scores = score_targets(design, fitted.responses)
    arrays = _arrays(_beyond_measures(scores, situation, coords), fitted, spec)
    if not spec.is_control:
        arrays |= drawn_targets(situation, spec, design)
    return arrays, asdict(scores.counts) | {"baseline": said | {"learned": learned}}


def _no_numbers(store: Store) -> Arrays:
    shapes = {name: (1, *array.shape[1:]) for name, array in store.arrays.items()}
    return {name: np.full(shape, np.nan, np.float32) for name, shape in shapes.items()}


def _beyond_measures(
    scores: EncodingScores, situation: Situation, coords: Coordinates
) -> dict[str, NDArray[np.floating]]:
    """Return the scores by measure, and an equal share of the responses' variance per fold."""
    total = variance_of_responses(situation) / len(scores.r)
    own = vars(scores) | {"total": np.broadcast_to(total, scores.r.shape)}
    return {name: own[name] for name in _labels(coords)}


def _labels(coords: Coordinates) -> list[str]:
    return [str(name) for name in coords["measure"].values]


def _arrays(measures: dict[str, NDArray[np.floating]], fitted: Fitted, spec: ScoresSpec) -> Arrays:
    """Return the scores of a layer, and those of its summaries under resampling."""
    encoding = spec.encoding
    arrays = {
        "scores": np.stack(list(measures.values())).astype(np.float32)[None],
        "permutation": _permutation_scores(fitted, encoding)[None],
    }
    pairs = zip(fitted.summaries, fitted.timed, strict=True)
    if timed := tuple(part for part, is_timed in pairs if is_timed):
        columns, n, seed = SideBySide(timed), encoding.bootstrap, encoding.seed
        resampled = bootstrap_scores(fitted.design, columns, fitted.blocks, n, seed)
        arrays["bootstrap"] = resampled[None]
    return arrays


def _sessions(spec: ScoresSpec, targets: Recorded) -> Sequence[NDArray[np.str_] | None]:
    within = spec.encoding.permute_within == "session"
    return targets.sessions if within else (None,) * len(targets.sessions)


def _categories(coords: Coordinates) -> NDArray[np.int64] | None:
    return coords["stimulus_category"].values if "stimulus_category" in coords else None


def _permutation_scores(fitted: Fitted, encoding: EncodingSpec) -> NDArray[np.float32]:
    """Return null scores, (n_permutations + 1, n_summaries), permuted within each one's sessions.

    Where folds keep categories together, whole categories change places: images of one category
    are alike in features and responses, so they are no independent draws.

    Subjects with the same sessions share all permutations; others have their own, because an order
    that stays within the sessions of one leaves those of the other.
    """
    scores = [
        permutation_scores(
            fitted.design,
            part,
            encoding.permutations,
            encoding.seed,
            sessions,
            fitted.categories,
        )
        for part, sessions in zip(fitted.summaries, fitted.sessions, strict=True)
    ]
    return np.concatenate(scores, axis=1)


def stored_shapes(spec: ScoresSpec, store: Store, root: Path, layer: int | None = None) -> Shapes:
    """Return what a unit of a scores store fits, from the stores that it reads.

    Raises
    ------
    FileNotFoundError
        If one of them is gone.
    """
    beyond = spec.beyond
    images = beyond and beyond.unrecorded
    return fit_shapes(
        spec,
        [layer_widths(reference, root) for reference in spec.features],
        n_stimuli=store.dataset().sizes["stimulus"],
        n_targets=store.arrays["scores"].shape[-1],
        n_summaries=store.arrays["permutation"].shape[-1],
        resampled="bootstrap" in store.arrays,
        n_baseline=sum(layer_widths(beyond.baseline, root)) if beyond else 0,
        n_unrecorded=n_rows(images.baseline, root) if images else 0,
        layer=layer,
    )


def fit_shapes(
    spec: ScoresSpec,
    widths: Sequence[Sequence[int]],
    *,
    n_stimuli: int,
    n_targets: int,
    n_summaries: int,
    resampled: bool = True,
    n_baseline: int = 0,
    n_unrecorded: int = 0,
    layer: int | None = None,
) -> Shapes:
    """Return what a unit of a scores store fits: of one layer, or of the widest of each source.

    Parameters
    ----------
    spec : ScoresSpec
    widths : sequence of sequence of int
        Of each band, the features of every layer.
    n_stimuli, n_targets, n_summaries : int
    resampled : bool
        Whether the bootstrap refits summaries: those of MEG, where there are any.
    n_baseline, n_unrecorded : int
        Columns of the baseline, and images without recordings.
    layer : int, optional
    """
    n = len(spec.layers)  # the baseline has one more, which is no layer of the network
    own = [max(of_source[:n]) if layer is None else of_source[layer] for of_source in widths]
    if spec.is_control:
        own = [min(width, CONTROL_WIDTH) for width in own]
    return Shapes(
        n_stimuli=n_stimuli,
        n_features=sum(own),
        n_targets=n_targets,
        n_folds=spec.encoding.folds,
        n_summaries=n_summaries,
        n_bootstraps=spec.encoding.bootstrap if resampled else 0,
        n_permutations=spec.encoding.permutations,
        n_blocks=spec.encoding.blocks,
        n_baseline=n_baseline,
        n_unrecorded=n_unrecorded,
    )


def fit_memory(process: float | None) -> float | None:
    """Return the memory (bytes) that a process has left for a fit."""
    return None if process is None else max(process - LIBRARIES, 0.0)
