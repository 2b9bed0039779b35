"""Scores of targets that are drawn: of noise, which is every target's null, and of known drivers.

Both are scored by the design of a layer exactly as responses are, so they hold what a layer's
features, folds and choice of alpha do to a score.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradenc_core.arrays import Floats
from gradenc_core.ridge.factorise import Design
from gradenc_core.ridge.resample import permutation_scores

N_DRAWS = 2000
"""Gaussian targets."""
SHARES = (0.02, 0.08, 0.25, 0.6)
"""Shares of simulated targets that a gradient explains."""
DIMENSIONS = (5, 10, 20, 40, None, None)
"""Components of a layer that each simulated tuning reaches; None: all columns alike. Brains that
are tuned to few dimensions differ more from each other than those that are tuned to all."""
N_TUNINGS = len(DIMENSIONS)
"""Random tunings per layer of simulated targets."""
N_NOISES = 4
"""Draws of noise per tuning, whose scores are averaged."""


def null_scores(
    design: Design, weights: Floats | None, n_draws: int, seed: int
) -> NDArray[np.float32]:
    """Score Gaussian targets that are unrelated to everything, (n_draws,).

    The null of a held-out score hardly depends on the target, so these draws serve all targets of
    the same stimuli. Layers share them by the seed, which gives the null of a maximum over layers.
    """
    noise = _noise(design.n_stimuli, n_draws, weights, seed)
    return permutation_scores(design, noise, 0, seed)[0]


def tuned_targets(features: NDArray[np.floating], seed: list[int]) -> Floats:
    """Return noiseless targets that are tuned to a layer at random, (n_stimuli, N_TUNINGS).

    Parameters
    ----------
    features : array, (n_stimuli, n_features)
        Each tuning reaches as many of its principal components as `DIMENSIONS` says, drawn in
        proportion to their variance, or all of its columns, standardised.
    seed : list of int
    """
    rng = np.random.default_rng(seed)
    columns = np.asarray(features, dtype=np.float64)
    columns = columns - columns.mean(axis=0)
    spread = columns.std(axis=0)
    columns /= np.where(spread > 0, spread, 1.0)
    left, size, _ = np.linalg.svd(columns, full_matrices=False)
    n_varying = int((size > 1e-9 * size[0]).sum())
    share = size[:n_varying] ** 2 / (size[:n_varying] ** 2).sum()
    targets = []
    for n in DIMENSIONS:
        if n is None or n >= n_varying:
            targets.append(columns @ rng.standard_normal(columns.shape[1]))
        else:
            kept = rng.choice(n_varying, n, replace=False, p=share)
            targets.append(left[:, kept] * size[kept] @ rng.standard_normal(n))
    return np.stack(targets, axis=1)


def simulated_scores(
    design: Design, drivers: Floats, weights: Floats | None, seed: int
) -> NDArray[np.float32]:
    """Score targets that other layers' gradients drive, at several shares of noise.

    Parameters
    ----------
    design : Design
        The layer that scores.
    drivers : array, (n_rows, n_drivers)
        Noiseless targets.
    weights : array, (n_rows,), or None
    seed : int
        The same for all layers, which then score the same targets.

    Returns
    -------
    array, (n_shares, n_drivers)
        Mean over draws of noise of the mean held-out r; NaN for a driver without variance.
    """
    noise = _noise(design.n_stimuli, drivers.shape[1] * N_NOISES, weights, seed)
    spread = drivers.std(axis=0)
    unit = (drivers - drivers.mean(axis=0)) / np.where(spread > 0, spread, np.nan)
    repeated = np.repeat(unit, N_NOISES, axis=1)
    scores = [
        permutation_scores(design, np.sqrt(s) * repeated + np.sqrt(1 - s) * noise, 0, seed)[0]
        for s in SHARES
    ]
    return np.stack(scores).reshape(len(SHARES), -1, N_NOISES).mean(axis=-1)


def _noise(n_rows: int, n: int, weights: Any, seed: int) -> Floats:
    noise = np.random.default_rng([seed, n_rows, n]).standard_normal((n_rows, n))
    return noise if weights is None else noise / np.sqrt(weights)[:, None]
