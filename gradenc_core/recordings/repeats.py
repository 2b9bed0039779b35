"""What every reader says of a subject's recordings, and how it finds the image of a trial."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from gradenc_core.digests import KnownDigests, NothingKnown
from gradenc_core.spelling import did_you_mean
from gradenc_core.stimuli.images import Manifest

Modality = Literal["fmri", "meg"]
Rows = NDArray[np.int64]
NORMALISATIONS = ("session", "none")
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
        hemisphere ("L", "R", "n/a"), x, y, z (mm) and i, j, k (int64, index in the volume); attrs
        volume_shape (3 ints) and affine (16 floats, row by row, from voxel index to mm). meg:
        sensor (names) with sensor_x, sensor_y, sensor_z (m), sensor_type ("mag", "grad") and
        sensor_loc (sensor, loc), MNE's 12 numbers, 0 where they are not finite; and time (s).
    files : dict
        Path below the folder -> SHA-256 of every file that the responses are read from.
    n_sessions : int
        Sessions that are read.
    left_out : tuple of str
        What is not read or not used, a phrase each.
    """

    subject: str
    modality: Modality
    stimuli: tuple[str, ...]
    n_repeats: NDArray[np.float64]
    sessions: tuple[str, ...]
    coords: xr.Dataset
    files: dict[str, str]
    n_sessions: int = 1
    left_out: tuple[str, ...] = ()


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


def unused_trials(rows: Rows) -> tuple[str, ...]:
    """Say how many trials are not used; nothing where all are."""
    n_unused = int((rows < 0).sum())
    return (f"{n_unused} trials of another trial_type than {STIMULUS!r}",) if n_unused else ()


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


def check_normalise(normalise: str, rows: Rows, sessions: Sequence[str]) -> None:
    """Refuse an unknown normalisation, and sessions that cannot be z-scored.

    Parameters
    ----------
    normalise : {"session", "none"}
    rows : array of int, (n_trials,)
        `stimulus_rows` of all sessions.
    sessions : sequence of str, (n_trials,)
        Session of each trial.
    """
    if normalise not in NORMALISATIONS:
        raise ValueError(f"normalise is {normalise!r}; give one of {', '.join(NORMALISATIONS)}")
    used = Counter(name for row, name in zip(rows, sessions, strict=True) if row >= 0)
    alone = [name for name, n_trials in used.items() if n_trials == 1]
    if normalise == "session" and alone:
        raise ValueError(
            f"session {alone[0]} has one used trial, which cannot be z-scored; leave the session "
            "out, or give normalise none"
        )


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


def refuse_twice(paths: Iterable[Path], folder: Path, digests: Mapping[str, str]) -> None:
    """Refuse recordings that lie there under two names: their trials would count twice.

    Parameters
    ----------
    paths : iterable of Path
        Files that hold trials.
    folder, digests
        As `hash_files` takes and returns them.
    """
    first: dict[str, Path] = {}
    for path in paths:
        other = first.setdefault(digests[path.relative_to(folder).as_posix()], path)
        if other != path:
            raise ValueError(f"{path} and {other} have the same content; keep one of them there")


def _unknown_stimulus(name: str, row: int, manifest: Manifest, file: Path) -> ValueError:
    hint = did_you_mean(name, manifest.first_of)
    remedy = hint or f"; write a path below that folder, such as {manifest.ids[0]!r}"
    return ValueError(
        f"{file}, row {row}: stim_file {name!r} is no image of the stimulus folder{remedy}"
    )
