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

from gradenc_core.recordings.ceilings import ncsnr
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
    n_nan_targets: int
    n_constant_targets: int
    without_data: dict[str, int]


def average(
    sessions: Iterable[SessionTrials], rows: Rows, shape: tuple[int, ...], normalise: str
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

    Raises
    ------
    ValueError
        If a session has no data of any target, or a trial of it none.
    """
    sums = _Sums.empty(np.unique(rows[rows >= 0]), int(np.prod(shape)))
    for session in sessions:
        sums.add(session, normalise)
    return sums.responses(shape)


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

    seen: Rows
    sums: Floats
    squares: Floats
    names: list[str]
    counts: list[NDArray[np.int64]]
    """Of each session, the trials of each stimulus."""
    has: list[Mask]
    """Of each session, the targets that it has data of."""

    @classmethod
    def empty(cls, seen: Rows, n_targets: int) -> _Sums:
        full = (len(seen), n_targets)
        return cls(seen, np.zeros(full), np.zeros(full), [], [], [])

    def add(self, session: SessionTrials, normalise: str) -> None:
        values = session.values.reshape(len(session.values), -1)
        has = has_data(values)
        _check_data(session, values, has)
        stimulus = np.searchsorted(self.seen, session.rows)
        centre, scale = _centre_and_scale(values) if normalise == "session" else (0.0, 1.0)
        for part, trials in _in_parts(values):
            trials -= centre
            trials /= scale
            trials[:, ~has] = 0.0
            np.add.at(self.sums, stimulus[part], trials)
            np.add.at(self.squares, stimulus[part], trials**2)
        self.names.append(session.name)
        self.counts.append(np.bincount(stimulus, minlength=len(self.seen)))
        self.has.append(has)

    def responses(self, shape: tuple[int, ...]) -> Responses:
        has, counts = np.array(self.has), np.array(self.counts)
        n_targets = has.shape[1]
        mean = np.full(self.sums.shape, np.nan, dtype=np.float32)
        ratio, repeats = np.full((2, n_targets), np.nan, dtype=np.float32)
        # Targets that the same sessions have share the trials of every stimulus.
        for pattern, targets in _patterns(has):
            own = pattern @ counts
            if own.all():
                sums, squares = self.sums[:, targets], self.squares[:, targets]
                mean[:, targets] = sums / own[:, None]
                ratio[targets] = ncsnr(sums, squares, own)
                repeats[targets] = effective_repeats(counts.sum(axis=0), own)
        missing, somewhere = np.isnan(mean).any(axis=0), has.any(axis=0)
        mean[:, missing] = np.nan
        ratio[missing] = np.nan
        lacking = (somewhere & ~has).sum(axis=1).tolist()
        return Responses(
            mean.reshape(-1, *shape),
            counts.sum(axis=0).astype(np.float64),
            repeats.reshape(shape),
            ratio.reshape(shape),
            int((missing & somewhere).sum()),
            int((~somewhere).sum()),
            {name: n for name, n in zip(self.names, lacking, strict=True) if n},
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


def _patterns(has: Mask) -> Iterator[tuple[NDArray[np.int64], NDArray[Any] | slice]]:
    """Yield sets of sessions, (n_sessions,) of 0 and 1, and the targets that have just these."""
    if has.all():
        yield np.ones(len(has), dtype=np.int64), slice(None)
        return
    patterns, of = np.unique(has, axis=1, return_inverse=True)
    for i, pattern in enumerate(patterns.T):
        yield pattern.astype(np.int64), np.flatnonzero(of.ravel() == i)


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
