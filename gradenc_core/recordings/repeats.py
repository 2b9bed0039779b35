"""Responses as every reader returns them, and the averaging of repeats that readers share."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from gradenc_core.digests import KnownDigests, NothingKnown
from gradenc_core.recordings.ceilings import RepeatMoments
from gradenc_core.spelling import did_you_mean
from gradenc_core.stimuli.images import Manifest

Modality = Literal["fmri", "meg"]
Rows = NDArray[np.int64]
NORMALISATIONS = ("session", "none")
TRIALS_AT_ONCE = 64
STIMULUS = "stimulus"
"""Value of `trial_type` of the trials that are used."""


@dataclass(frozen=True)
class ResponseDescription:
    """One subject's recordings in one modality, known without reading the responses.

    Attributes
    ----------
    subject : str
    modality : {"fmri", "meg"}
    stimuli : tuple of str, (n_stimuli,)
        Ids of the images that were shown, in the manifest's order.
    n_repeats : array, (n_stimuli,)
        Trials of each.
    sessions : tuple of str, (n_stimuli,)
        Session of each stimulus whose trials are all of one, else "" (`session_of_stimuli`).
    coords : Dataset
        Only coordinates of the targets, and attrs of JSON's types. fmri, along voxel: roi,
        hemisphere ("L", "R"), x, y, z (mm) and i, j, k (int64, index in the volume); attrs
        volume_shape (3 ints) and affine (16 floats, row by row, from voxel index to mm). meg:
        sensor (names) with sensor_x, sensor_y, sensor_z (m), sensor_type ("mag", "grad") and
        sensor_loc (sensor, loc), MNE's 12 numbers, 0 where they are not finite; and time (s).
    files : dict
        Path below the folder -> SHA-256 of every file that the responses are read from.
    """

    subject: str
    modality: Modality
    stimuli: tuple[str, ...]
    n_repeats: NDArray[np.float64]
    sessions: tuple[str, ...]
    coords: xr.Dataset
    files: dict[str, str]


@dataclass(frozen=True)
class Responses:
    """Responses averaged over repeats.

    Attributes
    ----------
    mean : array of float32, (n_stimuli, n_voxels) or (n_stimuli, n_sensors, n_times)
        NaN for every stimulus where a target is NaN in any trial that is used.
    n_repeats : array, (n_stimuli,)
        Trials averaged.
    ncsnr : array of float32, (n_voxels,) or (n_sensors, n_times)
        Noise-ceiling signal-to-noise ratio; NaN for constant and for NaN targets.
    n_nan_targets : int
        Number of NaN targets.
    n_constant_targets : int
        Number of targets with one value, after normalisation, in all trials.
    """

    mean: NDArray[np.float32]
    n_repeats: NDArray[np.float64]
    ncsnr: NDArray[np.float32]
    n_nan_targets: int
    n_constant_targets: int


def stimulus_rows(
    stim_files: Sequence[str], trial_types: Sequence[str], manifest: Manifest, file: Path
) -> Rows:
    """Find the image of every trial.

    Parameters
    ----------
    stim_files, trial_types : sequence of str, (n_trials,)
        As written in `file`; trials of another type than "stimulus" are not looked up.
    manifest : Manifest
    file : Path
        Named in refusals.

    Returns
    -------
    array of int, (n_trials,)
        Place in `manifest.ids`, or -1 for trials that are not used.

    Raises
    ------
    ValueError
        If a stim_file is no image of the stimulus folder.
    """
    place = {name: i for i, name in enumerate(manifest.ids)}
    rows = np.full(len(stim_files), -1, dtype=np.int64)
    for i, (name, kind) in enumerate(zip(stim_files, trial_types, strict=True)):
        if kind != STIMULUS:
            continue
        if name not in manifest.first_of:
            raise _unknown_stimulus(name, i + 1, manifest, file)
        rows[i] = place[manifest.first_of[name]]
    return rows


def count_repeats(
    rows: Rows, manifest: Manifest, file: Path
) -> tuple[tuple[str, ...], NDArray[np.float64]]:
    """Return the ids that were shown, in the manifest's order, and the trials of each.

    Raises
    ------
    ValueError
        If no trial is used; `file` is named.
    """
    counts = np.bincount(rows[rows >= 0], minlength=len(manifest.ids))
    seen = np.flatnonzero(counts)
    if not seen.size:
        raise ValueError(
            f"{file} has no trial of an image; give trial_type {STIMULUS!r} to those that show one"
        )
    return tuple(manifest.ids[i] for i in seen), counts[seen].astype(np.float64)


def session_of_stimuli(rows: Rows, sessions: Sequence[str]) -> tuple[str, ...]:
    """Return the session of every stimulus that was shown, in the manifest's order.

    Parameters
    ----------
    rows : array of int, (n_trials,)
        `stimulus_rows` of all sessions.
    sessions : sequence of str, (n_trials,)
        Session of each trial.

    Returns
    -------
    tuple of str, (n_stimuli,)
        "" for a stimulus that was shown in several sessions, whose mean belongs to none of them.
    """
    names: dict[int, str] = {}
    for row, session in zip(rows.tolist(), sessions, strict=True):
        if row >= 0:
            names[row] = session if names.get(row, session) == session else ""
    return tuple(names[row] for row in sorted(names))


def average(
    sessions: Iterable[tuple[Rows, NDArray[Any]]],
    rows: Rows,
    shape: tuple[int, ...],
    normalise: str,
) -> Responses:
    """Average trials over repeats, one session in memory at a time.

    A z-scored target has mean 0 and variance (n) 1 over the used trials of a session; where it is
    constant, it becomes 0.

    Parameters
    ----------
    sessions : iterable of (array of int, (n_used,); array, (n_used, ...))
        The used trials of each session: the place of their image in the manifest, their values.
    rows : array of int, (n_trials,)
        `stimulus_rows` of all sessions.
    shape : tuple of int
        Shape of one trial.
    normalise : {"session", "none"}
        Whether each target is z-scored over the used trials of a session.
    """
    seen = np.unique(rows[rows >= 0])
    moments = RepeatMoments.empty(len(seen), shape)
    low, high = np.full(shape, np.inf), np.full(shape, -np.inf)
    for places, values in sessions:
        stimulus = np.searchsorted(seen, places)
        centre, scale = _centre_and_scale(values) if normalise == "session" else (0.0, 1.0)
        for part, trials in _in_parts(values):
            trials -= centre
            trials /= scale
            moments.add(stimulus[part], trials)
            np.minimum(low, trials.min(axis=0), out=low)
            np.maximum(high, trials.max(axis=0), out=high)
    return _responses(moments, low, high)


def check_normalise(normalise: str) -> None:
    """Refuse an unknown normalisation."""
    if normalise not in NORMALISATIONS:
        raise ValueError(f"normalise is {normalise!r}; give one of {', '.join(NORMALISATIONS)}")


def hash_files(
    folder: Path, paths: Iterable[Path], known: KnownDigests | None = None
) -> dict[str, str]:
    """Return path below `folder` -> SHA-256, sorted by path."""
    known = known or NothingKnown()
    digests = {}
    for path in paths:
        found = known.get(path)
        if found is None:
            with path.open("rb") as file:
                found = [hashlib.file_digest(file, "sha256").hexdigest()]
            known.keep(path, found)
        (digests[path.relative_to(folder).as_posix()],) = found
    return dict(sorted(digests.items()))


def _in_parts(values: NDArray[Any]) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """Yield few trials at a time as new float64 arrays, NaN where they are not finite."""
    for start in range(0, len(values), TRIALS_AT_ONCE):
        part = slice(start, start + TRIALS_AT_ONCE)
        trials = values[part].astype(np.float64)
        trials[~np.isfinite(trials)] = np.nan
        yield part, trials


def _centre_and_scale(values: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the mean and standard deviation that z-score a session's trials, (...) each."""
    centre, variance = np.zeros(values.shape[1:]), np.zeros(values.shape[1:])
    for _, trials in _in_parts(values):
        centre += trials.sum(axis=0) / len(values)
    for _, trials in _in_parts(values):
        variance += ((trials - centre) ** 2).sum(axis=0) / len(values)
    # Compared, since the rounded deviation of equal values is not always 0.
    constant = values.max(axis=0) == values.min(axis=0)
    return np.where(constant, values[0], centre), np.where(constant, 1.0, np.sqrt(variance))


def _responses(
    moments: RepeatMoments, low: NDArray[np.float64], high: NDArray[np.float64]
) -> Responses:
    missing = ~np.isfinite(moments.sums).all(axis=0)
    mean = moments.mean().astype(np.float32)
    mean[:, missing] = np.nan
    ratio = moments.ncsnr().astype(np.float32)
    constant = low == high
    # The variance of a constant is rounding error, and so would be its ratio.
    ratio[missing | constant] = np.nan
    n_repeats = moments.counts.astype(np.float64)
    return Responses(mean, n_repeats, ratio, int(missing.sum()), int(constant.sum()))


def _unknown_stimulus(name: str, row: int, manifest: Manifest, file: Path) -> ValueError:
    hint = did_you_mean(name, manifest.first_of)
    remedy = hint or f"; write a path below that folder, such as {manifest.ids[0]!r}"
    return ValueError(
        f"{file}, row {row}: stim_file {name!r} is no image of the stimulus folder{remedy}"
    )
