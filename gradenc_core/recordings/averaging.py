"""Means over repeats, one session in memory at a time.

A target that has no data in a session, such as a voxel outside its field of view, is averaged over
the other sessions: what files hold in the place of missing data (zeros, NaN) is never averaged in.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradenc_core.recordings.ceilings import CeilingRecipe, ncsnr, ncsnr_of_repetitions
from gradenc_core.recordings.repeats import STIMULUS, Rows

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
TRIALS_AT_ONCE = 64


@dataclass(frozen=True)
class SessionTrials:
    """The used trials of one session.

    Attributes
    ----------
    name : str
        Such as "ses-01".
    rows : array of int, (n_used,)
        Place of each trial's image in the manifest.
    values : array, (n_used, ...)
    places : sequence of str, (n_used,)
        File and row of each trial, for refusals.
    """

    name: str
    rows: Rows
    values: NDArray[Any]
    places: Sequence[str]


@dataclass(frozen=True)
class Responses:
    """Responses averaged over repeats.

    Attributes
    ----------
    mean : array of float32, (n_stimuli, n_voxels) or (n_stimuli, n_sensors, n_times)
        NaN for every stimulus where a target is NaN in any trial of a session that has data of it,
        and where some stimulus was shown only in sessions without.
    n_repeats : array, (n_stimuli,)
        Trials of each stimulus.
    target_repeats : array of float32, (n_voxels,) or (n_sensors, n_times)
        Trials in a mean response of each target, `effective_repeats`.
    ncsnr : array of float32, (n_voxels,) or (n_sensors, n_times)
        Noise-ceiling signal-to-noise ratio; NaN where the mean is NaN.
    ncsnr_owners : array of float32, as `ncsnr`, or None
        By the owners' recipe, where there is one; NaN also where a target lacks the images for it.
    n_nan_targets : int
        Number of targets whose mean is NaN though they have data.
    n_constant_targets : int
        Number of targets that have no data in any session: zero or of one value throughout.
    without_data : dict
        Session -> number of targets that have no data in it but in another; no entry for 0.
    """

    mean: NDArray[np.float32]
    n_repeats: Floats
    target_repeats: NDArray[np.float32]
    ncsnr: NDArray[np.float32]
    ncsnr_owners: NDArray[np.float32] | None
    n_nan_targets: int
    n_constant_targets: int
    without_data: dict[str, int]


def average(
    sessions: Iterable[SessionTrials],
    rows: Rows,
    shape: tuple[int, ...],
    normalise: str,
    recipe: CeilingRecipe | None = None,
) -> Responses:
    """Average trials over repeats, one session in memory at a time.

    A z-scored target has mean 0 and variance (n) 1 over the used trials of a session.

    Parameters
    ----------
    sessions : iterable of SessionTrials
    rows : array of int, (n_trials,)
        `stimulus_rows` of all sessions.
    shape : tuple of int
        Shape of one trial.
    normalise : {"session", "none"}
        Whether each target is z-scored over the used trials of a session.
    recipe : CeilingRecipe, optional
        Of the data's owners.

    Raises
    ------
    ValueError
        If a session has no data of any target, or a trial of it none.
    """
    seen, counts = np.unique(rows[rows >= 0], return_counts=True)
    n_targets = int(np.prod(shape))
    sums = _Sums.empty(len(seen), n_targets)
    repetitions = _Repetitions.empty(counts, n_targets, recipe)
    for session in sessions:
        values = session.values.reshape(len(session.values), -1)
        has = has_data(values)
        _check_data(session, values, has)
        stimulus = np.searchsorted(seen, session.rows)
        for part, trials in _prepared(values, normalise):
            repetitions.add(stimulus[part], np.where(has, trials, np.nan))
            sums.add(stimulus[part], np.where(has, trials, 0.0))
        sums.close(session.name, np.bincount(stimulus, minlength=len(seen)), has)
    return _responses(sums, repetitions, shape, recipe)


def effective_repeats(counts: NDArray[np.integer], own: NDArray[np.integer]) -> float:
    """Return how many trials a mean response of a target has, as scores weigh stimuli.

    The noise variance of a mean is 1 / trials; scores weigh a stimulus by the trials that it has
    in all. For a target with data in every session this is the mean number of trials.

    Parameters
    ----------
    counts, own : arrays of int, (n_stimuli,)
        Trials of each stimulus in all sessions, and in those that have data of the target.
    """
    return float(counts.sum() / (counts / own).sum())


@dataclass
class _Sums:
    """Sums over trials of (n_stimuli, n_targets), and which session has which targets."""

    sums: Floats
    squares: Floats
    names: list[str]
    counts: list[NDArray[np.int64]]
    """Of each session, the trials of each stimulus."""
    has: list[Mask]
    """Of each session, the targets that it has data of."""

    @classmethod
    def empty(cls, n_stimuli: int, n_targets: int) -> _Sums:
        full = (n_stimuli, n_targets)
        return cls(np.zeros(full), np.zeros(full), [], [], [])

    def add(self, stimulus: NDArray[np.int64], trials: Floats) -> None:
        np.add.at(self.sums, stimulus, trials)
        np.add.at(self.squares, stimulus, trials**2)

    def close(self, name: str, counts: NDArray[np.int64], has: Mask) -> None:
        self.names.append(name)
        self.counts.append(counts)
        self.has.append(has)

    def patterns(self) -> Iterator[tuple[NDArray[np.int64], NDArray[Any] | slice]]:
        """Yield the targets that the same sessions have, and their trials of every stimulus."""
        has, counts = np.array(self.has), np.array(self.counts)
        if has.all():
            yield counts.sum(axis=0), slice(None)
            return
        patterns, of = np.unique(has, axis=1, return_inverse=True)
        for i, pattern in enumerate(patterns.T):
            yield pattern.astype(np.int64) @ counts, np.flatnonzero(of.ravel() == i)


@dataclass
class _Repetitions:
    """The trials of images that are z-scored within repetitions, in the order of time."""

    trials: NDArray[np.float32]
    """(n_images, n_repeats, n_targets)"""
    place: NDArray[np.int64]
    """Of each stimulus, its image there; -1 for others."""
    n_added: NDArray[np.int64]

    @classmethod
    def empty(
        cls, counts: NDArray[np.int64], n_targets: int, recipe: CeilingRecipe | None
    ) -> _Repetitions:
        place, n_repeats = np.full(len(counts), -1), 0
        if recipe is not None and recipe.pool == "repetition":
            chosen, n_repeats = np.flatnonzero(counts == recipe.images), recipe.images
            place[chosen] = np.arange(len(chosen))
        n_images = int((place >= 0).sum())
        trials = np.full((n_images, n_repeats, n_targets), np.nan, dtype=np.float32)
        return cls(trials, place, np.zeros(n_images, dtype=np.int64))

    def add(self, stimulus: NDArray[np.int64], trials: Floats) -> None:
        for image, trial in zip(self.place[stimulus].tolist(), trials, strict=True):
            if image >= 0:
                self.trials[image, self.n_added[image]] = trial
                self.n_added[image] += 1


def _responses(
    sums: _Sums, repetitions: _Repetitions, shape: tuple[int, ...], recipe: CeilingRecipe | None
) -> Responses:
    has, counts = np.array(sums.has), np.sum(sums.counts, axis=0)
    mean = np.full(sums.sums.shape, np.nan, dtype=np.float32)
    ratio, owners, repeats = np.full((3, has.shape[1]), np.nan, dtype=np.float32)
    for own, targets in sums.patterns():
        if own.all():
            of_trials = sums.sums[:, targets], sums.squares[:, targets], own
            mean[:, targets] = of_trials[0] / own[:, None]
            ratio[targets] = ncsnr(*of_trials)
            repeats[targets] = effective_repeats(counts, own)
            if recipe is not None and recipe.pool == "session":
                owners[targets] = ncsnr(*of_trials, exactly=recipe.images)
    if recipe is not None and recipe.pool == "repetition":
        owners = ncsnr_of_repetitions(repetitions.trials).astype(np.float32)
    missing, somewhere = np.isnan(mean).any(axis=0), has.any(axis=0)
    for values in (mean, ratio, owners):
        values[..., missing] = np.nan
    lacking = (somewhere & ~has).sum(axis=1).tolist()
    return Responses(
        mean.reshape(-1, *shape),
        counts.astype(np.float64),
        repeats.reshape(shape),
        ratio.reshape(shape),
        None if recipe is None else owners.reshape(shape),
        int((missing & somewhere).sum()),
        int((~somewhere).sum()),
        {name: n for name, n in zip(sums.names, lacking, strict=True) if n},
    )


def has_data(values: NDArray[Any]) -> Mask:
    """Return which targets a session has data of, (n_targets,).

    Files hold zeros, NaN or another constant where nothing was measured; measured values vary.

    Parameters
    ----------
    values : array, (n_trials, n_targets)
        A single trial has data where it is finite and not 0.
    """
    low, high = np.fmin.reduce(values), np.fmax.reduce(values)
    if len(values) == 1:
        return np.asarray(np.isfinite(low) & (low != 0))
    return np.asarray(low < high)


def _check_data(session: SessionTrials, values: NDArray[Any], has: Mask) -> None:
    if not has.any():
        raise ValueError(
            f"session {session.name} has no data, from {session.places[0]} to "
            f"{session.places[-1]}: every target is 0, NaN or constant in all of its used trials; "
            "put its files right or leave the session out"
        )
    for place, trial in zip(session.places, values, strict=True):
        if not np.isfinite(trial[has]).any():
            raise ValueError(
                f"{place}: the trial has no data, every target is NaN; give it another trial_type "
                f"than {STIMULUS!r}, so that it is not used"
            )


def _prepared(values: NDArray[Any], normalise: str) -> Iterator[tuple[slice, Floats]]:
    """Yield few trials at a time, z-scored over all of them where it is asked for."""
    centre, scale = _centre_and_scale(values) if normalise == "session" else (0.0, 1.0)
    for part, trials in _in_parts(values):
        yield part, (trials - centre) / scale


def _in_parts(values: NDArray[Any]) -> Iterator[tuple[slice, Floats]]:
    """Yield few trials at a time as new float64 arrays, NaN where they are not finite."""
    for start in range(0, len(values), TRIALS_AT_ONCE):
        part = slice(start, start + TRIALS_AT_ONCE)
        trials = values[part].astype(np.float64)
        trials[~np.isfinite(trials)] = np.nan
        yield part, trials


def _centre_and_scale(values: NDArray[Any]) -> tuple[Floats, Floats]:
    """Return the mean and standard deviation that z-score a session's trials, (n_targets,) each."""
    centre, variance = np.zeros(values.shape[1]), np.zeros(values.shape[1])
    for _, trials in _in_parts(values):
        centre += trials.sum(axis=0) / len(values)
    for _, trials in _in_parts(values):
        variance += ((trials - centre) ** 2).sum(axis=0) / len(values)
    # Those without variance have no data, and are not used.
    return centre, np.where(variance == 0, 1.0, np.sqrt(variance))
