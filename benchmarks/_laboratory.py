"""A laboratory: one world, factorised once, in which planted responses are tested as columns.

Everything that decides is the product's: components of the baseline, residuals, ridge and nulls.
The laboratory only hands arrays from one to the next, as the jobs do with stores.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gradenc_core.compare.reference import Confusion
from gradenc_core.planted.worlds import World
from gradenc_core.ridge.factorise import Design, factorise
from gradenc_core.ridge.options import RidgeOptions
from gradenc_core.ridge.resample import bootstrap_scores, permutation_scores
from gradenc_core.unique.nulls import (
    N_TUNINGS,
    SHARES,
    null_scores,
    simulated_scores,
    tuned_targets,
)
from gradenc_core.unique.residuals import Beyond, baseline_components, beyond
from jobs.unique import narrowed

Array = NDArray[np.float64]

N_FOLDS, N_BLOCKS = 5, 20
OPTIONS = RidgeOptions(alphas=tuple(np.logspace(0, 8, 25)), selection="gcv")
WIDTH = 256
"""Columns that are permuted together, so that several permutations fill a block of targets."""
CONTROLS = ("a copy of the baseline", "activations of one layer")
"""The negative controls."""


class Laboratory:
    """A world whose designs are factorised.

    Attributes
    ----------
    seen : Beyond
        How stimuli are seen beyond the baseline.
    n_components : int
        Components of the baseline.
    gradient, forward : list of Design
        Per layer: gradients beyond the baseline, and activations as they are.
    controls : dict of str to list of Design
        The negative controls, each beyond the baseline.
    confusion : Confusion
        How targets that one layer's gradient drives look to every layer.
    """

    def __init__(self, world: World, draws: int, seed: int = 0) -> None:
        self.world, self.draws, self.seed = world, draws, seed
        n = world.n_stimuli
        self._folds, self._blocks = np.arange(n) % N_FOLDS, np.arange(n) // N_FOLDS % N_BLOCKS
        recorded, unrecorded = _scaled(world.recorded.baseline, world.unrecorded.baseline)
        n_training = n - -(-n // N_FOLDS)
        baseline = baseline_components(recorded, unrecorded, world.n_scalars, n_training)
        self.n_components = baseline.recorded.shape[1]
        self.seen: Beyond = beyond(baseline, self._folds, self._blocks, np.ones(n), OPTIONS, seed)
        self.gradient = self._beyond(world.recorded.gradient, world.unrecorded.gradient)
        activations = self._beyond(world.recorded.forward, world.unrecorded.forward)
        copies = (self._beyond(recorded, unrecorded), activations)
        self.controls = dict(zip(CONTROLS, copies, strict=True))
        self.forward = [
            factorise(layer, self._folds, np.ones(n), OPTIONS) for layer in world.recorded.forward
        ]
        self.confusion = Confusion(self._simulated(), SHARES)

    def _beyond(self, recorded: Sequence[Array], unrecorded: Sequence[Array]) -> list[Design]:
        """Factorise what the baseline leaves of every layer's features."""
        designs = []
        for number, (own, other) in enumerate(zip(recorded, unrecorded, strict=True)):
            features = narrowed(self.seen.features(own, other), [self.seed, number])
            designs.append(factorise(features, self.seen.folds, self.seen.weights, OPTIONS))
        return designs

    def _simulated(self) -> Array:
        """Score what the gradients of all layers drive, (layers, shares, drivers, tunings)."""
        gradients = enumerate(self.world.recorded.gradient)
        drivers = [tuned_targets(layer, [self.seed, number]) for number, layer in gradients]
        # They lose their forward part as responses do.
        targets = self.residuals(np.hstack(drivers))
        scores = [simulated_scores(d, targets, self.seen.weights, self.seed) for d in self.gradient]
        shape = (len(drivers), len(SHARES), len(drivers), N_TUNINGS)
        return np.stack(scores).reshape(shape).astype(np.float64)

    @property
    def depth(self) -> Array:
        """Relative depths, (n_layers,)."""
        return self.world.features.depth

    def residuals(self, y: Array) -> Array:
        """Return responses beyond the baseline, once for all layers."""
        return np.asarray(self.seen.responses(y)[slice(None), slice(0, y.shape[1])])

    def permuted(self, designs: Sequence[Design], y: Array, n: int, seed: int) -> Array:
        """Return scores of columns under permutation, (n + 1, n_layers, n_columns).

        Responses `y` (n_rows, n_columns) are whole or residual, as the designs are.
        """
        parts = [y[:, start : start + WIDTH] for start in range(0, y.shape[1], WIDTH)]
        scores = [
            np.hstack([permutation_scores(design, part, n, seed) for part in parts])
            for design in designs
        ]
        return np.stack(scores, axis=1).astype(np.float64)

    def resampled(self, designs: Sequence[Design], y: Array, n: int, seed: int) -> Array:
        """Return scores of columns on resampled blocks, (n + 1, n_layers, n_columns)."""
        blocks = self._blocks if designs is self.forward else self.seen.blocks
        scores = [bootstrap_scores(design, y, blocks, n, seed) for design in designs]
        return np.stack(scores, axis=1).astype(np.float64)

    def voxel_p(self, designs: Sequence[Design], residuals: Array) -> Array:
        """Return p of U of every column: maximum over layers against the null that all share."""
        null = [null_scores(d, self.seen.weights, self.draws, self.seed) for d in designs]
        best = self.permuted(designs, residuals, 0, self.seed)[0].max(axis=0)
        return _rank(best, np.max(null, axis=0))


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
