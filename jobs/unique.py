"""Features and responses beyond the complete forward baseline, and the targets drawn beside them.

Stage encode scores them as it scores others. What all layers and sources share (the baseline's
components, how stimuli are seen beyond them, simulated drivers) is kept for the next unit.
"""

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from xarray import Coordinates

from gradenc_core.arrays import Columns, Floats
from gradenc_core.ridge.factorise import Design, factorise
from gradenc_core.unique.baseline import Components
from gradenc_core.unique.nulls import (
    N_DRAWS,
    N_TUNINGS,
    null_scores,
    simulated_scores,
    tuned_targets,
)
from gradenc_core.unique.residuals import (
    Beyond,
    Learned,
    baseline_components,
    beyond,
    total_variance,
)
from jobs.recorded import Recorded
from jobs.rows import layers
from jobs.runner import Arrays
from jobs.spec import EncodingSpec, Reference, ScoresSpec

CONTROL_WIDTH = 256
"""Columns to which a negative control is projected at random: it must not cost more than a signal.
"""


@dataclass(frozen=True)
class Situation:
    """Recorded stimuli and their baseline: all that decides how they are seen beyond it.

    Attributes
    ----------
    baseline : Reference
    n_scalars : tuple of int
        Last columns of each of its layers that are single values.
    unrecorded : Reference or None
        The baseline of images without recordings.
    encoding : EncodingSpec
    partition : str
        Digest of folds, blocks and categories.
    responses : tuple of Reference
        Whose targets these are.
    root : Path
    folds, blocks : array of int, (n_stimuli,)
    targets : Recorded
    exchangeable : bool
        False where images of one category stay together.
    """

    baseline: Reference
    n_scalars: tuple[int, ...]
    unrecorded: Reference | None
    encoding: EncodingSpec
    partition: str
    responses: tuple[Reference, ...]
    root: Path
    folds: NDArray[np.int64] = field(compare=False)
    blocks: NDArray[np.int64] = field(compare=False)
    targets: Recorded = field(compare=False)
    exchangeable: bool = field(compare=False)

    @classmethod
    def of(
        cls, spec: ScoresSpec, coords: Coordinates, targets: Recorded, root: Path
    ) -> "Situation":
        """Describe the stimuli of a scores store by its specification and coordinates."""
        assert spec.beyond is not None
        images = spec.beyond.unrecorded
        return cls(
            spec.beyond.baseline,
            spec.beyond.n_scalars,
            None if images is None else images.baseline,
            spec.encoding,
            spec.partition,
            spec.responses,
            root,
            coords["stimulus_fold"].values,
            coords["stimulus_block"].values,
            targets,
            "stimulus_category" not in coords,
        )


@lru_cache(maxsize=1)
def components(situation: Situation) -> Components:
    """Return the principal components of a baseline, kept for the next unit."""
    images, root = situation.unrecorded, situation.root
    return baseline_components(
        layers(situation.baseline, root),
        None if images is None else layers(images, root),
        situation.n_scalars,
        len(situation.folds) - int(np.bincount(situation.folds).max()),
        situation.exchangeable,
    )


def about(situation: Situation) -> dict[str, float]:
    """Return the size of a baseline, for the commit record."""
    found = components(situation)
    return {
        "columns": found.n_columns,
        "components": found.recorded.shape[1],
        "kept": found.kept,
    }


@lru_cache(maxsize=1)
def seen_beyond(situation: Situation) -> Beyond:
    """Return how stimuli are seen beyond their baseline, kept for the next unit.

    Raises
    ------
    NoRoomError
        If the study has too few stimuli and too few images without recordings.
    """
    own = situation
    return beyond(
        components(own),
        own.folds,
        own.blocks,
        own.targets.weights,
        own.encoding.ridge_options,
        own.encoding.seed,
        own.exchangeable,
    )


@lru_cache(maxsize=1)
def responses_beyond(situation: Situation) -> tuple[Columns, Columns]:
    """Return what the baseline leaves of responses and summaries, kept for the next unit."""
    seen, targets = seen_beyond(situation), situation.targets
    return seen.responses(targets.responses), seen.responses(targets.summaries)


@lru_cache(maxsize=1)
def variance_of_responses(situation: Situation) -> Floats:
    """Return the weighted sum of squares of whole responses, kept for the next unit."""
    return total_variance(situation.targets.responses, situation.targets.weights)


def design_beyond(situation: Situation, spec: ScoresSpec, layer: int) -> Design:
    """Factorise one layer's features without their forward part."""
    assert spec.beyond is not None
    seen, root = seen_beyond(situation), situation.root
    images = None
    if isinstance(seen, Learned):
        assert spec.beyond.unrecorded is not None
        images = feature_columns(spec.beyond.unrecorded.features, spec, layer, root)
    features = seen.features(feature_columns(spec.features[0], spec, layer, root), images)
    if spec.is_control:
        features = narrowed(features, [spec.encoding.seed, layer])
    return factorise(features, seen.folds, seen.weights, spec.encoding.ridge_options)


def narrowed(features: Floats, seed: list[int]) -> Floats:
    """Project standardised columns at random, if they are more than a control may have."""
    if features.shape[1] <= CONTROL_WIDTH:
        return features
    spread = features.std(axis=0)
    matrix = np.random.default_rng(seed).standard_normal((features.shape[1], CONTROL_WIDTH))
    return np.asarray((features / np.where(spread > 0, spread, 1.0)) @ matrix)


def feature_columns(
    features: Reference, spec: ScoresSpec, layer: int, root: Path
) -> NDArray[np.float32]:
    """Return a layer's features, (n_stimuli, n); the baseline's last has the readout too."""
    rows = layers(features, root)
    last = layer == len(spec.layers) - 1
    return np.hstack([own[slice(None)] for own in (rows[layer:] if last else [rows[layer]])])


def drawn_targets(situation: Situation, spec: ScoresSpec, design: Design) -> Arrays:
    """Score noise, and targets that the gradients of all layers drive, by one layer's design."""
    weights, seed = seen_beyond(situation).weights, spec.encoding.seed
    drivers = _drivers(situation, spec.features[0])
    simulated = simulated_scores(design, drivers, weights, seed)
    return {
        "null": null_scores(design, weights, N_DRAWS, seed)[None],
        "simulated": simulated.reshape(1, len(simulated), -1, N_TUNINGS),
    }


@lru_cache(maxsize=1)
def _drivers(situation: Situation, source: Reference) -> Floats:
    """Return noiseless targets of random tuning to every layer, (n_rows, n_layers * N_TUNINGS).

    They lose their forward part as responses do: what a learned map misses of a gradient is alike
    in all layers, and would make simulated targets blunter than recorded ones.
    """
    targets = np.hstack(
        [
            tuned_targets(rows[slice(None)], [situation.encoding.seed, number])
            for number, rows in enumerate(layers(source, situation.root))
        ]
    )
    return np.asarray(seen_beyond(situation).responses(targets)[:, : targets.shape[1]])
