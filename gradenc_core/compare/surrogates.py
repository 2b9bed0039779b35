"""Maps that are as smooth over the cortex as a map of preferred depths, and otherwise random.

Neighbouring regions are alike, so regions do not change places freely: a permutation of regions
takes a smooth map for more of an order than it is. Moran spectral randomisation keeps the map's
mean, its variance and Moran's I, which mends most of this and not all (docs/methods.md).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import null_space

from gradenc_core.compare.statistics import FEWEST_REGIONS, N_PERMUTATIONS, rows_correlation

Array = NDArray[np.float64]


def moran_basis(distance: Array) -> Array:
    """Return Moran's eigenvectors of places, the smoothest map first.

    Parameters
    ----------
    distance : array, (n_places, n_places)
        Symmetric, above 0 off the diagonal.

    Returns
    -------
    array, (n_places, n_places - 1)
        Orthonormal maps of mean 0: eigenvectors of the doubly centred inverse distances.
    """
    weights = np.zeros_like(distance)
    apart = ~np.eye(len(distance), dtype=bool)
    weights[apart] = 1 / distance[apart]
    # Maps of mean 0: the centred matrix has the constant map as a further eigenvector.
    centred = null_space(np.ones((1, len(distance))))
    _, vectors = np.linalg.eigh(centred.T @ weights @ centred)
    return np.asarray(centred @ vectors[:, ::-1])


def moran_surrogates(values: Array, basis: Array, signs: Array) -> Array:
    """Return maps in which Moran's eigenvectors enter as in a map, each with a random sign.

    Parameters
    ----------
    values : array, (n_places,)
    basis : array, (n_places, n_places - 1)
        Of `moran_basis`.
    signs : array of -1 and 1, (n_surrogates, n_places - 1)

    Returns
    -------
    array, (n_surrogates, n_places)
        With the mean, the variance and Moran's I of `values`.

    Notes
    -----
    The singleton procedure of Wagner & Dray (2015, doi 10.1111/2041-210X.12407).
    """
    return np.asarray(values.mean() + signs * (values @ basis) @ basis.T)


def moran_p(
    depths: Sequence[Array], positions: Sequence[Array], distance: Array, seed: int
) -> float:
    """Return the one-sided p of the mean correlation over subjects, for maps this smooth.

    Parameters
    ----------
    depths, positions : sequence of array, (n_places,)
        Preferred depth and position of the same places in each subject; subjects with a constant
        map are left out.
    distance : array, (n_places, n_places)
        Distances between the places, one for all subjects: all take the same signs, as they all
        take the same permutation of regions.
    seed : int
        Of the 10,000 maps.

    Returns
    -------
    float
        NaN below 6 places.
    """
    kept = [(d, p) for d, p in zip(depths, positions, strict=True) if np.ptp(d) and np.ptp(p)]
    if len(distance) < FEWEST_REGIONS or not kept:
        return float("nan")
    shape = (N_PERMUTATIONS, len(distance) - 1)
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], shape)
    signs[0] = 1
    basis, total = moran_basis(distance), np.zeros(len(signs))
    for depth, position in kept:
        maps = moran_surrogates(depth, basis, signs)
        total += rows_correlation(maps, np.broadcast_to(position, maps.shape))
    return float((total >= total[0] - 1e-9).mean())
