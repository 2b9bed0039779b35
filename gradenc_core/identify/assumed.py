"""What is assumed of a study before anything is computed: how large its scores and their noise are.

The figures are those of two planted worlds (networks with random weights: a transformer of 12
layers with `energy`, a ResNet of 8 with `classification`; 700 stimuli), in which drawn targets were
scored beyond the baseline as stage encode scores them (docs/identify.md).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gradenc_core.compare.reference import Confusion

Array = NDArray[np.float64]

KEPT = 0.7
"""Greatest share of the possible correlation that features reach: .5 and .8 in the two worlds."""
DIMENSIONS = 70
"""Dimensions of tuning that a ridge has to learn: 80 and 60 in the two worlds."""
NOISE = 1.4
"""Standard deviation of a held-out r of noise, times the root of the number of stimuli."""
REACH = 0.375
"""Difference in relative depth over which what is specific to a layer falls to 1 / e."""
COMMON_TO_LAYERS = 0.9
"""Correlation of noise in layers whose gradients are the same."""
SHARES = (0.02, 0.08, 0.25, 0.6, 1.0)
"""Shares of a response for which the layers' confusion is tabulated."""


@dataclass(frozen=True)
class Assumed:
    """Sizes of signals that nobody knows before the recordings are scored.

    Attributes
    ----------
    ceiling : float
        Greatest correlation that any prediction of a region's mean, or of a sensor at its peak, can
        have.
    gradient : float
        Share of the gradient in the variance of the signal.
    specific : float
        Share of a gradient's score that is specific to its layer and falls with the distance in
        depth; the rest is seen in all layers alike.
    """

    ceiling: float = 0.5
    gradient: float = 0.2
    specific: float = 0.4

    @property
    def share_beyond(self) -> float:
        """Share of the gradient in what the baseline leaves of a response."""
        signal = self.ceiling**2
        return self.gradient * signal / (1 - (1 - self.gradient) * signal)

    @property
    def forward_share(self) -> float:
        """Share of activations in a whole response."""
        return (1 - self.gradient) * self.ceiling**2


def expected_score(share: float, n_training: float) -> float:
    """Return the held-out r with features that explain a share of a response.

    Parameters
    ----------
    share : float
    n_training : float
        Stimuli of a training set.

    Notes
    -----
    The closed form of Daetwyler, Villanueva & Woolliams (2008, PLoS ONE 3:e3395) for the accuracy
    of a ridge: r = share sqrt(n / (n share + dimensions)), times what features keep.

    Examples
    --------
    >>> from gradenc_core.identify.assumed import expected_score
    >>> print(round(expected_score(0.25, 560), 2))
    0.29
    """
    return float(KEPT * share * np.sqrt(n_training / (n_training * share + DIMENSIONS)))


def noise_size(n_rows: int) -> float:
    """Return the standard deviation of a held-out r of noise."""
    return float(NOISE / np.sqrt(n_rows))


def similarity(depth: Array, specific: float) -> Array:
    """Return how much of a layer's score every layer has, (n_layers, n_layers)."""
    distance = np.abs(depth[:, None] - depth)
    return np.asarray(1 - specific + specific * np.exp(-distance / REACH))


def noise_over_layers(depth: Array, specific: float) -> Array:
    """Return a root of the correlation of noise over layers, (n_layers, n_layers).

    Scores of two layers err together as far as their features are alike.
    """
    alike = COMMON_TO_LAYERS * similarity(depth, specific)
    return np.asarray(np.linalg.cholesky(alike + (1 - COMMON_TO_LAYERS) * np.eye(len(depth))))


def assumed_confusion(depth: Array, specific: float, n_training: float) -> Confusion:
    """Return how targets of each layer would look to every layer."""
    heights = np.array([expected_score(share, n_training) for share in SHARES])
    scores = similarity(depth, specific)[:, None, :] * heights[:, None]
    return Confusion(scores[..., None], SHARES)
