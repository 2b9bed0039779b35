"""Forward features of all layers as one band: the deeper activations that a gradient depends on."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from gradenc_core.arrays import Floats, Rows
from gradenc_core.ridge.moments import ROWS


def joint_projection(layers: Sequence[Rows], n_dims: int, seed: int) -> NDArray[np.float32]:
    """Project the features of all layers jointly (docs/methods.md).

    Every layer is centred and divided by its root mean square, so that none outweighs the others;
    the projection is Gaussian with variance 1 / n_dims. Responses are not used.

    Parameters
    ----------
    layers : sequence of arrays or other rows, each (n_stimuli, n_features of the layer)
        Read `ROWS` stimuli at a time.
    n_dims : int
        Columns of the result; with as many or fewer features in all, they are returned unprojected.
    seed : int

    Returns
    -------
    array, (n_stimuli, min(n_dims, features of all layers))
    """
    n_stimuli, widths = layers[0].shape[0], [layer.shape[1] for layer in layers]
    key = [seed, len(layers), n_stimuli, *dict.fromkeys(widths)]
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))
    whole = sum(widths) <= n_dims
    joint = np.zeros((n_stimuli, sum(widths) if whole else n_dims))
    start = 0
    for layer, width in zip(layers, widths, strict=True):
        own = np.s_[start : start + width] if whole else np.s_[:]
        matrix = generator.standard_normal((width, n_dims))
        matrix /= np.sqrt(n_dims)
        for rows, scaled in _scaled(layer):
            joint[rows, own] += scaled if whole else scaled @ matrix
        start += width
    return joint.astype(np.float32)


def _scaled(layer: Rows) -> Iterator[tuple[slice, Floats]]:
    """Yield rows about their mean, (n, n_features), divided by the layer's root mean square."""
    n, p = layer.shape
    mean = sum((values.sum(axis=0) for _, values in _chunks(layer)), np.zeros(p)) / n
    squares = sum(float(((values - mean) ** 2).sum()) for _, values in _chunks(layer))
    size = np.sqrt(squares / (n * p)) or np.inf
    for rows, values in _chunks(layer):
        values -= mean
        values /= size
        yield rows, values


def _chunks(layer: Rows) -> Iterator[tuple[slice, Floats]]:
    for start in range(0, layer.shape[0], ROWS):
        rows = slice(start, start + ROWS)
        yield rows, np.array(layer[rows], dtype=np.float64)
