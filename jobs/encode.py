"""Stage encode: ridge scores of one layer for every target of all subjects who saw its stimuli."""

from collections.abc import Iterator
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from gradenc_core.encoding import (
    bootstrap_scores,
    factorise,
    permutation_scores,
    score_targets,
)
from gradenc_core.joint import joint_projection
from gradenc_core.ridge import RidgeOptions
from gradenc_core.windows import window_means
from jobs.runner import Arrays, Facts, Work
from jobs.spec import EncodingSpec, Reference, ScoresSpec
from storage_schemas.store import Store, Unit

Array = NDArray[np.float64]


def compute(work: Work) -> Iterator[tuple[Store, Unit, Arrays, Facts]]:
    """Yield scores, bootstrap and permutation refits of one layer.

    One thread of BLAS everywhere: the bytes of an eigendecomposition depend on the thread count.
    """
    for store, unit in work.units:
        with threadpool_limits(1):
            arrays, facts = _encode_layer(store, unit, work.root)
        yield store, unit, arrays, facts


def _encode_layer(store: Store, unit: Unit, root: Path) -> tuple[Arrays, Facts]:
    spec = ScoresSpec.model_validate(store.spec)
    coords = store.dataset().coords
    x, bands = features(spec, unit.key["layer"], root)
    y, summaries, weights = targets(spec, store, root)
    encoding = spec.encoding
    design = factorise(x, coords["stimulus_fold"].values, weights, ridge_options(encoding), bands)
    scores = score_targets(design, y)
    measures = [getattr(scores, str(name)) for name in coords["measure"].values]
    arrays = {
        "scores": np.stack(measures)[None],
        "bootstrap": bootstrap_scores(
            design, summaries, coords["stimulus_block"].values, encoding.bootstrap, encoding.seed
        )[None],
        "permutation": permutation_scores(design, summaries, encoding.permutations, encoding.seed)[
            None
        ],
    }
    return arrays, asdict(scores.counts)


def ridge_options(encoding: EncodingSpec) -> RidgeOptions:
    """Return the solver's options."""
    return RidgeOptions(
        alphas=encoding.alphas, selection=encoding.alpha_choice, ratios=encoding.band_ratios
    )


def features(spec: ScoresSpec, layer: int, root: Path) -> tuple[Array, tuple[int, int] | None]:
    """Return the features of one layer (n_stimuli, n_features) and, if banded, the band sizes."""
    if spec.gradient is None:
        assert spec.forward is not None
        return _layer(spec.forward, layer, root), None
    gradient = _layer(spec.gradient, layer, root)
    if spec.forward is None:
        return gradient, None
    joint = _joint_forward(spec.forward, root, spec.encoding.forward_all, spec.encoding.seed)
    return np.hstack([joint, gradient]), (joint.shape[1], gradient.shape[1])


def _layer(reference: Reference, layer: int, root: Path) -> Array:
    data = reference.open(root).dataset()["features"].isel(layer=layer)
    return data.values.astype(np.float64)


@lru_cache(maxsize=1)
def _joint_forward(reference: Reference, root: Path, n_dims: int, seed: int) -> Array:
    """Return forward features of all layers jointly, kept for the next layer's unit."""
    layers = reference.open(root).dataset()["features"].values.astype(np.float64)
    return joint_projection(layers, n_dims, seed)


def targets(spec: ScoresSpec, store: Store, root: Path) -> tuple[Array, Array, Array]:
    """Return responses (n, n_targets), summaries (n, n_summaries) and row weights (n,).

    Targets of all subjects stand side by side in the order of the store's `groups`.
    """
    blocks, summaries = [], []
    weights = np.ones(store.dataset().sizes["stimulus"])
    groups = zip(spec.responses, store.attrs["groups"], store.attrs["summary_groups"], strict=True)
    for reference, group, summary_group in groups:
        data = reference.open(root).dataset().load()
        summaries.append(summarise(data, summary_group))
        in_windows = group["windows"] is not None
        flat = data["responses"].values.reshape(data.sizes["stimulus"], -1)
        blocks.append(summaries[-1] if in_windows else flat)
        weights = data["n_repeats"].values.astype(np.float64)
    y = np.concatenate(blocks, axis=1).astype(np.float64)
    return y, np.concatenate(summaries, axis=1), weights / weights.mean()


def summarise(data: xr.Dataset, group: dict[str, Any]) -> Array:
    """Return region means (fMRI) or sensor x window means (MEG), (n_stimuli, n_summaries).

    Voxels that are NaN for any stimulus are left out of their region's mean.
    """
    responses = data["responses"].values.astype(np.float64)
    if group["windows"] is None:
        finite = np.isfinite(responses).all(axis=0)
        sites = zip(data["roi"].values, data["hemisphere"].values, strict=True)
        names = np.array([f"{roi}:{hemisphere}" for roi, hemisphere in sites], dtype=object)
        return np.stack(
            [_mean_of(responses, finite & (names == name)) for name in group["names"]], axis=1
        )
    windows = [(start, stop) for _, start, stop in group["windows"]]
    return window_means(responses, data["time"].values, windows).reshape(len(responses), -1)


def _mean_of(responses: Array, columns: NDArray[np.bool_]) -> Array:
    if not columns.any():
        return np.full(len(responses), np.nan)
    return responses[:, columns].mean(axis=1)
