"""A study before it is run: its sizes, and the truths that its simulated brains may have."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from math import ceil
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from gradenc_core.compare.reference import Confusion
from gradenc_core.compare.verdict import Evidence, Order, Verdict
from gradenc_core.identify.assumed import (
    DIMENSIONS,
    KEPT,
    NOISE,
    REACH,
    Assumed,
    assumed_confusion,
    expected_score,
    noise_over_layers,
    noise_size,
)
from gradenc_core.unique.residuals import LEAST_ROOM

Array = NDArray[np.float64]

N_PERMUTATIONS = 199
"""Permutations of a simulated study; its own may be more."""
N_FORWARD = 5
"""Simulated measurements of activations."""
REJECTED = 2
"""A reference has so many simulated brains that this many of them are its level's share."""


class Hypothesis(StrEnum):
    """What drives simulated brains beside activations."""

    BACKPROP = "backpropagation"
    NO_ORDER = "gradients without order"
    NO_GRADIENT = "no gradients"


RIGHT = {
    Hypothesis.BACKPROP: Verdict.BACKPROP_LIKE,
    Hypothesis.NO_ORDER: Verdict.MISALIGNED,
    Hypothesis.NO_GRADIENT: Verdict.NO_GRADIENT_SIGNAL,
}
"""The verdict that each should get."""


@dataclass(frozen=True)
class Design(ABC):
    """One modality of a study.

    Attributes
    ----------
    n_subjects, n_stimuli, n_folds : int
        All subjects saw as many stimuli.
    n_columns : int
        Columns of the forward baseline; 0 where stimuli can make no room for it.
    unrecorded : bool
        Whether there are images without recordings, to learn what stimuli have no room for.
    depth : array, (n_layers,)
        Relative depths.
    level : float
        Of every test of this modality.
    assumed : Assumed
    """

    order: ClassVar[Order]

    n_subjects: int
    n_stimuli: int
    n_folds: int
    n_columns: int
    unrecorded: bool
    depth: Array
    level: float
    assumed: Assumed

    @abstractmethod
    def evidence(self, hypothesis: Hypothesis, rng: np.random.Generator) -> Evidence:
        """Return the evidence of one simulated study.

        Without a significant gradient signal its order stays unknown: no verdict reads it.
        """

    def assumptions(self) -> list[str]:
        """Return sentences that say all that is assumed and not known of the study."""
        assumed = self.assumed
        return [
            f"Assumed: a noise ceiling of r = {assumed.ceiling:g}; gradients are "
            f"{assumed.gradient:.0%} of the signal's variance, beyond a baseline that is complete.",
            f"Of a gradient's score {assumed.specific:.0%} are specific to its layer and fall to "
            f"1 / e over {REACH:g} of the network's depth; the rest is seen in all layers. Noise "
            "is as alike in two layers as signals are.",
            f"Held-out r: a ridge that has {DIMENSIONS} dimensions to learn and keeps {KEPT:.0%} "
            f"of the possible correlation; noise of sd {NOISE:g} over the root of the number of "
            "stimuli.",
            f"Simulated: {N_PERMUTATIONS} permutations and references of {self.n_draws} brains, "
            "where the study has its own number and 1,000.",
        ]

    @property
    def n_rows(self) -> int:
        """Coordinates of the stimuli that the baseline leaves: it fills the room that it has."""
        room = (self.n_stimuli - ceil(self.n_stimuli / self.n_folds)) // LEAST_ROOM
        if self.n_columns > room and self.unrecorded:
            return self.n_stimuli - 1
        return self.n_stimuli - 1 - min(self.n_columns, room)

    @property
    def n_draws(self) -> int:
        """Simulated brains of each reference."""
        return ceil(REJECTED / self.level)

    @property
    def height(self) -> float:
        """Expected score of the gradient that drives a response."""
        return expected_score(self.assumed.share_beyond, self._training(self.n_rows))

    @property
    def forward_height(self) -> float:
        """Expected score of the activations that drive a response."""
        return expected_score(self.assumed.forward_share, self._training(self.n_stimuli))

    @cached_property
    def confusion(self) -> Confusion:
        """How targets that one layer's gradient drives look to every layer."""
        n_training = self._training(self.n_rows)
        return assumed_confusion(self.depth, self.assumed.specific, n_training)

    def _training(self, n: int) -> float:
        return n * (1 - 1 / self.n_folds)

    @cached_property
    def gradient_noise(self) -> Array:
        """Root of the covariance of gradients' noise over layers, (n_layers, n_layers)."""
        return noise_size(self.n_rows) * noise_over_layers(self.depth, self.assumed.specific)

    @cached_property
    def forward_noise(self) -> Array:
        """The same of activations, whose scores are all specific to layers."""
        return noise_size(self.n_stimuli) * noise_over_layers(self.depth, 1.0)
