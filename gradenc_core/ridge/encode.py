"""Cross-validated encoding: scores of every target on the features of one layer.

The features are factorised once (`factorise`); all targets, permutations and subjects that saw the
same stimuli share the factors. Targets pass in blocks of a constant width, so a target's scores do
not depend on the other targets of the call.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradenc_core.arrays import Columns, Floats
from gradenc_core.ridge.choose import Fit, fit
from gradenc_core.ridge.factorise import Design, factorise
from gradenc_core.ridge.options import RidgeOptions
from gradenc_core.ridge.scores import analytic_p
from gradenc_core.ridge.targets import StandardisedTargets, standardised_blocks

CLEARLY = 1e-6
"""Analytic p below which a target counts as predicted: of a million that nothing predicts, one."""


@dataclass(frozen=True)
class EncodingCounts:
    """Irregular targets; all but the first two count (fold, target) pairs.

    `constant_folds` counts folds in which a target does not vary, so that it has no r there,
    although it varies in others. `predicted` counts the folds of targets that are clearly predicted
    (`CLEARLY`), and of those `lowest_alpha` and `highest_alpha` chose an edge of the grid. Other
    targets say nothing about the grid: the best alpha of noise is the largest there is.
    """

    nan_targets: int
    constant_targets: int
    constant_folds: int
    flat_predictions: int
    predicted: int
    lowest_alpha: int
    highest_alpha: int


@dataclass(frozen=True)
class EncodingScores:
    """Held-out scores, arrays (n_folds, n_targets) float32; NaN for NaN and constant targets.

    Attributes
    ----------
    r : array
        Pearson correlation per fold; the score of a target is its plain mean over folds.
    sse, sst : array
        Weighted squared error, and total sum of squares about the held-out fold's own mean, in
        squared units of the target. R2 = 1 - sum sse / sum sst over folds.
    alpha : array
        Chosen penalty.
    ratio, r_off, sse_off : array or None
        Chosen band ratio, and the scores of the first band alone with alphas chosen anew:
        U = (sum sse_off - sum sse) / sum sst. None with one band.
    counts : EncodingCounts
    """

    r: NDArray[np.float32]
    sse: NDArray[np.float32]
    sst: NDArray[np.float32]
    alpha: NDArray[np.float32]
    ratio: NDArray[np.float32] | None
    r_off: NDArray[np.float32] | None
    sse_off: NDArray[np.float32] | None
    counts: EncodingCounts


def encode(
    x: NDArray[Any],
    y: NDArray[Any],
    folds: NDArray[np.integer],
    weights: NDArray[Any] | None = None,
    options: RidgeOptions | None = None,
    bands: tuple[int, ...] | None = None,
) -> EncodingScores:
    """Fit and score targets by nested cross-validated ridge.

    In every outer fold, alpha (and with two bands their ratio) is chosen inside the other folds,
    the ridge is fitted on them, and its predictions are scored on the fold that was left out.

    Parameters
    ----------
    x : array, (n_stimuli, n_features)
        Features; with two bands, the columns of the first before those of the second.
    y : array, (n_stimuli, n_targets)
        Mean response per stimulus, in any unit; see `score_targets`.
    folds : array of int, (n_stimuli,)
        Fold of each stimulus, every one from 0 to n_folds - 1 in use.
    weights : array, (n_stimuli,), optional
        Number of repeats averaged in each row; normalised to mean 1.
    options : RidgeOptions, optional
    bands : tuple of int, optional
        Widths (n_first, n_second) of the two bands; None for one band.

    Raises
    ------
    ValueError
        As for `factorise` and `score_targets`.

    See Also
    --------
    gradenc_core.ridge.estimator.RidgeCV : one fit on all stimuli, for weights and predictions

    Notes
    -----
    The same as `score_targets(factorise(x, folds, weights, options, bands), y)`. Call these two
    where several sets of targets share their stimuli: factorising is most of the work. The method
    and its sources are in docs/ridge.md.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> x = rng.standard_normal((100, 8))
    >>> y = x @ rng.standard_normal((8, 3)) + rng.standard_normal((100, 3))
    >>> scores = encode(x, y, folds=np.arange(100) % 5)
    >>> scores.r.shape
    (5, 3)
    >>> r2 = 1 - scores.sse.sum(axis=0) / scores.sst.sum(axis=0)
    >>> bool((r2 > 0.5).all())
    True
    """
    return score_targets(factorise(x, folds, weights, options, bands), y)


def score_targets(design: Design, y: Columns) -> EncodingScores:
    """Score targets on a factorised layer.

    Parameters
    ----------
    design : Design
    y : array or Columns, (n_stimuli, n_targets)
        Mean response per stimulus, rows in the order of the features. They may lie on disk: they
        are read `TARGET_WIDTH` columns at a time. A target gets NaN scores, and does not touch the
        others, if it has a value that is not finite, no variance, or a standard deviation outside
        `LEAST_SD` to `LARGEST_SD`.

    Raises
    ------
    ValueError
        If `y` has another number of rows than the features.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> design = factorise(rng.standard_normal((60, 8)), np.arange(60) % 5)
    >>> first, second = rng.standard_normal((2, 60, 4))
    >>> [score_targets(design, subject).r.shape for subject in (first, second)]
    [(5, 4), (5, 4)]
    """
    blocks = standardised_blocks(y, design.n_stimuli)
    return _scores(design, ((block, fit(design, block.padded())) for block in blocks))


def _scores(
    design: Design, fitted: Iterable[tuple[StandardisedTargets, Sequence[Fit]]]
) -> EncodingScores:
    """Join the scores of blocks of targets."""
    measures: list[dict[str, NDArray[np.float32]]] = []
    counts: list[EncodingCounts] = []
    for block, fits in fitted:
        measures.append(_measures(block, design.options, fits))
        counts.append(_counts(block, design, fits))
        del block, fits  # free their memory before the next block is fitted
    joined = {name: np.concatenate([m[name] for m in measures], axis=1) for name in measures[0]}
    return EncodingScores(
        r=joined["r"],
        sse=joined["sse"],
        sst=joined["sst"],
        alpha=joined["alpha"],
        ratio=joined.get("ratio"),
        r_off=joined.get("r_off"),
        sse_off=joined.get("sse_off"),
        counts=EncodingCounts(*map(sum, zip(*map(astuple, counts), strict=True))),
    )


def _measures(
    block: StandardisedTargets, options: RidgeOptions, fits: Sequence[Fit]
) -> dict[str, NDArray[np.float32]]:
    """Measures (n_folds, n_targets) of a block without its padding."""
    n_targets = block.rows.shape[1]

    def real(values: Floats) -> NDArray[np.float32]:
        return np.where(block.usable, values[:, :n_targets], np.nan).astype(np.float32)

    def squared(values: Floats) -> NDArray[np.float32]:
        return real(values[:, :n_targets] * block.scale**2)

    full = fits[0]
    measures = {
        "r": real(full.scores.r),
        "sse": squared(full.scores.sse),
        "sst": squared(full.scores.sst),
        "alpha": real(options.alpha_grid[full.alpha]),
    }
    for off in fits[1:]:
        measures["ratio"] = real(options.ratio_grid[full.ratio])
        measures["r_off"] = real(off.scores.r)
        measures["sse_off"] = squared(off.scores.sse)
    return measures


def _counts(block: StandardisedTargets, design: Design, fits: Sequence[Fit]) -> EncodingCounts:
    """Count the irregular targets of a block, without its padding."""
    n_targets = block.rows.shape[1]
    scores, alpha = fits[0].scores, fits[0].alpha[:, :n_targets]
    p = analytic_p(scores.r[:, :n_targets].mean(axis=0), design.n_stimuli, len(alpha))
    predicted = np.broadcast_to(block.usable & (p < CLEARLY), alpha.shape)
    n_alphas = len(design.options.alpha_grid)
    return EncodingCounts(
        nan_targets=int(block.is_nan.sum()),
        constant_targets=int(block.is_constant.sum()),
        constant_folds=int((block.usable & (scores.sst[:, :n_targets] == 0)).sum()),
        flat_predictions=int(scores.flat[:, :n_targets].sum()),
        predicted=int(predicted.sum()),
        lowest_alpha=int((predicted & (alpha == n_alphas - 1)).sum()),
        highest_alpha=int((predicted & (alpha == 0)).sum()),
    )
