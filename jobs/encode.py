"""Stage encode: ridge scores of one layer for every target of all subjects who saw its stimuli.

Features are read by rows and responses by columns, so that memory does not grow with either.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from gradenc_core.arrays import Rows
from gradenc_core.ridge.cost import Shapes, plan_solver
from gradenc_core.ridge.encode import score_targets
from gradenc_core.ridge.factorise import Design, factorise
from gradenc_core.ridge.joint import joint_projection
from gradenc_core.ridge.options import RidgeOptions
from gradenc_core.ridge.resample import bootstrap_scores, permutation_scores
from jobs.recorded import Recorded
from jobs.runner import Arrays, Facts, Work
from jobs.spec import SAME_LAYER, EncodingSpec, Reference, ScoresSpec
from storage_schemas.kinds.features import layer_array, layer_features
from storage_schemas.protocol.store import Store, Unit

LIBRARIES = 8e8
"""Memory (bytes) reserved for libraries in a Dask worker: 0.8 GB covers torch, which is loaded only
where there is a GPU driver; without it they take 0.16 GB."""


def compute(work: Work) -> Iterator[tuple[Store, Unit, Arrays, Facts]]:
    """Yield scores, bootstrap and permutation refits of one layer.

    One thread of BLAS everywhere: the bytes of an eigendecomposition depend on the thread count.
    """
    for store, unit in work.units:
        with threadpool_limits(1):
            arrays, facts = _encode_layer(store, unit, work)
        yield store, unit, arrays, facts


def _encode_layer(store: Store, unit: Unit, work: Work) -> tuple[Arrays, Facts]:
    spec = ScoresSpec.model_validate(store.spec)
    encoding, coords = spec.encoding, store.dataset().coords
    targets = Recorded.of(spec.responses, store, work.root)
    x, bands = features(spec, unit.key["layer"], work.root)
    options = ridge_options(encoding)
    shapes = fit_shapes(
        spec,
        layer_widths(spec.forward, work.root),
        layer_widths(spec.gradient, work.root),
        n_stimuli=x.shape[0],
        n_targets=targets.responses.shape[1],
        n_summaries=targets.summaries.shape[1],
        layer=unit.key["layer"],
    )
    plan = plan_solver(shapes, options, spec.banded, fit_memory(work.how.memory))
    rows = x[slice(None)] if plan.hold_rows else x
    folds, blocks = coords["stimulus_fold"].values, coords["stimulus_block"].values
    categories = coords["stimulus_category"].values if "stimulus_category" in coords else None
    design = factorise(rows, folds, targets.weights, options, bands)
    scores = score_targets(design, targets.responses)
    measures = [getattr(scores, str(name)) for name in coords["measure"].values]
    seed, summaries = encoding.seed, targets.summaries
    arrays = {
        "scores": np.stack(measures)[None],
        "bootstrap": bootstrap_scores(design, summaries, blocks, encoding.bootstrap, seed)[None],
        "permutation": _permutation_scores(design, targets, encoding, categories)[None],
    }
    return arrays, asdict(scores.counts)


def fit_shapes(
    spec: ScoresSpec,
    forward: Sequence[int],
    gradient: Sequence[int],
    *,
    n_stimuli: int,
    n_targets: int,
    n_summaries: int,
    layer: int | None = None,
) -> Shapes:
    """Return what a unit of a scores store fits: of one layer, or of the widest of each source.

    Parameters
    ----------
    spec : ScoresSpec
    forward, gradient : sequence of int
        Features of every layer of the two stores; empty where the spec has none.
    n_stimuli, n_targets, n_summaries : int
    layer : int, optional
    """
    own = [0 if not w else max(w) if layer is None else w[layer] for w in (forward, gradient)]
    if spec.joint:
        own[0] = min(sum(forward), spec.encoding.forward_all)
    return Shapes(
        n_stimuli=n_stimuli,
        n_features=sum(own),
        n_targets=n_targets,
        n_folds=spec.encoding.folds,
        n_summaries=n_summaries,
        n_bootstraps=spec.encoding.bootstrap,
        n_permutations=spec.encoding.permutations,
        n_blocks=spec.encoding.blocks,
        n_in_memory=own[0] if spec.joint else 0,
        n_projected=max(forward) if spec.joint else 0,
    )


def layer_widths(reference: Reference | None, root: Path) -> list[int]:
    """Return the number of features of every layer of a features store; empty without one.

    Raises
    ------
    FileNotFoundError
        If the store is gone.
    """
    if reference is None:
        return []
    arrays = Store.find(root, reference.stage, reference.identity).arrays
    if (projected := arrays.get("features")) is not None:
        return [projected.shape[-1]] * projected.shape[0]
    return [arrays[layer_array(layer)].shape[-1] for layer in range(len(arrays))]


def _permutation_scores(
    design: Design,
    recorded: Recorded,
    encoding: EncodingSpec,
    categories: NDArray[np.int64] | None,
) -> NDArray[np.float32]:
    """Return null scores, (n_permutations + 1, n_summaries), permuted within each one's sessions.

    Where folds keep categories together, whole categories change places: images of one category
    are alike in features and responses, so they are no independent draws.

    Subjects with the same sessions share all permutations; others have their own, because an order
    that stays within the sessions of one leaves those of the other.
    """
    within = encoding.permute_within == "session"
    scores = [
        permutation_scores(
            design,
            part,
            encoding.permutations,
            encoding.seed,
            sessions if within else None,
            categories,
        )
        for part, sessions in zip(recorded.summaries.parts, recorded.sessions, strict=True)
    ]
    return np.concatenate(scores, axis=1)


def fit_memory(process: float | None) -> float | None:
    """Return the memory (bytes) that a process has left for a fit."""
    return None if process is None else max(process - LIBRARIES, 0.0)


def ridge_options(encoding: EncodingSpec) -> RidgeOptions:
    """Return the solver's options."""
    return RidgeOptions(
        alphas=encoding.alphas, selection=encoding.alpha_choice, ratios=encoding.band_ratios
    )


@dataclass(frozen=True)
class LayerRows:
    """Features of one layer on disk, (n_stimuli, n_features)."""

    data: xr.DataArray

    @property
    def shape(self) -> tuple[int, ...]:
        """(n_stimuli, n_features)."""
        return self.data.shape

    def __getitem__(self, rows: slice) -> NDArray[np.float32]:
        """Read some stimuli."""
        values: NDArray[np.float32] = self.data[rows].values
        return values


@dataclass(frozen=True)
class BandRows:
    """Two bands beside each other, (n_stimuli, features of both)."""

    first: Rows
    second: Rows

    @property
    def shape(self) -> tuple[int, ...]:
        """(n_stimuli, features of both)."""
        return self.first.shape[0], self.first.shape[1] + self.second.shape[1]

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        """Read some stimuli."""
        return np.hstack([self.first[rows], self.second[rows]])


def features(spec: ScoresSpec, layer: int, root: Path) -> tuple[Rows, tuple[int, int] | None]:
    """Return the features of one layer (n_stimuli, n_features) and, if banded, the band sizes."""
    if spec.gradient is None:
        assert spec.forward is not None
        return layers(spec.forward, root)[layer], None
    gradient = layers(spec.gradient, root)[layer]
    if spec.forward is None:
        return gradient, None
    first: Rows
    if spec.bands.startswith(SAME_LAYER):
        first = layers(spec.forward, root)[layer]
    else:
        first = _joint_forward(spec.forward, root, spec.encoding.forward_all, spec.encoding.seed)
    return BandRows(first, gradient), (first.shape[1], gradient.shape[1])


def layers(reference: Reference, root: Path) -> list[LayerRows]:
    """Return the features of every layer of a store."""
    data = reference.open(root).dataset(dask=False)
    return [LayerRows(layer_features(data, layer)) for layer in range(data.sizes["layer"])]


@lru_cache(maxsize=1)
def _joint_forward(reference: Reference, root: Path, n_dims: int, seed: int) -> NDArray[np.float32]:
    """Return forward features of all layers jointly, kept for the next layer's unit."""
    return joint_projection(layers(reference, root), n_dims, seed)
