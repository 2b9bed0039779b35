"""Single-trial fMRI betas in a BIDS-like folder.

Layout, for a subject `sub-01` and its session `ses-01`::

    <root>/sub-01/ses-01/func/sub-01_ses-01_task-images_desc-betas_stat.nii.gz
        4-D, (x, y, z, trial): one volume of betas per trial.
    <root>/sub-01/ses-01/func/sub-01_ses-01_task-images_events.tsv
        onset, duration, trial_type, stim_file: one row per volume, in the volumes' order. Rows of
        another trial_type than "stimulus", such as catch trials, are not used. stim_file is a path
        below the stimulus folder.
    <root>/sub-01/anat/sub-01_desc-rois_dseg.nii.gz
        3-D, on the grid of the betas: the number of each voxel's region; 0 and -1 belong to none.
    <root>/sub-01/anat/sub-01_desc-rois_dseg.tsv
        index, name, hemisphere ("L" or "R"): one row per region and hemisphere. Without the column,
        or with "n/a", a region is of both, and its distances are from a seed region of both.

The targets are the labelled voxels, in C order of the volume.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradenc_core.digests import KnownDigests
from gradenc_core.recordings.averaging import Responses, SessionTrials, average
from gradenc_core.recordings.ceilings import recipe_of
from gradenc_core.recordings.repeats import (
    ResponseDescription,
    Rows,
    check_normalise,
    count_repeats,
    hash_files,
    refuse_twice,
    session_of_stimuli,
    stimulus_rows,
    unused_trials,
)
from gradenc_core.recordings.voxels import (
    UNREADABLE,
    Voxels,
    damaged,
    existing,
    load_nifti,
    read_tsv,
    read_voxels,
    tsv_beside,
    voxel_coords,
)
from gradenc_core.spelling import did_you_mean
from gradenc_core.stimuli.images import Manifest

BETAS = "task-images_desc-betas_stat.nii.gz"
EVENTS = "task-images_events.tsv"
EVENT_COLUMNS = ("onset", "duration", "trial_type", "stim_file")
VOLUMES_AT_ONCE = 32
AFFINE_TOLERANCE = 1e-3


@dataclass(frozen=True)
class _Session:
    name: str
    betas: Path
    events: Path
    rows: Rows
    """Place of each volume's image in the manifest, (n_volumes,); -1 where it is not used."""


def list_subjects(folder: Path) -> list[str]:
    """Return the subjects of a folder, sorted: its subfolders that hold sessions.

    Raises
    ------
    FileNotFoundError
        If there is no such folder or it holds no subject.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}; name the one that holds sub-*/ses-*")
    subjects = sorted({path.parent.name for path in folder.glob("[!.]*/ses-*") if path.is_dir()})
    if not subjects:
        raise FileNotFoundError(f"{folder} holds no subject; put sessions at {folder}/sub-*/ses-*")
    return subjects


def passed_over(folder: Path) -> list[str]:
    """Return what looks like a subject but holds no session, a phrase each."""
    subjects = list_subjects(folder)
    others = sorted(p.name for p in folder.glob("sub-*") if p.is_dir() and p.name not in subjects)
    return [f"{name}, which has no folder ses-*" for name in others]


def describe(
    folder: Path,
    subject: str,
    manifest: Manifest,
    *,
    normalise: str = "session",
    rois: Sequence[str] | None = None,
    sessions: Sequence[str] | None = None,
    ceiling: Mapping[str, Any] | None = None,
    known: KnownDigests | None = None,
) -> ResponseDescription:
    """Describe a subject's responses from headers, events and labels, without the betas.

    Parameters
    ----------
    folder : Path
        The root of the layout above.
    subject : str
        Name of the subject's folder, such as "sub-01".
    manifest : Manifest
        The images that stim_file may name.
    normalise : {"session", "none"}
        Whether betas are z-scored per voxel over the used trials of a session.
    rois : sequence of str, optional
        The regions whose voxels are targets; all by default.
    sessions : sequence of str, optional
        Names of the sessions' folders, such as "ses-01", to read; all by default.
    ceiling : mapping, optional
        Fields of the `CeilingRecipe` of the data's owners.
    known : KnownDigests, optional
        Digests of files that need not be read again.

    Raises
    ------
    FileNotFoundError
        If a file of the layout is missing.
    ValueError
        If files are unreadable or disagree, or an option is unknown.
    """
    opened, voxels = _inspect(folder, subject, manifest, rois, sessions)
    rows = np.concatenate([session.rows for session in opened])
    names = [session.name for session in opened for _ in session.rows]
    check_normalise(normalise, rows, names)
    stimuli, n_repeats = count_repeats(rows, manifest, opened[0].events)
    recipe_of(ceiling, n_repeats)
    paths = [voxels.file, tsv_beside(voxels.file)]
    for session in opened:
        paths += [session.betas, session.events]
    files = hash_files(folder, paths, known)
    refuse_twice([session.betas for session in opened], folder, files)
    return ResponseDescription(
        subject,
        "fmri",
        stimuli,
        n_repeats,
        session_of_stimuli(rows, names),
        voxel_coords(voxels),
        files,
        len(opened),
        (*_sessions_passed_over(folder / subject, subject, names), *unused_trials(rows)),
    )


def read(
    folder: Path,
    subject: str,
    manifest: Manifest,
    *,
    normalise: str = "session",
    rois: Sequence[str] | None = None,
    sessions: Sequence[str] | None = None,
    ceiling: Mapping[str, Any] | None = None,
) -> Responses:
    """Read a subject's betas, averaged over repeats, with one session in memory at a time.

    Parameters and refusals are those of `describe`; rows and voxels have its order.
    """
    opened, voxels = _inspect(folder, subject, manifest, rois, sessions)
    rows = np.concatenate([session.rows for session in opened])
    check_normalise(normalise, rows, [session.name for session in opened for _ in session.rows])
    _, n_repeats = count_repeats(rows, manifest, opened[0].events)
    recipe = recipe_of(ceiling, n_repeats)
    used = (_used_trials(session, voxels) for session in opened if (session.rows >= 0).any())
    return average(used, rows, (len(voxels.ijk),), normalise, recipe)


def _inspect(
    folder: Path,
    subject: str,
    manifest: Manifest,
    rois: Sequence[str] | None,
    sessions: Sequence[str] | None,
) -> tuple[list[_Session], Voxels]:
    """Check a subject's files against each other, reading no betas."""
    if not (folder / subject).is_dir():
        hint = did_you_mean(subject, list_subjects(folder))
        raise FileNotFoundError(f"{folder} holds no subject {subject!r}{hint or '; add it'}")
    pairs = dict(_session_files(folder / subject, subject))
    chosen = pairs if sessions is None else _known_sessions(sessions, pairs, folder / subject)
    voxels = read_voxels(folder / subject / "anat" / f"{subject}_desc-rois_dseg.nii.gz", rois)
    return [_open_session(name, *pairs[name], voxels, manifest) for name in chosen], voxels


def _session_files(folder: Path, subject: str) -> Iterator[tuple[str, tuple[Path, Path]]]:
    """Yield the name, and the betas and the events, of every session that has either."""
    found = False
    for session in sorted(path for path in folder.glob("ses-*") if path.is_dir()):
        start = session / "func" / f"{subject}_{session.name}_"
        betas, events = Path(f"{start}{BETAS}"), Path(f"{start}{EVENTS}")
        _refuse_strays(session / "func", betas, events)
        if betas.is_file() or events.is_file():
            yield session.name, (existing(betas), existing(events))
            found = True
    if not found:
        raise FileNotFoundError(
            f"{folder} holds no session; put betas at ses-01/func/{subject}_ses-01_{BETAS}"
        )


def _sessions_passed_over(folder: Path, subject: str, read: Sequence[str]) -> list[str]:
    """Return the sessions that have no betas, or were not chosen."""
    others = [p.name for p in sorted(folder.glob("ses-*")) if p.is_dir() and p.name not in read]
    if not others:
        return []
    return [f"{', '.join(others)}, not chosen or without func/{subject}_{others[0]}_{BETAS}"]


def _known_sessions(sessions: Sequence[str], found: Iterable[str], folder: Path) -> list[str]:
    """Return the chosen sessions in the order of the folder."""
    names = list(found)
    for name in sessions:
        if name not in names:
            hint = did_you_mean(name, names) or f"; give some of {', '.join(names)}"
            raise ValueError(f"{folder} holds no session {name!r}{hint}")
    return [name for name in names if name in sessions]


def _refuse_strays(folder: Path, *expected: Path) -> None:
    """Refuse betas and events of other names (runs, say), which would be left out unnoticed."""
    for path in sorted(folder.glob("[!.]*task-images*")):
        if path.name.endswith(("_stat.nii", "_stat.nii.gz", "_events.tsv")) and (
            path not in expected
        ):
            names = " and ".join(one.name for one in expected)
            raise ValueError(f"{path} would not be read; a session's files are {names}")


def _open_session(
    name: str, betas: Path, events: Path, voxels: Voxels, manifest: Manifest
) -> _Session:
    image = load_nifti(betas)
    if len(image.shape) != 4:
        raise ValueError(
            f"{betas} has shape {image.shape}, which is no series of volumes; join a session's "
            "volumes, one per trial, along a fourth axis"
        )
    if image.shape[:3] != voxels.shape:
        raise ValueError(
            f"{betas} has volumes of shape {image.shape[:3]} but {voxels.file} has {voxels.shape}; "
            "resample the labels to the grid of the betas"
        )
    if not np.allclose(image.affine, voxels.affine, rtol=0, atol=AFFINE_TOLERANCE):
        raise ValueError(
            f"{betas} and {voxels.file} have different affines; resample the labels to the grid "
            "of the betas"
        )
    table = read_tsv(events, EVENT_COLUMNS)
    if len(table) != image.shape[3]:
        raise ValueError(
            f"{betas} has {image.shape[3]} volumes but {events} has {len(table)} rows; give one "
            "row per volume, catch trials included"
        )
    names = [row["stim_file"] for row in table]
    kinds = [row["trial_type"] for row in table]
    return _Session(name, betas, events, stimulus_rows(names, kinds, manifest, events))


def _used_trials(session: _Session, voxels: Voxels) -> SessionTrials:
    used = np.flatnonzero(session.rows >= 0)
    places = [f"{session.events}, row {row + 1}" for row in used.tolist()]
    return SessionTrials(session.name, session.rows[used], _betas(session, voxels)[used], places)


def _betas(session: _Session, voxels: Voxels) -> NDArray[np.float32]:
    """Read the trials of a session, (n_volumes, n_voxels)."""
    # Volumes lie one after the other, so a file kept open is decompressed only once.
    data = load_nifti(session.betas, keep_file_open=True).dataobj
    n_volumes = len(session.rows)
    trials = np.empty((n_volumes, len(voxels.ijk)), dtype=np.float32)
    x, y, z = voxels.ijk.T
    try:
        for start in range(0, n_volumes, VOLUMES_AT_ONCE):
            part = slice(start, min(start + VOLUMES_AT_ONCE, n_volumes))
            trials[part] = data[..., part][x, y, z].T
    except UNREADABLE as error:
        raise damaged(session.betas, error) from error
    return trials
