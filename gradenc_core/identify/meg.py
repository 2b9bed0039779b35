"""Simulated MEG: layers that predict sensors best at a latency. All sensors count as one.

More sensors lower the noise of their mean by as much as their noise is their own, which nobody
knows before: so the simulated studies are the worst case.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from gradenc_core.compare.peaks import Sensors, timing
from gradenc_core.compare.reference import UNKNOWN, Curves, Reference, time_reference
from gradenc_core.compare.statistics import above_zero_p, common_max_p
from gradenc_core.compare.time import Latencies, temporal_score
from gradenc_core.compare.verdict import Evidence, Order
from gradenc_core.identify.assumed import assumed_confusion
from gradenc_core.identify.design import (
    N_FORWARD,
    N_PERMUTATIONS,
    Design,
    Hypothesis,
)

Array = NDArray[np.float64]

N_BOOTSTRAPS = 59
MEMORY_S = 0.07
"""Difference in time over which the noise of a score falls to 1 / e (half in 50 ms)."""
FORWARD_S = (0.100, 0.350)
"""Latencies of activations at depths 0 and 1, s."""
BACKWARD_S = (0.600, 0.400)
"""Latencies of backpropagated gradients at depths 0 and 1, s."""
AT_ONCE_S = 0.450
"""Latency of gradients that have no order, s."""
BUMP_S = 0.050
"""Standard deviation of a layer's response over time, s."""


@dataclass(frozen=True)
class MegDesign(Design):
    """Subjects who have the same windows.

    Attributes
    ----------
    times : array, (n_windows,)
        Centres of the windows, s.
    window : (start, stop)
        Search window, s.
    smallest_effect : float
        Speed of the reference of backpropagation, as a share of the forward sweep's.
    """

    order: ClassVar[Order] = "temporal"

    times: Array
    window: tuple[float, float]
    smallest_effect: float

    def evidence(self, hypothesis: Hypothesis, rng: np.random.Generator) -> Evidence:
        """Return the evidence of one simulated study."""
        expected = self._expected(hypothesis)
        gradient = [expected + self._noise(self.gradient_noise, 1, rng)[0] for _ in self.permuted]
        scores = [np.stack([g, *n]) for g, n in zip(gradient, self.permuted, strict=True)]
        nan = float("nan")
        found = Evidence(self.order, common_max_p(scores), nan, nan, nan, UNKNOWN, nan)
        if found.signal_p > self.level:
            return found
        forward = self.forward[rng.integers(len(self.forward))]
        sweep = temporal_score(forward, self.depth, "slope")
        own = self._latencies(gradient, self.permuted, self.gradient_noise, rng)
        lags = [g.plus(f, -1) for g, f in zip(own, forward, strict=True)]
        lag = temporal_score(lags, self.depth, "mean")
        return replace(
            found,
            forward_p=above_zero_p(sweep.mean, sweep.combined_p),
            agrees_p=above_zero_p(lag.mean, lag.combined_p),
            reference=self._reference(gradient, sweep.mean, int(rng.integers(2**31))),
        )

    def assumptions(self) -> list[str]:
        """Return sentences that say all that is assumed and not known of the study."""
        (first, last), (late, early) = np.multiply((FORWARD_S, BACKWARD_S), 1000)
        return [
            *super().assumptions(),
            f"In time: from the first layer to the last, activations peak at {first:.0f} to "
            f"{last:.0f} ms and backpropagated gradients at {late:.0f} to {early:.0f} ms; "
            f"gradients without order peak at {1000 * AT_ONCE_S:.0f} ms. All sensors count as one.",
        ]

    @cached_property
    def permuted(self) -> list[Array]:
        """Scores under permutation, by subject (n_permutations, n_layers, n_windows).

        Permuted responses hold no signal, so all simulated studies may share them.
        """
        return self._permuted(self.gradient_noise)

    def _permuted(self, root: Array) -> list[Array]:
        rng = np.random.default_rng(0)
        return [self._noise(root, N_PERMUTATIONS, rng) for _ in range(self.n_subjects)]

    @cached_property
    def forward(self) -> list[list[Latencies]]:
        """Latencies of activations in some studies, by subject.

        Simulated studies share them too: activations are told apart far better than gradients.
        """
        rng = np.random.default_rng(1)
        confusion = assumed_confusion(self.depth, 1.0, self.n_stimuli)
        latency = np.interp(self.depth, (0, 1), FORWARD_S)
        expected = self.forward_height * self._curves(latency, confusion.mixing(1.0))
        permuted, studies = self._permuted(self.forward_noise), []
        for _ in range(N_FORWARD):
            curves = list(expected + self._noise(self.forward_noise, self.n_subjects, rng))
            studies.append(self._latencies(curves, permuted, self.forward_noise, rng))
        return studies

    def _expected(self, hypothesis: Hypothesis) -> Array:
        """Return what gradients score without noise, (n_layers, n_windows)."""
        if hypothesis == Hypothesis.NO_GRADIENT:
            return np.zeros((len(self.depth), len(self.times)))
        latency = np.full(len(self.depth), AT_ONCE_S)
        if hypothesis == Hypothesis.BACKPROP:
            latency = np.interp(self.depth, (0, 1), BACKWARD_S)
        return self.height * self._curves(latency, self.confusion.mixing(1.0))

    def _curves(self, latency: Array, mixing: Array) -> Array:
        """Return layers' curves, which hold the responses of others as far as these are alike."""
        bumps = np.exp(-0.5 * ((self.times - latency[:, None]) / BUMP_S) ** 2)
        curves = np.sqrt(mixing @ bumps**2)
        return np.asarray(curves / curves.max())

    @cached_property
    def _over_time(self) -> Array:
        """Root of the correlation of noise over windows, (n_windows, n_windows)."""
        distance = np.abs(self.times[:, None] - self.times)
        return np.linalg.cholesky(np.exp(-distance / MEMORY_S))

    def _noise(self, root: Array, n: int, rng: np.random.Generator) -> Array:
        """Draw scores of noise, (n, n_layers, n_windows)."""
        drawn = rng.standard_normal((n, len(self.depth), len(self.times)))
        return np.asarray(root @ drawn @ self._over_time.T)

    def _latencies(
        self,
        curves: Sequence[Array],
        permuted: Sequence[Array],
        root: Array,
        rng: np.random.Generator,
    ) -> list[Latencies]:
        """Return when each layer predicts each subject best, in replicates that err alike."""
        found = []
        for curve, null in zip(curves, permuted, strict=True):
            drawn = curve + self._noise(root, N_BOOTSTRAPS, rng)
            bootstrap, permutation = (np.stack([curve, *other]) for other in (drawn, null))
            one = Sensors(bootstrap[:, :, None], permutation[:, :, None])
            found.append(timing(one, self.times, self.window, self.level).latencies)
        return found

    def _reference(self, gradient: Sequence[Array], sweep: float, seed: int) -> Reference:
        if not sweep > 0:
            return UNKNOWN
        subjects = [
            Curves(g, n, self.confusion) for g, n in zip(gradient, self.permuted, strict=True)
        ]
        slowest = -self.smallest_effect * sweep
        return time_reference(
            subjects,
            self.depth,
            self.times,
            self.window,
            slowest,
            self.level,
            seed,
            self.n_draws,
        )
