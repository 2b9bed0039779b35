"""Encoding scores of own responses as a labelled xarray Dataset, without a study."""

from collections.abc import Hashable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from gradenc_core.arrays import in_threads
from gradenc_core.ridge.encode import EncodingScores, score_targets
from gradenc_core.ridge.factorise import factorise
from gradenc_core.ridge.options import RidgeOptions
from gradenc_core.ridge.targets import TARGET_WIDTH
from gradenc_core.stimuli.folds import assign_folds

NAMED = 3
"""Stimuli that a refusal names."""


def encode(
    features: xr.DataArray,
    responses: xr.DataArray | NDArray[Any],
    folds: int | NDArray[np.integer] = 5,
    *,
    alphas: Sequence[float] | None = None,
    alpha_choice: Literal["kfold", "gcv", "loo"] = "kfold",
    seed: int = 0,
) -> xr.Dataset:
    """Score how well each layer's features predict responses, by nested cross-validated ridge.

    In every fold the ridge is fitted on the other folds, with each target's penalty chosen inside
    them, and scored on the fold itself. Folds follow from the images' contents, as in a study with
    the same `folds` and `seed`.

    Parameters
    ----------
    features : xarray.DataArray, (layer, stimulus, feature) or (stimulus, feature)
        A variable of what `extract` returns.
    responses : xarray.DataArray or array, (n_stimuli, n_targets)
        One mean response per image, in any unit. Rows of an array are in the order of `features`.
        A DataArray has the dimension `stimulus`; where it has that coordinate too, rows are matched
        by name. Its other dimensions, such as voxel, or sensor and time, are targets.
    folds : int or array of int, (n_stimuli,)
        How many folds, or the fold of each image, from 0.
    alphas : sequence of float, optional
        Positive penalties to choose from; by default 10, log-spaced from 1 to 1e8.
    alpha_choice : {"kfold", "gcv", "loo"}
        Whether penalties are chosen over the other folds, by generalised cross-validation or by
        leaving one image out.
    seed : int
        Seed that deals images to folds.

    Returns
    -------
    xarray.Dataset
        `r` (Pearson correlation), `r2` (1 - SSE / SST about the fold's own mean) and `alpha` (the
        chosen penalty), (layer, fold, target), float32; without `layer` where `features` has none.
        A target that is constant or has a value that is not finite gets NaN.

    Raises
    ------
    ValueError
        Features and responses are of different stimuli, a stimulus has several responses, or there
        are fewer distinct images than folds.

    See Also
    --------
    RidgeCV : weights and predictions of one ridge

    References
    ----------
    docs/ridge.md derives the solver; docs/methods.md says what the scores mean.

    Examples
    --------
    >>> import numpy as np
    >>> import xarray as xr
    >>> import gradenc as ge
    >>> rng = np.random.default_rng(0)
    >>> features = xr.DataArray(
    ...     rng.standard_normal((2, 60, 4)),
    ...     dims=("layer", "stimulus", "feature"),
    ...     coords={
    ...         "layer": ["early", "late"],
    ...         "stimulus_digest": ("stimulus", [f"{i:064x}" for i in range(60)]),
    ...     },
    ... )
    >>> betas = features.sel(layer="late").values @ rng.standard_normal((4, 3))
    >>> scores = ge.encode(features, betas, folds=5)
    >>> dict(scores.r.sizes)
    {'layer': 2, 'fold': 5, 'target': 3}
    >>> bool(scores.r.sel(layer="late").min() > 0.99)
    True
    """
    _require_stimuli(features)
    shown = features.transpose(..., "stimulus", _feature_dim(features))
    aligned = _aligned(shown, responses)
    dims = [dim for dim in aligned.dims if dim != "stimulus"]
    targets = aligned.values.reshape(aligned.sizes["stimulus"], -1)
    dealt = _folds(shown, folds, seed)
    options = RidgeOptions(selection=alpha_choice)
    if alphas is not None:
        options = RidgeOptions(alphas=tuple(map(float, alphas)), selection=alpha_choice)
    shape = (int(dealt.max()) + 1, *(aligned.sizes[dim] for dim in dims))
    layers = [
        _scores(layer.values, targets, dealt, options, ("fold", *dims), shape)
        for layer in _layers(shown)
    ]
    scores = xr.concat(layers, "layer") if "layer" in shown.dims else layers[0]
    kept = {
        name: coord
        for array in (shown, aligned)
        for name, coord in array.coords.items()
        if not {"stimulus", _feature_dim(shown)} & set(coord.dims)
    }
    return scores.assign_coords(kept).assign_attrs(
        alpha_choice=alpha_choice, seed=seed, source=str(features.name or "")
    )


def _require_stimuli(features: xr.DataArray) -> None:
    if not isinstance(features, xr.DataArray):
        raise ValueError(
            f"features is a {type(features).__name__}; give a variable of what extract returns, "
            "such as extracted['forward']"
        )
    dims = set(features.dims)
    if "stimulus" not in dims or len(dims - {"layer", "stimulus"}) != 1:
        raise ValueError(
            f"features has the dimensions {', '.join(map(str, features.dims))}; give a variable of "
            "what extract returns, (layer, stimulus, feature) or (stimulus, feature)"
        )


def _feature_dim(features: xr.DataArray) -> Hashable:
    return next(dim for dim in features.dims if dim not in ("layer", "stimulus"))


def _layers(features: xr.DataArray) -> Iterator[xr.DataArray]:
    if "layer" not in features.dims:
        yield features
        return
    for index in range(features.sizes["layer"]):
        yield features.isel(layer=index)


def _folds(
    features: xr.DataArray, folds: int | NDArray[np.integer], seed: int
) -> NDArray[np.integer]:
    if np.ndim(folds):
        return np.asarray(folds)
    number = np.asarray(folds)
    if not np.issubdtype(number.dtype, np.integer):
        raise ValueError(f"folds is {folds!r}; give their number, or the fold of each stimulus")
    if "stimulus_digest" not in features.coords:
        raise ValueError(
            "features has no coordinate stimulus_digest, from which folds are dealt; give the fold "
            "of each stimulus as an array: folds=..."
        )
    return assign_folds(features["stimulus_digest"].values.tolist(), int(number), seed)


def _aligned(features: xr.DataArray, responses: xr.DataArray | NDArray[Any]) -> xr.DataArray:
    """Return responses with `stimulus` first, in the order of the features."""
    n_stimuli = features.sizes["stimulus"]
    if not isinstance(responses, xr.DataArray):
        values = np.asarray(responses)
        values = values[:, None] if values.ndim == 1 else values
        targets = ["target"] if values.ndim == 2 else [f"target_{i}" for i in range(1, values.ndim)]
        responses = xr.DataArray(values, dims=["stimulus", *targets])
    if "stimulus" not in responses.dims:
        raise ValueError(
            f"responses has the dimensions {', '.join(map(str, responses.dims))}; name the one "
            "along which images differ: responses.rename({...: 'stimulus'})"
        )
    if taken := {"layer", "fold"} & set(responses.dims):
        raise ValueError(
            f"responses has a dimension {taken.pop()!r}, which the scores have too; rename it"
        )
    responses = responses.transpose("stimulus", ...)
    if "stimulus" in responses.coords and "stimulus" in features.coords:
        _require_same(features["stimulus"].values, responses["stimulus"].values)
        return responses.sel(stimulus=features["stimulus"].values)
    if responses.sizes["stimulus"] != n_stimuli:
        raise ValueError(
            f"responses has {responses.sizes['stimulus']} rows, features has {n_stimuli} stimuli; "
            "give one row per stimulus, in the order of features.stimulus"
        )
    return responses


def _require_same(wanted: NDArray[Any], given: NDArray[Any]) -> None:
    names, counts = np.unique(given, return_counts=True)
    for problem, found in (
        ("several responses; average them first", names[counts > 1]),
        ("no response; select the features that have one", np.setdiff1d(wanted, given)),
        ("no features; select the responses that have them", np.setdiff1d(given, wanted)),
    ):
        if len(found):
            shown = ", ".join(map(str, found[:NAMED]))
            raise ValueError(f"{len(found)} stimuli, such as {shown}, have {problem}")


def _scores(
    x: NDArray[Any],
    y: NDArray[Any],
    folds: NDArray[np.integer],
    options: RidgeOptions,
    dims: tuple[Hashable, ...],
    shape: tuple[int, ...],
) -> xr.Dataset:
    parts = _scored_in_threads(x, y, folds, options)
    r, sse, sst, alpha = (
        np.concatenate([getattr(part, name) for part in parts], axis=1)
        for name in ("r", "sse", "sst", "alpha")
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        r2 = 1 - sse / sst
    about = {
        "r": ("Pearson correlation of held-out and predicted responses", r),
        "r2": ("1 - SSE / SST about the held-out fold's mean", r2),
        "alpha": ("chosen ridge penalty", alpha),
    }
    return xr.Dataset(
        {
            name: (dims, values.reshape(shape), {"long_name": long_name, "units": "1"})
            for name, (long_name, values) in about.items()
        }
    )


def _scored_in_threads(
    x: NDArray[Any], y: NDArray[Any], folds: NDArray[np.integer], options: RidgeOptions
) -> list[EncodingScores]:
    """Score blocks of targets side by side, one BLAS thread each.

    BLAS threads that share one small product wait for each other in busy loops, which makes a fit
    several times slower where the machine has other work.
    """
    design = factorise(x, folds, options=options)

    def scored(start: int) -> EncodingScores:
        return score_targets(design, y[:, start : start + TARGET_WIDTH])

    return in_threads(scored, range(0, max(y.shape[1], 1), TARGET_WIDTH))
