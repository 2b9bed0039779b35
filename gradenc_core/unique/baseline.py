"""The forward baseline as principal components: what a learning signal must add to.

The baseline of a stimulus is everything that a network computes on its way forward. Its columns are
correlated and far more than stimuli, so they are compressed by principal components, which are
chosen without looking at responses and keep nearly all variance. Single values (losses, confidence,
contrast, log-norms) would be lost among thousands of channels, so they stay beside the components.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from scipy.linalg import eigh

from gradenc_core.arrays import Floats, Rows
from gradenc_core.ridge.moments import ROWS

LEAST_VARIANCE, MOST_VARIANCE = 0.999, 1 - 1e-6
"""Shares of the baseline's variance that its components keep: the least, and where there is room.

Brains that are tuned to a layer's smallest components follow what the last thousandth holds: with
the least share the controls of U are often significant there, and no claim can be made."""
LEAST_LEFT = 1e-6
"""Share of a scalar's variance below which what components leave of it is rounding."""


@dataclass(frozen=True)
class Components:
    """The baseline's principal components, each with its variance; their mean variance is 1.

    Attributes
    ----------
    recorded : array, (n_stimuli, n_components)
    unrecorded : array, (n_images, n_components), or None
        Of images without recordings, on which components are fitted where there are some.
    n_columns : int
        Columns of the baseline before compression.
    kept : float
        Share of the recorded stimuli's variance that the components keep.
    """

    recorded: Floats
    unrecorded: Floats | None
    n_columns: int
    kept: float


def compress(
    recorded: Sequence[Rows], unrecorded: Sequence[Rows] | None = None, room: int = 0
) -> Components:
    """Return the leading principal components of the columns of all layers.

    Parameters
    ----------
    recorded : sequence of arrays or other rows, each (n_stimuli, n_columns of the layer)
        The columns should be scaled already, such as by their standard deviation over a bank.
    unrecorded : sequence of the same layers, each (n_images, n_columns of the layer), optional
        Images without recordings; the components are then theirs.
    room : int
        Components for which there are images enough. Beyond those that hold `LEAST_VARIANCE`, which
        are kept in any case, so many are kept as hold `MOST_VARIANCE`.

    Returns
    -------
    Components

    Raises
    ------
    ValueError
        If no column varies.
    """
    fitted = recorded if unrecorded is None else unrecorded
    n_images, n_columns = fitted[0].shape[0], sum(layer.shape[1] for layer in fitted)
    means = [_mean(layer) for layer in fitted]
    total = _squares(fitted, means)
    if not total > 0:
        raise ValueError("no column of the baseline varies over the stimuli; give other images.")
    if n_columns <= n_images:
        directions = _leading(_covariance(fitted, means), room, total)
        project = partial(_project, directions=directions)
    else:
        products = _products(fitted, fitted, means)
        images = _leading(products, room, total)
        images /= np.sqrt(((products @ images) * images).sum(axis=0))
        project = partial(_project_by_images, images=images, fitted=fitted)
    own = project(fitted, means)
    size = np.sqrt((own**2).mean())
    if unrecorded is None:
        return Components(own / size, None, n_columns, float((own**2).sum() / total))
    projected = project(recorded, means)
    kept = float((projected**2).sum() / _squares(recorded, means))
    return Components(projected / size, own / size, n_columns, kept)


def add_scalars(found: Components, recorded: Floats, unrecorded: Floats | None) -> Components:
    """Set scalars beside the components, without what the components hold of them.

    Parameters
    ----------
    found : Components
    recorded : array, (n_stimuli, n_scalars)
    unrecorded : array, (n_images, n_scalars), or None
        Of the images on which the components are fitted; None: they are fitted on the stimuli.

    Returns
    -------
    Components
        With at most `n_scalars` more, each with the components' mean variance.
    """
    fitted = found.recorded if found.unrecorded is None else found.unrecorded
    scalars = recorded if unrecorded is None else unrecorded
    varying = np.ptp(scalars, axis=0) > 0
    mean, spread = scalars[:, varying].mean(axis=0), scalars[:, varying].std(axis=0)
    held = fitted.T @ ((scalars[:, varying] - mean) / spread)
    held /= (fitted**2).sum(axis=0)[:, None]

    def left(values: Floats, components: Floats) -> Floats:
        return np.asarray((values[:, varying] - mean) / spread - components @ held)

    rest = left(scalars, fitted)
    sizes, vectors = eigh(rest.T @ rest / len(rest))
    directions = vectors[:, sizes > LEAST_LEFT] / np.sqrt(sizes[sizes > LEAST_LEFT])
    beside = np.hstack([found.recorded, left(recorded, found.recorded) @ directions])
    if found.unrecorded is None:
        return replace(found, recorded=beside)
    images = np.hstack([found.unrecorded, rest @ directions])
    return replace(found, recorded=beside, unrecorded=images)


def _leading(products: Floats, room: int, total: float) -> Floats:
    """Return the leading eigenvectors, as many as there is room for between the two shares."""
    values, vectors = eigh(products)
    held = np.cumsum(np.maximum(values[::-1], 0.0)) / total
    least, most = (1 + np.searchsorted(held, share) for share in (LEAST_VARIANCE, MOST_VARIANCE))
    n = min(max(least, min(most, room)), len(values))
    return np.asarray(vectors[:, ::-1][:, :n])


def _project(layers: Sequence[Rows], means: Sequence[Floats], directions: Floats) -> Floats:
    """Project stimuli on directions of the columns, (n_stimuli, n_components)."""
    found = np.zeros((layers[0].shape[0], directions.shape[1]))
    start = 0
    for layer, mean in zip(layers, means, strict=True):
        own = directions[start : start + layer.shape[1]]
        for rows, part in _chunks(layer, mean):
            found[rows] += part @ own
        start += layer.shape[1]
    return found


def _project_by_images(
    layers: Sequence[Rows], means: Sequence[Floats], images: Floats, fitted: Sequence[Rows]
) -> Floats:
    """Project stimuli on directions that are given as combinations of the fitted images."""
    return _products(layers, fitted, means) @ images


def _covariance(layers: Sequence[Rows], means: Sequence[Floats]) -> Floats:
    """Return sums over stimuli of products of centred columns, (n_columns, n_columns)."""
    n_columns = sum(layer.shape[1] for layer in layers)
    covariance = np.zeros((n_columns, n_columns))
    for start in range(0, layers[0].shape[0], ROWS):
        rows = slice(start, min(start + ROWS, layers[0].shape[0]))
        part = np.hstack(
            [
                np.asarray(layer[rows], dtype=np.float64) - mean
                for layer, mean in zip(layers, means, strict=True)
            ]
        )
        covariance += part.T @ part
    return covariance


def _products(rows: Sequence[Rows], columns: Sequence[Rows], means: Sequence[Floats]) -> Floats:
    """Return sums over all layers of products of centred stimuli, (n_rows, n_columns)."""
    products = np.zeros((rows[0].shape[0], columns[0].shape[0]))
    for left, right, mean in zip(rows, columns, means, strict=True):
        for down, a in _chunks(left, mean):
            for across, b in _chunks(right, mean):
                products[down, across] += a @ b.T
    return products


def _squares(layers: Sequence[Rows], means: Sequence[Floats]) -> float:
    return sum(
        float((part**2).sum())
        for layer, mean in zip(layers, means, strict=True)
        for _, part in _chunks(layer, mean)
    )


def _mean(layer: Rows) -> Floats:
    nothing = np.zeros(layer.shape[1])
    total = sum((part.sum(axis=0) for _, part in _chunks(layer, nothing)), nothing)
    return np.asarray(total / layer.shape[0])


def _chunks(layer: Rows, mean: Floats) -> Iterator[tuple[slice, Floats]]:
    """Yield rows about a mean, `ROWS` stimuli at a time."""
    for start in range(0, layer.shape[0], ROWS):
        rows = slice(start, min(start + ROWS, layer.shape[0]))
        yield rows, np.asarray(layer[rows], dtype=np.float64) - mean
