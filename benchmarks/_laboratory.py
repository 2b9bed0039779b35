"""A laboratory: one world, factorised once, in which planted responses are tested as columns.

Everything that decides is the product's: components of the baseline, residuals, ridge and nulls.
The laboratory only hands arrays from one to the next, as the jobs do with stores.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gradenc_core.planted.worlds import World
from gradenc_core.ridge.factorise import Design, factorise
from gradenc_core.ridge.options import RidgeOptions
from gradenc_core.ridge.resample import permutation_scores
from gradenc_core.unique.nulls import null_scores
from gradenc_core.unique.residuals import Beyond, baseline_components, beyond

Array = NDArray[np.float64]

N_FOLDS, N_BLOCKS = 5, 20
OPTIONS = RidgeOptions(alphas=tuple(np.logspace(0, 8, 25)), selection="gcv")


class Laboratory:
    """A world whose designs are factorised.

    Attributes
    ----------
    seen : Beyond
        How stimuli are seen beyond the baseline.
    n_components : int
        Components of the baseline.
    """

    def __init__(self, world: World, draws: int, seed: int = 0) -> None:
        self.world, self.draws, self.seed = world, draws, seed
        n = world.n_stimuli
        folds, blocks = np.arange(n) % N_FOLDS, np.arange(n) // N_FOLDS % N_BLOCKS
        recorded, unrecorded = _scaled(world.recorded.baseline, world.unrecorded.baseline)
        n_training = n - -(-n // N_FOLDS)
        baseline = baseline_components(recorded, unrecorded, n_training)
        self.n_components = baseline.recorded.shape[1]
        self.seen: Beyond = beyond(baseline, folds, blocks, np.ones(n), OPTIONS, seed)
        self._beyond = self._designs(world.recorded.gradient, world.unrecorded.gradient)
        self._copies = {
            "a copy of the baseline": self._designs(recorded, unrecorded),
            "own-layer activations": self._designs(
                world.recorded.forward, world.unrecorded.forward
            ),
        }
        self._null = self._null_of(self._beyond)

    def _designs(self, recorded: Sequence[Array], unrecorded: Sequence[Array]) -> list[Design]:
        return [
            factorise(self.seen.features(own, other), self.seen.folds, self.seen.weights, OPTIONS)
            for own, other in zip(recorded, unrecorded, strict=True)
        ]

    def _null_of(self, designs: Sequence[Design]) -> Array:
        """Return the maximum over layers of scores of noise, (n_draws,)."""
        draws = [null_scores(d, self.seen.weights, self.draws, self.seed) for d in designs]
        return np.max(draws, axis=0)

    def residuals(self, y: Array) -> Array:
        """Return responses beyond the baseline, once for all layers."""
        return np.asarray(self.seen.responses(y)[slice(None), slice(0, y.shape[1])])

    def voxel_p(self, residuals: Array) -> Array:
        """Return p of U of every column: maximum over layers against the shared null."""
        return _rank(self._best(self._beyond, residuals), self._null)

    def control_p(self, name: str, residuals: Array) -> Array:
        """Return the same for a negative control."""
        designs = self._copies[name]
        return _rank(self._best(designs, residuals), self._null_of(designs))

    @property
    def controls(self) -> tuple[str, ...]:
        """Names of the negative controls."""
        return tuple(self._copies)

    def _best(self, designs: Sequence[Design], residuals: Array) -> Array:
        scores = [permutation_scores(d, residuals, 0, self.seed)[0] for d in designs]
        return np.max(scores, axis=0)


def _scaled(recorded: Sequence[Array], bank: Sequence[Array]) -> tuple[list[Array], list[Array]]:
    """Divide columns by their standard deviation over images without recordings."""
    spreads = [layer.std(axis=0) for layer in bank]
    units = [np.where(s > 1e-9 * s.max(), 1 / np.maximum(s, 1e-300), 0.0) for s in spreads]
    return (
        [layer * unit for layer, unit in zip(recorded, units, strict=True)],
        [layer * unit for layer, unit in zip(bank, units, strict=True)],
    )


def _rank(scores: Array, null: Array) -> Array:
    above = len(null) - np.searchsorted(np.sort(null), scores, side="left")
    return (1 + above) / (1 + len(null))
