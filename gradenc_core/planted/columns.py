"""Planted studies as columns: responses to a world's recorded stimuli, in memory.

Features of a world are fixed, studies vary: each draws its noise ceiling, gradient share, tuning,
subjects and assignment, so that rates over studies are averages over what laboratories meet. The
columns are what stage `encode` scores: means of regions, and sensors at windows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from gradenc_core.planted.brain import (
    Array,
    Assignment,
    Brain,
    Features,
    Indices,
    Scenario,
    region_signals,
    scaled,
    sensor_signals,
)

REGION_STEP_MM = 10.0
VOXELS_PER_REGION = 10
SHARES = (0.02, 0.05, 0.1, 0.2, 0.4)
CEILINGS = (0.2, 0.9)
DIMENSIONS = (5, 10, 30, 64, None)
SUBJECTS = (1, 2, 4)
REGIONS = (8, 15)
GREATEST_COMMON_NOISE = 0.5
WINDOW_MEMORY = 0.5
"""Correlation of a sensor's noise in neighbouring windows."""
TIMES = np.round(np.arange(0.025, 0.9, 0.05), 3)
"""Centres of the windows, s."""
N_SENSORS = 3


@dataclass(frozen=True)
class Setting:
    """What is drawn for one study.

    Attributes
    ----------
    ceiling : float
        Noise ceiling r: greatest correlation that any prediction of a column can have, root mean
        square over a modality's columns.
    share : float
        Gradient share of the variance of the signal.
    n_dims : int or None
        Dimensions of a voxel's tuning; None: all of the layer.
    white : bool
        Whether these dimensions have equal variance, instead of that of their components.
    n_subjects, n_regions : int
        Subjects of each modality; regions of each hemisphere.
    own : bool
        Whether each subject has an assignment of regions to layers of its own.
    common_noise : float
        Share of the noise that all columns of a subject have in common.
    rectified : bool
        See `gradenc_core.planted.brain.Brain`.
    """

    scenario: Scenario
    ceiling: float
    share: float
    n_dims: int | None
    white: bool
    n_subjects: int
    n_regions: int
    own: bool
    common_noise: float
    rectified: bool


def draw_setting(
    scenario: Scenario,
    rng: np.random.Generator,
    share: float | None = None,
    ceiling: float | None = None,
) -> Setting:
    """Draw a study's setting; `share` and `ceiling` are fixed where they are given."""
    return Setting(
        scenario=scenario,
        ceiling=float(rng.uniform(*CEILINGS)) if ceiling is None else ceiling,
        share=float(rng.choice(SHARES)) if share is None else share,
        n_dims=DIMENSIONS[rng.integers(len(DIMENSIONS))],
        white=bool(rng.integers(2)),
        n_subjects=int(rng.choice(SUBJECTS)),
        n_regions=int(rng.choice(REGIONS)),
        own=bool(rng.integers(2)),
        common_noise=float(rng.uniform(0, GREATEST_COMMON_NOISE)),
        rectified=bool(rng.integers(2)),
    )


@dataclass(frozen=True)
class Study:
    """One planted study.

    Attributes
    ----------
    setting : Setting
    fmri : list of array, each (n_stimuli, 2 n_regions)
        Per subject, the mean response of each region: those of the left hemisphere first.
    meg : list of array, each (n_stimuli, n_sensors, n_windows)
        Per subject.
    fmri_signal, meg_signal : list of array
        The same without noise.
    """

    setting: Setting
    fmri: list[Array]
    meg: list[Array]
    fmri_signal: list[Array]
    meg_signal: list[Array]

    @property
    def position(self) -> Array:
        """Distance of every column of `fmri` to its hemisphere's first region, mm."""
        return np.tile(REGION_STEP_MM * np.arange(self.setting.n_regions), 2)

    @property
    def region(self) -> Indices:
        """Number of the region of every column of `fmri`."""
        return np.tile(np.arange(self.setting.n_regions), 2)


def plant_columns(features: Features, setting: Setting, rng: np.random.Generator) -> Study:
    """Plant a study as columns.

    Parameters
    ----------
    features : Features
        Every component of the world's layers; see `gradenc_core.planted.worlds`.
    setting : Setting
    rng : Generator
    """
    tuned_to = select_dimensions(features, setting.n_dims, setting.white, rng)
    brain = Brain(setting.scenario, tuned_to, setting.share, rng, setting.rectified)
    fmri = _fmri_signals(brain, setting)
    latencies = brain.latencies()
    meg = [sensor_signals(brain, latencies, TIMES, N_SENSORS) for _ in range(setting.n_subjects)]
    return Study(setting, _recorded(fmri, setting, rng), _recorded(meg, setting, rng), fmri, meg)


def plant_voxels(
    features: Features,
    scenario: Scenario,
    n: int,
    rng: np.random.Generator,
    share: float | None = None,
    ceiling: float | None = None,
) -> Array:
    """Plant one voxel in each of `n` brains that have nothing in common, (n_stimuli, n).

    Parameters are those of `plant_columns` and `draw_setting`.
    """
    columns = []
    for _ in range(n):
        setting = draw_setting(scenario, rng, share, ceiling)
        deep = scenario == "deep_only"
        layer = features.n_layers - 1 if deep else int(rng.integers(features.n_layers))
        tuned_to = select_dimensions(features.only(layer), setting.n_dims, setting.white, rng)
        brain = Brain(scenario, tuned_to, setting.share, rng, setting.rectified)
        signal = region_signals(brain, brain.assignment(1), 1)
        columns += _recorded(signal, setting, rng)
    return np.hstack(columns)


def select_dimensions(
    features: Features, n: int | None, white: bool, rng: np.random.Generator
) -> Features:
    """Draw the dimensions of tuning: `n` of each layer's first 4 n components.

    Never just the leading ones, which any encoding model would fit first.
    """

    def chosen(layer: Array) -> Array:
        n_first = layer.shape[1] if n is None else min(4 * n, layer.shape[1])
        kept = layer[:, np.sort(rng.permutation(n_first)[: n or n_first])]
        return scaled(kept / kept.std(axis=0) if white else kept)

    return replace(
        features,
        forward=[chosen(layer) for layer in features.forward],
        gradient=[chosen(layer) for layer in features.gradient],
        aside=[chosen(layer) for layer in features.aside],
    )


def _fmri_signals(brain: Brain, setting: Setting) -> list[Array]:
    """Return the noiseless means of every subject's regions, each (n_stimuli, 2 n_regions)."""
    shared = brain.assignment(setting.n_regions)
    signals = []
    for _ in range(setting.n_subjects):
        assignment = _individual(brain, setting.n_regions) if setting.own else shared
        means = [
            voxels.mean(axis=1)
            for _ in ("L", "R")
            for voxels in region_signals(brain, assignment, VOXELS_PER_REGION)
        ]
        signals.append(np.stack(means, axis=1))
    return signals


def _individual(brain: Brain, n_regions: int) -> Assignment:
    """Return a subject's own assignment: drawn anew, or with regions a layer earlier or later."""
    drawn = brain.assignment(n_regions)
    if brain.scenario in ("deep_only", "null_order"):
        return drawn
    steps = brain.rng.integers(-1, 2, n_regions)
    return replace(drawn, forward=np.clip(drawn.forward + steps, 0, brain.n_layers - 1))


def _recorded(signals: Sequence[Array], setting: Setting, rng: np.random.Generator) -> list[Array]:
    """Add noise at the study's ceiling: of all columns together, r is the root mean square."""
    power = float(np.mean([signal.var(axis=0).mean() for signal in signals]))
    size = np.sqrt(power * (1 / setting.ceiling**2 - 1)) if power else 1.0
    return [signal + size * _noise(signal.shape, setting.common_noise, rng) for signal in signals]


def _noise(shape: tuple[int, ...], common: float, rng: np.random.Generator) -> Array:
    """Draw noise of variance 1 that columns share in part; windows remember the one before."""
    own = rng.standard_normal(shape)
    joint = rng.standard_normal((shape[0], 1, *shape[2:]))
    noise = np.sqrt(1 - common) * own + np.sqrt(common) * joint
    if noise.ndim == 3:
        for window in range(1, shape[2]):
            kept = WINDOW_MEMORY * noise[..., window - 1]
            noise[..., window] = kept + np.sqrt(1 - WINDOW_MEMORY**2) * noise[..., window]
    return noise
