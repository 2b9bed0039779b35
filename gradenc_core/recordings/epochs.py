"""MEG epochs in FIF files, as MNE writes them.

Layout: `<root>/<subject>-epo.fif` or `<root>/<subject>/<subject>-epo.fif`; files that MNE split are
read through the first, whatever the others are called. The epochs' metadata has one row per epoch
and the columns

- stim_file: path of the image below the stimulus folder;
- trial_type (optional): epochs of another type than "stimulus", such as catch trials, are not used;
- session (optional): the session of each epoch; without it, all epochs are of one.

The targets are the good MEG sensors (or only the magnetometers or the gradiometers) at every time;
projectors in the file are applied.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mne
import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from gradenc_core.digests import KnownDigests
from gradenc_core.recordings.averaging import Responses, SessionTrials, average
from gradenc_core.recordings.repeats import (
    STIMULUS,
    ResponseDescription,
    Rows,
    check_normalise,
    count_repeats,
    hash_files,
    session_of_stimuli,
    stimulus_rows,
)
from gradenc_core.spelling import did_you_mean
from gradenc_core.stimuli.images import Manifest

ENDING = "-epo.fif"
PICKS = {"meg": "MEG", "mag": "magnetometer", "grad": "gradiometer"}
EPOCHS_AT_ONCE = 64
# All that MNE raises for a damaged, truncated or incomplete file.
_UNREADABLE = (OSError, EOFError, ValueError, RuntimeError, KeyError, IndexError, TypeError)


@dataclass(frozen=True)
class _Recording:
    """Epochs of a file, not read yet, with the sensors and times that are targets."""

    file: Path
    epochs: Any
    rows: Rows
    sessions: NDArray[Any]
    sensors: NDArray[np.int64]
    times: NDArray[np.int64]


def list_subjects(folder: Path) -> list[str]:
    """Return the subjects of a folder, sorted.

    Raises
    ------
    FileNotFoundError
        If there is no such folder or it holds no epochs.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}; name the one that holds *{ENDING}")
    flat = {path.name.removesuffix(ENDING) for path in folder.glob(f"[!.]*{ENDING}")}
    nested = {
        path.parent.name
        for path in folder.glob(f"[!.]*/*{ENDING}")
        if path.name == path.parent.name + ENDING
    }
    if not flat | nested:
        raise FileNotFoundError(f"{folder} holds no epochs; save them as {folder}/sub-01{ENDING}")
    return sorted(flat | nested)


def describe(
    folder: Path,
    subject: str,
    manifest: Manifest,
    *,
    normalise: str = "session",
    picks: str = "meg",
    tmin: float | None = None,
    tmax: float | None = None,
    known: KnownDigests | None = None,
) -> ResponseDescription:
    """Describe a subject's responses from header and metadata, without the epochs' data.

    Parameters
    ----------
    folder : Path
        The root of the layout above.
    subject : str
    manifest : Manifest
        The images that stim_file may name.
    picks : {"meg", "mag", "grad"}
        Whether magnetometers and gradiometers are targets, or one kind alone.
    normalise : {"session", "none"}
        Whether each sensor and time is z-scored over the used epochs of a session.
    tmin, tmax : float, optional
        First and last time that are targets, in s after stimulus onset; all by default.
    known : KnownDigests, optional
        Digests of files that need not be read again.

    Raises
    ------
    FileNotFoundError
        If there are no such epochs.
    ValueError
        If they are unreadable, lack metadata or sensors, or an option is unknown.
    """
    recording = _open(folder, subject, manifest, picks, tmin, tmax)
    check_normalise(normalise, recording.rows, recording.sessions.tolist())
    stimuli, n_repeats = count_repeats(recording.rows, manifest, recording.file)
    return ResponseDescription(
        subject,
        "meg",
        stimuli,
        n_repeats,
        session_of_stimuli(recording.rows, recording.sessions.tolist()),
        _coords(recording),
        hash_files(folder, _parts(recording.epochs), known),
    )


def read(
    folder: Path,
    subject: str,
    manifest: Manifest,
    *,
    normalise: str = "session",
    picks: str = "meg",
    tmin: float | None = None,
    tmax: float | None = None,
) -> Responses:
    """Read a subject's epochs, averaged over repeats, with one session in memory at a time.

    Parameters and refusals are those of `describe`; rows, sensors and times have its order.
    """
    recording = _open(folder, subject, manifest, picks, tmin, tmax)
    check_normalise(normalise, recording.rows, recording.sessions.tolist())
    count_repeats(recording.rows, manifest, recording.file)
    shape = (len(recording.sensors), len(recording.times))
    return average(_read_sessions(recording), recording.rows, shape, normalise)


def _open(
    folder: Path,
    subject: str,
    manifest: Manifest,
    picks: str,
    tmin: float | None,
    tmax: float | None,
) -> _Recording:
    file = _find(folder, subject)
    epochs = _load(file)
    table = _metadata(epochs, file)
    kinds = _column(table, "trial_type", STIMULUS, file)
    rows = stimulus_rows(_column(table, "stim_file", "", file), kinds, manifest, file)
    sessions = np.array(_column(table, "session", "1", file))
    sensors, times = _sensors(epochs, picks, file), _times(epochs, tmin, tmax, file)
    return _Recording(file, epochs, rows, sessions, sensors, times)


def _load(file: Path) -> Any:
    try:
        with warnings.catch_warnings():
            # MNE calls pandas in ways that pandas deprecates.
            warnings.simplefilter("ignore", DeprecationWarning)
            return mne.read_epochs(file, preload=False, verbose="error")
    except _UNREADABLE as error:
        raise _damaged(file, error) from error


def _find(folder: Path, subject: str) -> Path:
    paths = [folder / f"{subject}{ENDING}", folder / subject / f"{subject}{ENDING}"]
    found = [path for path in paths if path.is_file()]
    if len(found) == 2:
        raise ValueError(f"there are both {found[0]} and {found[1]}; keep one")
    if not found:
        hint = did_you_mean(subject, list_subjects(folder))
        raise FileNotFoundError(f"there is no {paths[0]}{hint or f', nor {paths[1]}; add one'}")
    return found[0]


def _parts(epochs: Any) -> list[Path]:
    """Return every file that the epochs are read from.

    MNE follows the names inside the files, which need not be those that it gives; only its private
    list of open files holds them all.
    """
    return [Path(part.fid.name) for part in epochs._raw]


def _metadata(epochs: Any, file: Path) -> pd.DataFrame:
    table = epochs.metadata
    if table is None or "stim_file" not in table:
        what = "metadata" if table is None else "metadata column stim_file"
        raise ValueError(
            f"{file} has no {what}; save it again with epochs.metadata = a DataFrame of one row "
            "per epoch whose stim_file is the image's path below the stimulus folder"
        )
    return table


def _column(table: pd.DataFrame, name: str, default: str, file: Path) -> list[str]:
    if name not in table:
        return [default] * len(table)
    values = table[name]
    if values.isna().any() and name == "session":
        row = int(values.isna().to_numpy().argmax()) + 1
        raise ValueError(
            f"{file}, row {row} of the metadata: session is missing; give each epoch's"
        )
    return [str(value) for value in values]


def _sensors(epochs: Any, picks: str, file: Path) -> NDArray[np.int64]:
    """Return the places of the good channels of a kind."""
    if picks not in PICKS:
        raise ValueError(f"picks is {picks!r}; give one of {', '.join(PICKS)}")
    meg = True if picks == "meg" else picks
    sensors: NDArray[np.int64] = mne.pick_types(epochs.info, meg=meg, ref_meg=False, exclude="bads")
    if not len(sensors):
        raise ValueError(
            f"{file} has no good {PICKS[picks]} channel; save epochs with some that are not in "
            "info['bads']"
        )
    return sensors


def _times(epochs: Any, tmin: float | None, tmax: float | None, file: Path) -> NDArray[np.int64]:
    """Return the places of the times from tmin to tmax, both included."""
    times = epochs.times
    slack = 1e-3 / epochs.info["sfreq"]  # times are rounded in files
    start = times[0] if tmin is None else tmin
    stop = times[-1] if tmax is None else tmax
    chosen = np.flatnonzero((times >= start - slack) & (times <= stop + slack))
    if not chosen.size:
        raise ValueError(
            f"{file} has no time from tmin {start} s to tmax {stop} s; choose within {times[0]} s "
            f"to {times[-1]} s"
        )
    return chosen


def _read_sessions(recording: _Recording) -> Iterator[SessionTrials]:
    """Yield the used epochs of every session, (n_used, n_sensors, n_times)."""
    for session in dict.fromkeys(recording.sessions.tolist()):
        used = np.flatnonzero((recording.sessions == session) & (recording.rows >= 0))
        if used.size:
            places = [f"{recording.file}, row {row + 1} of the metadata" for row in used.tolist()]
            values = _read_epochs(recording, used)
            yield SessionTrials(session, recording.rows[used], values, places)


def _read_epochs(recording: _Recording, used: NDArray[np.int64]) -> NDArray[np.float32]:
    """Read epochs, few at a time, since MNE reads all channels and times in double precision."""
    data = np.empty((len(used), len(recording.sensors), len(recording.times)), dtype=np.float32)
    for start in range(0, len(used), EPOCHS_AT_ONCE):
        part = slice(start, start + EPOCHS_AT_ONCE)
        try:
            epochs = recording.epochs.get_data(
                picks=recording.sensors, item=used[part], verbose="error"
            )
        except _UNREADABLE as error:
            raise _damaged(recording.file, error) from error
        data[part] = epochs[:, :, recording.times]
    return data


def _coords(recording: _Recording) -> xr.Dataset:
    info = recording.epochs.info
    names = [info["ch_names"][i] for i in recording.sensors]
    kinds = [mne.channel_type(info, i) for i in recording.sensors]
    loc = np.array([info["chs"][i]["loc"] for i in recording.sensors], dtype=np.float64)
    axes = {f"sensor_{axis}": ("sensor", loc[:, i], {"units": "m"}) for i, axis in enumerate("xyz")}
    times = recording.epochs.times[recording.times]
    return xr.Dataset(
        coords={
            "sensor": np.array(names),
            **axes,
            "sensor_type": ("sensor", np.array(kinds)),
            # Finite, as netCDF and JSON keep it; MNE reads zeros as no position.
            "sensor_loc": (("sensor", "loc"), np.where(np.isfinite(loc), loc, 0.0)),
            "time": ("time", times, {"units": "s"}),
        },
    )


def _damaged(file: Path, error: Exception) -> ValueError:
    return ValueError(f"cannot read the epochs {file} ({error}); copy or save them again")
