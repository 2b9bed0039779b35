"""Gradient against forward, target by target: whether both prefer the same depth in the same place.

Both signals enter with the same targets, the same layers and the same noise, so their difference is
tested as one quantity. Nulls permute regions, as those of `gradenc_core.compare.regions`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gradenc_core.compare.regions import Points, order_p, order_statistic
from gradenc_core.compare.space import Brain, SpatialScore, spatial_score

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


def paired(gradient: Brain, forward: Brain, layers: Mask) -> tuple[Brain, Brain]:
    """Return both signals of one subject with the targets and layers that both have.

    Parameters
    ----------
    gradient, forward : Brain
        The same targets; `forward` with all layers.
    layers : array of bool
        Layers of `forward` that `gradient` has.
    """
    both = gradient.selected & forward.selected
    return (
        replace(gradient, selected=both),
        replace(forward, selected=both, profile=forward.profile[layers]),
    )


def agreement(
    gradient: Sequence[Points],
    forward: Sequence[Points],
    method: str = "pearson",
    seed: int = 0,
) -> SpatialScore:
    """Correlate the gradient's preferred depth with the forward one, target by target.

    Backpropagation needs the gradient of a layer where its activations are. No map of positions
    enters.

    Parameters
    ----------
    gradient, forward : sequence of Points
        The same points of each subject, of the targets and layers that both signals have
        (`paired`).
    method, seed
        As for `spatial_score`.

    Returns
    -------
    SpatialScore
        As of `spatial_score`; the gradient's preferred depths change places between regions.
    """
    pairs = [Points(f.depth, g.depth, g.region) for g, f in zip(gradient, forward, strict=True)]
    return spatial_score(pairs, method, seed)


@dataclass(frozen=True)
class Contrast:
    """How much faster a gradient's preferred depth rises than a share of the forward one.

    Attributes
    ----------
    values : array, (n_subjects,)
        Slope on position, in depth per mm or per place on a ladder; below 0 where the gradient
        rises more slowly.
    mean : float
        Mean over subjects.
    p : float
        One-sided p of a mean below 0.
    """

    values: Array
    mean: float
    p: float


def contrast(
    gradient: Sequence[Points], forward: Sequence[Points], smallest_effect: float, seed: int = 0
) -> Contrast:
    """Test whether the gradient's depth rises at less than a share of the forward rate.

    The slope of D = k*_gradient - share k*_forward on position is the difference of the slopes; its
    null permutes the regions of D, the same way in all subjects. The pairs carry the noise of both
    signals, so neither is taken for known.

    Parameters
    ----------
    gradient, forward : sequence of Points
        The same points of each subject (`paired`).
    smallest_effect : float
        The share.
    seed : int
        Of the permutations, above 8 regions.
    """
    falls = [
        Points(smallest_effect * f.depth - g.depth, g.position, g.region).only_known()
        for g, f in zip(gradient, forward, strict=True)
    ]
    values = -np.array([order_statistic(points, "slope") for points in falls])
    known = values[np.isfinite(values)]
    mean = float(known.mean()) if len(known) else float("nan")
    return Contrast(values, mean, order_p(falls, "slope", seed))
