"""Orders that a study would see of a brain with backpropagation, and of one without an order.

A noisy or collinear gradient blurs any order, so a weak order alone says nothing against
backpropagation. Both references are simulated from the study itself: the layers' confusion by
targets that each layer's gradient drives, the noise by scores of permuted stimuli, which carry its
covariance over layers, regions and windows. An observed order is then compared with both.

A brain may be driven by what the gradients of all layers share as well as by what is specific to
one, and only the latter has an order. Both references have the least specific share that the
study's own contrast between regions, or between layers' curves, does not exclude. Contrast that
noise explains leaves the smallest share, with which hardly any order is seen, and the power is low.
So a departure from backpropagation is found only in brains that tell layers apart.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from gradenc_core.compare.simulated import (
    FEWEST_POINTS,
    N_DRAWS,
    InSpace,
    InTime,
    Subject,
    least_specific,
    simulated,
)
from gradenc_core.compare.simulated import Confusion as Confusion
from gradenc_core.compare.time import slope

Array = NDArray[np.float64]
Indices = NDArray[np.intp]

TIE = 1e-9
"""Orders closer than this are equal."""


@dataclass(frozen=True)
class Regions:
    """One subject's regions for one gradient, a point per region and hemisphere.

    Attributes
    ----------
    profile : array, (n_layers, n_points)
        Scores beyond the baseline; a point with NaN leaves the order.
    noise : array, (n_permutations, n_layers, n_points)
        The same under permutation, one order of stimuli for all subjects who saw the same.
    driver : array of int, (n_likely, n_points)
        Layer that backpropagation expects: the one whose activations the region prefers. Noise
        leaves that open, so that each row is one that is as likely as any other.
    position : array, (n_points,)
        NaN outside the map: the point leaves the order.
    region : array of int, (n_points,)
        Number of the point's region, the same in all subjects.
    confusion : Confusion
        Of the stimuli that the subject saw.
    """

    profile: Array
    noise: Array
    driver: Indices
    position: Array
    region: Indices
    confusion: Confusion

    def only_known(self) -> "Regions":
        """Return the points that have a position and all scores."""
        scored = np.isfinite(self.profile).all(axis=0) & np.isfinite(self.noise).all(axis=(0, 1))
        known = scored & np.isfinite(self.position)
        return replace(
            self,
            profile=self.profile[:, known],
            noise=self.noise[..., known],
            driver=self.driver[:, known],
            position=self.position[known],
            region=self.region[known],
        )


@dataclass(frozen=True)
class Curves:
    """One subject's scores over time for one gradient, the mean over selected sensors.

    Attributes
    ----------
    curves : array, (n_layers, n_windows)
        A layer with NaN leaves the order.
    noise : array, (n_permutations, n_layers, n_windows)
        The same under permutation, one order of stimuli for all subjects who saw the same.
    confusion : Confusion
        Of the stimuli that the subject saw.
    """

    curves: Array
    noise: Array
    confusion: Confusion


@dataclass(frozen=True)
class Reference:
    """An observed order between the two references.

    Attributes
    ----------
    observed : float
        Mean over subjects: correlation of preferred depth with position, or slope of latency over
        depth (s).
    none_p : float
        Share of studies without an order that show this order, or a better one.
    backprop_p : float
        Share of studies of a brain with backpropagation that show this order, or a worse one.
    power : float
        Share of studies without an order in which `backprop_p` is at most the level.
    """

    observed: float
    none_p: float
    backprop_p: float
    power: float

    @classmethod
    def of(
        cls, observed: float, none: Array, backprop: Array, better: int, level: float
    ) -> "Reference":
        """Place an order between the references; `better` is the sign of backpropagation's order.

        Simulated studies without a score count for neither side's rejection.
        """
        none, backprop = better * none, better * backprop
        low, high = np.where(np.isnan(backprop), -np.inf, backprop), np.nan_to_num(none, nan=np.inf)
        place = better * observed
        n_rejected = int(level * (1 + len(low)))
        critical = np.sort(low)[n_rejected - 1] if n_rejected else -np.inf
        return cls(
            observed,
            _share(high >= place - TIE),
            _share(low <= place + TIE),
            float((none < critical - TIE).mean()),
        )


UNKNOWN = Reference(*[float("nan")] * 4)
"""Of an order that has no score."""


def _share(hits: NDArray[np.bool_]) -> float:
    return float((1 + hits.sum()) / (1 + len(hits)))


def space_reference(
    subjects: Sequence[Regions],
    depth: Array,
    how: str,
    level: float,
    seed: int,
    n_draws: int = N_DRAWS,
) -> Reference:
    """Place the spatial order of a gradient between no order and backpropagation.

    Parameters
    ----------
    subjects : sequence of Regions
        Subjects without an order, such as those with fewer than 3 points, are left out.
    depth : array, (n_layers,)
        Relative depths.
    how : {"argmax", "centre_of_mass"}
        How a region's preferred depth follows from its profile.
    level : float
        At which the power is stated.
    seed : int
    n_draws : int
        Simulated studies of each kind.

    Returns
    -------
    Reference
        Of the mean over subjects of the correlation between preferred depth and position. Without
        an order, regions have each other's layers, exchanged alike in all subjects. NaN where no
        subject has an order.
    """
    known = [s.only_known() for s in subjects]
    names = np.unique([region for s in known for region in s.region])
    rng = np.random.default_rng([seed, 1])
    exchanges = np.stack([rng.permutation(len(names)) for _ in range(n_draws)])
    usable = []
    for s in known:
        if len(s.region) < FEWEST_POINTS:
            continue
        drivers = s.driver[rng.integers(len(s.driver), size=n_draws)]
        exchanged = _exchanged(drivers, np.searchsorted(names, s.region), exchanges)
        own = (s.profile, s.noise, depth, s.confusion, drivers, exchanged, s.position, how)
        usable.append(InSpace(*own))
    return _between(_with_order(usable), 1, level, seed, n_draws)


def time_reference(
    subjects: Sequence[Curves],
    depth: Array,
    times: Array,
    window: tuple[float, float],
    slowest: float,
    level: float,
    seed: int,
    n_draws: int = N_DRAWS,
) -> Reference:
    """Place the temporal order of a gradient between no order and backpropagation.

    Parameters
    ----------
    subjects : sequence of Curves
        Subjects of whom fewer than 5 layers have a peak are left out.
    depth : array, (n_layers,)
        Relative depths.
    times : array, (n_windows,)
        Centres of the windows, s.
    window : (start, stop)
        Search window, s.
    slowest : float
        Slope of latency over depth (s per unit depth, negative) that is the smallest order of
        interest: the reference of backpropagation has it.
    level : float
        At which the power is stated.
    seed : int
    n_draws : int
        Simulated studies of each kind.

    Returns
    -------
    Reference
        Of the mean over subjects of the slope of peak latency over depth. Without an order all
        layers have one latency, or each other's: `none_p` is the larger of both. NaN where no
        subject has an order.
    """
    usable = _with_order(
        [InTime(s.curves, s.noise, depth, s.confusion, times, window, slowest) for s in subjects]
    )
    found = _between(usable, -1, level, seed, n_draws)
    return replace(found, none_p=max(found.none_p, _exchange_p(usable, seed)))


S = TypeVar("S", bound=Subject)


def _with_order(subjects: Sequence[S]) -> list[S]:
    return [s for s in subjects if np.isfinite(s.order(s.observed[None])[0])]


def _between(
    subjects: Sequence[Subject], better: int, level: float, seed: int, n_draws: int
) -> Reference:
    """Place the mean order of subjects between both references."""
    if not subjects:
        return UNKNOWN
    observed = np.mean([s.order(s.observed[None])[0] for s in subjects])
    specific = least_specific(subjects, seed, n_draws)
    none, backprop = (
        _mean([s.order(x) for s, x in simulated(subjects, specific, ordered, seed, n_draws)])
        for ordered in (False, True)
    )
    return Reference.of(float(observed), none, backprop, better, level)


def _exchange_p(subjects: Sequence[InTime], seed: int) -> float:
    """Return p of the mean slope if layers had each other's latencies, alike in all subjects."""
    if not subjects:
        return float("nan")
    rng = np.random.default_rng([seed, 3])
    n_layers = len(subjects[0].depth)
    orders = np.stack([np.arange(n_layers), *(rng.permutation(n_layers) for _ in range(N_DRAWS))])
    slopes = _mean([slope(s.latencies(s.observed)[orders], s.depth) for s in subjects])
    return _share(slopes[1:] <= slopes[0] + TIE)


def _exchanged(driver: Indices, member: Indices, orders: Indices) -> Indices:
    """Return the drivers of points whose regions have exchanged layers, (n_draws, n_points).

    A region that a subject lacks leaves the point its own layer. Hemispheres keep their side's
    place in the region where both have one.
    """
    found = np.empty(driver.shape, dtype=np.intp)
    draws = np.arange(len(orders))
    by_region = [np.flatnonzero(member == r) for r in range(orders.shape[1])]
    for point, own in enumerate(member):
        side = int(np.flatnonzero(by_region[own] == point)[0])
        source = np.array([p[min(side, len(p) - 1)] if len(p) else point for p in by_region])
        found[:, point] = driver[draws, source[orders[:, own]]]
    return found


def _mean(orders: Sequence[Array]) -> Array:
    """Return the mean over those who have an order in a draw; NaN where nobody has."""
    known = np.isfinite(orders)
    total = np.where(known, orders, 0.0).sum(axis=0)
    return np.where(known.any(axis=0), total / np.maximum(known.sum(axis=0), 1), np.nan)
