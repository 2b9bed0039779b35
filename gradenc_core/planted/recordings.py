"""Write planted responses as the BIDS and FIF files that the readers read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mne
import nibabel
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

TRIAL_S = 4.0
SHOWN_S = 3.0


def write_bids_subject(
    root: Path,
    subject: str,
    sessions: Sequence[tuple[NDArray[np.float32], Sequence[str]]],
    ijk: NDArray[np.integer],
    rois: Sequence[str],
    hemispheres: Sequence[str],
    affine: ArrayLike,
    shape: tuple[int, int, int],
) -> None:
    """Write single-trial betas in the layout of `gradenc_core.recordings.bids`.

    Parameters
    ----------
    root : Path
    subject : str
        Such as "sub-01".
    sessions : sequence of (array of float32, (n_trials, n_voxels); sequence of str, (n_trials,))
        Betas and images of the trials of ses-01, ses-02, ….
    ijk : array of int, (n_voxels, 3)
        Place of each voxel. The reader returns voxels in C order of the volume.
    rois, hemispheres : sequence of str, (n_voxels,)
        Region and "L" or "R" of each voxel.
    affine : array, (4, 4)
        From ijk to mm.
    shape : tuple of int
        Shape of the volume.
    """
    _write_labels(root / subject / "anat", subject, ijk, rois, hemispheres, affine, shape)
    for number, (betas, stim_files) in enumerate(sessions, start=1):
        session = f"ses-{number:02d}"
        folder = root / subject / session / "func"
        folder.mkdir(parents=True, exist_ok=True)
        start = f"{subject}_{session}_task-images"
        volumes = np.zeros((*shape, len(betas)), dtype=np.float32)
        volumes[tuple(np.asarray(ijk).T)] = betas.T
        _save(volumes, affine, folder / f"{start}_desc-betas_stat.nii.gz")
        events = pd.DataFrame({"onset": TRIAL_S * np.arange(len(betas)), "duration": SHOWN_S})
        events = events.assign(trial_type="stimulus", stim_file=list(stim_files))
        events.to_csv(folder / f"{start}_events.tsv", sep="\t", index=False)


def write_epochs_subject(
    root: Path,
    subject: str,
    data: NDArray[np.float32],
    stim_files: Sequence[str],
    sfreq: float,
    tmin: float,
    sensor_positions: NDArray[np.floating],
    sessions: Sequence[int],
) -> None:
    """Write epochs of magnetometers in the layout of `gradenc_core.recordings.epochs`.

    Parameters
    ----------
    root : Path
    subject : str
        Such as "sub-01".
    data : array of float32, (n_trials, n_sensors, n_times)
        Field in T.
    stim_files : sequence of str, (n_trials,)
        Image of each trial.
    sfreq : float
        Sampling frequency in Hz.
    tmin : float
        First time in s after stimulus onset.
    sensor_positions : array, (n_sensors, 3)
        In m.
    sessions : sequence of int, (n_trials,)
        Session of each trial.
    """
    n_trials, n_sensors, n_times = data.shape
    info = mne.create_info([f"MEG{i + 1:04d}" for i in range(n_sensors)], sfreq, "mag")
    for channel, position in zip(info["chs"], sensor_positions, strict=True):
        channel["loc"][:] = [*position, *np.eye(3).ravel()]
    events = np.zeros((n_trials, 3), dtype=np.int64)
    events[:, 0], events[:, 2] = n_times * np.arange(n_trials), 1
    metadata = pd.DataFrame({"stim_file": list(stim_files), "session": list(sessions)})
    epochs = mne.EpochsArray(
        data.astype(np.float64),
        info,
        events,
        tmin,
        {"stimulus": 1},
        metadata=metadata,
        verbose="error",
    )
    root.mkdir(parents=True, exist_ok=True)
    epochs.save(root / f"{subject}-epo.fif", fmt="single", overwrite=True, verbose="error")


def _write_labels(
    folder: Path,
    subject: str,
    ijk: NDArray[np.integer],
    rois: Sequence[str],
    hemispheres: Sequence[str],
    affine: ArrayLike,
    shape: tuple[int, int, int],
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    regions = sorted(set(zip(rois, hemispheres, strict=True)))
    index_of = {region: i for i, region in enumerate(regions, start=1)}
    labels = np.zeros(shape, dtype=np.int16)
    labels[tuple(np.asarray(ijk).T)] = [
        index_of[region] for region in zip(rois, hemispheres, strict=True)
    ]
    _save(labels, affine, folder / f"{subject}_desc-rois_dseg.nii.gz")
    table = pd.DataFrame(regions, columns=["name", "hemisphere"])
    table.insert(0, "index", range(1, len(regions) + 1))
    table.to_csv(folder / f"{subject}_desc-rois_dseg.tsv", sep="\t", index=False)


def _save(values: NDArray[Any], affine: ArrayLike, path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(values, np.asarray(affine, dtype=np.float64)), path)
