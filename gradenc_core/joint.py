"""Forward features of all layers as one band: the deeper activations that a gradient depends on."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def joint_projection(layers: Array, n_dims: int, seed: int) -> Array:
    """Project the features of all layers jointly (docs/methods.md).

    Every layer is centred and divided by its root mean square, so that none drowns the others; the
    projection is Gaussian with variance 1 / n_dims. Responses do not enter.

    Parameters
    ----------
    layers : array, (n_layers, n_stimuli, n_features)
    n_dims : int
        Columns of the result; with as many or fewer features in all, they are returned unprojected.
    seed : int

    Returns
    -------
    array, (n_stimuli, min(n_dims, n_layers * n_features))
    """
    centred = layers - layers.mean(axis=1, keepdims=True)
    size = np.sqrt((centred**2).mean(axis=(1, 2), keepdims=True))
    scaled = np.divide(centred, size, out=np.zeros_like(centred), where=size > 0)
    joint = np.concatenate(list(scaled), axis=1)
    if joint.shape[1] <= n_dims:
        return joint
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, *layers.shape])))
    return joint @ (generator.standard_normal((joint.shape[1], n_dims)) / np.sqrt(n_dims))
