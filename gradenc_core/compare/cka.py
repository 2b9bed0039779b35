"""Similarity between layers, which tells whether they differ enough to have an order."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gradenc_core.arrays import Rows

Floats = NDArray[np.float64]

CHUNK = 1024
"""Stimuli that are read at a time."""


def linear_cka(layers: Sequence[Rows]) -> Floats:
    """Linear centred kernel alignment between layers (Kornblith et al. 2019, equation 7).

    `||X'Y||_F^2 / (||X'X||_F ||Y'Y||_F)` of column-centred features, from sums over stimuli that
    are read `CHUNK` at a time: moments X'Y of one layer with the others, or, where that is less
    work, products of rows XX'.

    Parameters
    ----------
    layers : sequence of arrays or other rows, each (n_stimuli, n_features of the layer)

    Returns
    -------
    array, (n_layers, n_layers)
        Symmetric, ones on the diagonal; NaN for a layer without variance.

    Raises
    ------
    ValueError
        If layers have different numbers of stimuli.
    """
    counts = sorted({layer.shape[0] for layer in layers})
    if len(counts) != 1:
        raise ValueError(f"layers have {counts} stimuli; give the same stimuli for every layer.")
    centred = [_Centred.of(layer) for layer in layers]
    work = len(layers) * max(layer.shape[1] for layer in layers)
    alignment = (_by_moments if work <= 2 * counts[0] else _by_rows)(centred)
    size = np.sqrt(np.diagonal(alignment))
    aligned: Floats = alignment / size / size[:, None]
    return aligned


@dataclass(frozen=True)
class _Centred:
    """A layer about its columns' means, divided by its Frobenius norm, against overflow."""

    rows: Rows
    largest: float
    mean: Floats
    norm: float
    """NaN without variance."""

    @classmethod
    def of(cls, rows: Rows) -> "_Centred":
        largest = max(float(np.abs(part).max(initial=0.0)) for part in _chunks(rows)) or 1.0
        total = np.zeros(rows.shape[1])
        squares = 0.0
        for part in _chunks(rows):
            scaled = part / largest
            total += scaled.sum(axis=0)
            squares += float(np.square(scaled).sum())
        mean = total / rows.shape[0]
        about = sum(float(np.square(part / largest - mean).sum()) for part in _chunks(rows))
        constant = about <= 1e-12 * squares  # float32 features: this is rounding
        return cls(rows, largest, mean, float("nan") if constant else float(np.sqrt(about)))

    def __getitem__(self, rows: slice) -> Floats:
        part: Floats = np.asarray(self.rows[rows], dtype=np.float64)
        return (part / self.largest - self.mean) / self.norm


def _by_moments(layers: Sequence[_Centred]) -> Floats:
    """Squared norms of X'Y, the moments of one layer with all before it held at a time."""
    alignment = np.empty((len(layers), len(layers)))
    for i, layer in enumerate(layers):
        others = layers[: i + 1]
        moments = [np.zeros((layer.mean.size, other.mean.size)) for other in others]
        for rows in _slices(layer.rows):
            x = layer[rows].T
            for moment, other in zip(moments, others, strict=True):
                moment += x @ other[rows]
        for j, moment in enumerate(moments):
            alignment[i, j] = alignment[j, i] = np.square(moment).sum()
    return alignment


def _by_rows(layers: Sequence[_Centred]) -> Floats:
    """Inner products of the row Gram matrices XX', of which one block is held at a time."""
    alignment = np.zeros((len(layers), len(layers)))
    slices = list(_slices(layers[0].rows))
    for first in slices:
        for second in slices[: slices.index(first) + 1]:
            grams = np.stack([(x[first] @ x[second].T).ravel() for x in layers])
            alignment += (1 if first == second else 2) * (grams @ grams.T)
    return alignment


def _slices(rows: Rows) -> Iterator[slice]:
    return (slice(start, start + CHUNK) for start in range(0, rows.shape[0], CHUNK))


def _chunks(rows: Rows) -> Iterator[Floats]:
    return (np.asarray(rows[part], dtype=np.float64) for part in _slices(rows))
