"""Similarity between layers, which tells whether they differ enough to have an order."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def linear_cka(features: Sequence[NDArray[Any]]) -> NDArray[np.float64]:
    """Linear centred kernel alignment between layers (Kornblith et al. 2019, equation 7).

    `||X'Y||_F^2 / (||X'X||_F ||Y'Y||_F)` of column-centred features.

    Parameters
    ----------
    features : sequence of arrays, each (n_stimuli, n_features of the layer)

    Returns
    -------
    array, (n_layers, n_layers)
        Symmetric, ones on the diagonal; NaN for a layer without variance.

    Raises
    ------
    ValueError
        If layers have different numbers of stimuli.
    """
    rows = sorted({len(x) for x in features})
    if len(rows) != 1:
        raise ValueError(f"layers have {rows} stimuli; give the same stimuli for every layer.")
    centred = [_unit(np.asarray(x, dtype=np.float64)) for x in features]
    alignment = np.empty((len(centred), len(centred)))
    for i, x in enumerate(centred):
        for j, y in enumerate(centred[: i + 1]):
            alignment[i, j] = alignment[j, i] = _cross_power(x, y)
    size = np.sqrt(np.diagonal(alignment))
    return alignment / size / size[:, None]


def _unit(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Centre columns and divide by the Frobenius norm, against overflow; NaN without variance."""
    largest = np.abs(x).max(initial=0.0) or 1.0
    scaled = x / largest
    centred = scaled - scaled.mean(axis=0)
    norm = np.linalg.norm(centred)
    constant = norm <= 1e-6 * np.linalg.norm(scaled)  # float32 features: this is rounding
    return centred / (np.nan if constant else norm)


def _cross_power(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Squared Frobenius norm of X'Y, from whichever of X'Y and the row Gram matrices is smaller."""
    if x.shape[1] * y.shape[1] <= 2 * len(x) ** 2:
        return float(np.square(x.T @ y).sum())
    return float(((x @ x.T) * (y @ y.T)).sum())
