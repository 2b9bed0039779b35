"""Simulated fMRI: regions that prefer layers."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from gradenc_core.compare.reference import UNKNOWN, Reference, Regions, space_reference
from gradenc_core.compare.regions import Points, order_p
from gradenc_core.compare.space import kstar
from gradenc_core.compare.statistics import common_max_p
from gradenc_core.compare.verdict import Evidence, Order
from gradenc_core.identify.assumed import similarity
from gradenc_core.identify.design import (
    N_FORWARD,
    N_PERMUTATIONS,
    Design,
    Hypothesis,
)

Array = NDArray[np.float64]
Indices = NDArray[np.intp]

COMMON_NOISE = 0.25
"""Correlation of noise between a subject's regions: the mean of the planted studies."""


@dataclass(frozen=True)
class FmriDesign(Design):
    """Subjects who have the same regions.

    Attributes
    ----------
    position : array, (n_points,)
        Of every region of a hemisphere.
    region : array of int, (n_points,)
        Number of its region, from 0: both hemispheres have the same.
    """

    order: ClassVar[Order] = "spatial"

    position: Array
    region: Indices

    def evidence(self, hypothesis: Hypothesis, rng: np.random.Generator) -> Evidence:
        """Return the evidence of one simulated study."""
        expected = self._expected(hypothesis, rng)
        gradient = [expected + self._noise(self.gradient_noise, 1, rng)[0] for _ in self.permuted]
        scores = [np.stack([g, *n]) for g, n in zip(gradient, self.permuted, strict=True)]
        nan = float("nan")
        found = Evidence(self.order, common_max_p(scores), nan, nan, nan, UNKNOWN, nan)
        if found.signal_p > self.level:
            return found
        forward, forward_p = self.forward[rng.integers(len(self.forward))]
        reference = self._reference(gradient, forward, int(rng.integers(2**31)))
        if reference.none_p <= self.level:
            # A verdict reads the agreement of no others, and permutations of regions take time.
            followed = [kstar(g, self.depth, "argmax") for g in gradient]
            found = replace(found, agrees_p=self._rises(forward, followed))
        return replace(found, forward_p=forward_p, reference=reference)

    def assumptions(self) -> list[str]:
        """Return sentences that say all that is assumed and not known of the study."""
        return [
            *super().assumptions(),
            f"In space: deeper layers drive regions further from the seed region, "
            f"{len(np.unique(self.region))} regions; without order gradients "
            f"come from each other's layers. Noise of two regions correlates {COMMON_NOISE:g}.",
        ]

    @cached_property
    def drivers(self) -> Indices:
        """Layer whose activations drive each point: the deeper, the further its region is."""
        n_regions = int(self.region.max()) + 1
        centres = [self.position[self.region == r].mean() for r in range(n_regions)]
        rising = np.round(np.linspace(0, len(self.depth) - 1, n_regions)).astype(np.intp)
        return rising[np.argsort(np.argsort(centres))[self.region]]

    @cached_property
    def permuted(self) -> list[Array]:
        """Scores under permutation, by subject (n_permutations, n_layers, n_points).

        Permuted responses hold no signal, so all simulated studies may share them.
        """
        rng = np.random.default_rng(0)
        subjects = range(self.n_subjects)
        return [self._noise(self.gradient_noise, N_PERMUTATIONS, rng) for _ in subjects]

    @cached_property
    def permuted_forward(self) -> Array:
        """Scores of activations under permutation, (n_permutations, n_layers, n_points)."""
        return self._noise(self.forward_noise, N_PERMUTATIONS, np.random.default_rng(2))

    @cached_property
    def forward(self) -> list[tuple[list[Array], float]]:
        """What activations score in some studies, by subject (n_layers, n_points), and p of a rise.

        Simulated studies share them too: activations are told apart far better than gradients.
        """
        rng = np.random.default_rng(1)
        expected = self.forward_height * similarity(self.depth, 1.0)[:, self.drivers]
        studies = []
        for _ in range(N_FORWARD):
            scores = list(expected + self._noise(self.forward_noise, self.n_subjects, rng))
            studies.append((scores, self._rises(scores, [self.position] * len(scores))))
        return studies

    def _expected(self, hypothesis: Hypothesis, rng: np.random.Generator) -> Array:
        """Return what gradients score without noise, (n_layers, n_points)."""
        if hypothesis == Hypothesis.NO_GRADIENT:
            return np.zeros((len(self.depth), len(self.region)))
        drivers = self.drivers
        if hypothesis == Hypothesis.NO_ORDER:
            _, first = np.unique(self.region, return_index=True)
            drivers = rng.permutation(drivers[first])[self.region]
        return self.height * similarity(self.depth, self.assumed.specific)[:, drivers]

    def _noise(self, root: Array, n: int, rng: np.random.Generator) -> Array:
        """Draw scores of noise, (n, n_layers, n_points)."""
        own = rng.standard_normal((n, len(self.depth), len(self.region)))
        common = rng.standard_normal((n, len(self.depth), 1))
        mixed = np.sqrt(1 - COMMON_NOISE) * own + np.sqrt(COMMON_NOISE) * common
        return np.asarray(root @ mixed)

    def _rises(self, forward: Sequence[Array], along: Sequence[Array]) -> float:
        """Return p that the depth which activations prefer rises along something."""
        points = [
            Points(kstar(f, self.depth, "argmax"), place, self.region)
            for f, place in zip(forward, along, strict=True)
        ]
        return order_p([p.only_known() for p in points], "pearson", 0)

    def _reference(
        self, gradient: Sequence[Array], forward: Sequence[Array], seed: int
    ) -> Reference:
        # Noise leaves open which layer a region's activations prefer.
        expected = [(f + self.permuted_forward).argmax(axis=1) for f in forward]
        subjects = [
            Regions(g, n, likely, self.position, self.region, self.confusion)
            for g, n, likely in zip(gradient, self.permuted, expected, strict=True)
        ]
        return space_reference(subjects, self.depth, "argmax", self.level, seed, self.n_draws)
