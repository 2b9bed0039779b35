"""MEG epochs in FIF files, as MNE writes them.

Layout: `<root>/sub-01-epo.fif`, or a file for each run or session of a subject, such as
`<root>/sub-01/ses-01/meg/sub-01_ses-01_task-images_run-01_epo.fif`, which are one recording
(`epoch_files`). Files that MNE split are read through the first, whatever the others are called.
The epochs' metadata has one row per epoch and the columns

- stim_file: path of the image below the stimulus folder;
- trial_type (optional): epochs of another type than "stimulus", such as catch trials, are not used;
- session (optional): the session of each epoch, where the file's name has none; without either, all
  epochs are of one.

The targets are the MEG sensors that are good in every file (or only the magnetometers or the
gradiometers) at every time; projectors in the files are applied.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
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
from gradenc_core.recordings.ceilings import recipe_of
from gradenc_core.recordings.epoch_files import (
    ENDING,
    EpochsFile,
    files_of,
    find_epochs,
    others,
    recordings_of,
)
from gradenc_core.recordings.repeats import (
    STIMULUS,
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
from gradenc_core.recordings.sensors import PICKS, good_sensors
from gradenc_core.stimuli.images import Manifest

EPOCHS_AT_ONCE = 64
TIME_TOLERANCE = 1e-6
"""Seconds by which the times of two runs may differ: files round them."""
# All that MNE raises for a damaged, truncated or incomplete file.
_UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    RuntimeError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
)


@dataclass(frozen=True)
class _Run:
    """Epochs of one file and its continuations, not read yet."""

    file: Path
    epochs: Any
    rows: Rows
    sessions: list[str]
    sensors: dict[str, int]
    """Place of every good sensor among the file's channels, by name."""

    @property
    def parts(self) -> list[Path]:
        """Every file that the epochs are read from.

        MNE follows the names inside the files, which need not be those that it gives; only its
        private list of open files holds them all.
        """
        return [Path(part.fid.name) for part in self.epochs._raw]


@dataclass(frozen=True)
class _Recording:
    """A subject's runs, with the sensors and times that are targets."""

    runs: list[_Run]
    sensors: list[str]
    times: NDArray[np.int64]

    @property
    def rows(self) -> Rows:
        """Place of every epoch's image in the manifest, runs one after another."""
        return np.concatenate([run.rows for run in self.runs])

    @property
    def sessions(self) -> list[str]:
        """Session of every epoch."""
        return [session for run in self.runs for session in run.sessions]

    @property
    def file(self) -> Path:
        """The first file, for refusals."""
        return self.runs[0].file


def list_subjects(folder: Path) -> list[str]:
    """Return the subjects of a folder, sorted.

    Raises
    ------
    FileNotFoundError
        If there is no such folder or it holds no epochs.
    """
    return list(find_epochs(folder))


def passed_over(folder: Path) -> list[str]:
    """Return the FIF files that are no epochs by their names, a phrase each."""
    return [f"{path.relative_to(folder)}, which is not named *{ENDING}" for path in others(folder)]


def describe(
    folder: Path,
    subject: str,
    manifest: Manifest,
    *,
    normalise: str = "session",
    picks: str = "meg",
    tmin: float | None = None,
    tmax: float | None = None,
    ceiling: Mapping[str, Any] | None = None,
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
    ceiling : mapping, optional
        Fields of the `CeilingRecipe` of the data's owners.
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
    check_normalise(normalise, recording.rows, recording.sessions)
    stimuli, n_repeats = count_repeats(recording.rows, manifest, recording.file)
    recipe_of(ceiling, n_repeats)
    parts = [path for run in recording.runs for path in run.parts]
    files = hash_files(folder, parts, known)
    refuse_twice(parts, folder, files)
    return ResponseDescription(
        subject,
        "meg",
        stimuli,
        n_repeats,
        session_of_stimuli(recording.rows, recording.sessions),
        _coords(recording),
        files,
        len(set(recording.sessions)),
        (*_sensors_left_out(recording), *unused_trials(recording.rows)),
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
    ceiling: Mapping[str, Any] | None = None,
) -> Responses:
    """Read a subject's epochs, averaged over repeats, with one session in memory at a time.

    Parameters and refusals are those of `describe`; rows, sensors and times have its order.
    """
    recording = _open(folder, subject, manifest, picks, tmin, tmax)
    check_normalise(normalise, recording.rows, recording.sessions)
    _, n_repeats = count_repeats(recording.rows, manifest, recording.file)
    recipe = recipe_of(ceiling, n_repeats)
    shape = (len(recording.sensors), len(recording.times))
    return average(_read_sessions(recording), recording.rows, shape, normalise, recipe)


def _open(
    folder: Path,
    subject: str,
    manifest: Manifest,
    picks: str,
    tmin: float | None,
    tmax: float | None,
) -> _Recording:
    groups = recordings_of(files_of(folder, subject))
    runs = [_open_run(group, manifest, picks) for group in groups]
    sensors = [name for name in runs[0].sensors if all(name in run.sensors for run in runs)]
    if not sensors:
        raise ValueError(
            f"no {PICKS[picks]} channel is good in all of {subject}'s {len(runs)} files, the first "
            f"of which is {runs[0].file}; name channels alike, or mark fewer as bad"
        )
    for run in runs[1:]:
        _check_times(run, runs[0])
    return _Recording(runs, sensors, _times(runs[0].epochs, tmin, tmax, runs[0].file))


def _open_run(parts: Sequence[EpochsFile], manifest: Manifest, picks: str) -> _Run:
    file = parts[0].path
    epochs = _load(file)
    table = _metadata(epochs, file)
    kinds = _column(table, "trial_type", STIMULUS, file)
    rows = stimulus_rows(_column(table, "stim_file", "", file), kinds, manifest, file)
    run = _Run(file, epochs, rows, _sessions(parts[0], table), good_sensors(epochs, picks, file))
    unread = [part.path for part in parts if part.path not in run.parts]
    if unread:
        raise ValueError(
            f"{unread[0]} is no continuation of {file}, which names {len(run.parts)} file(s); "
            "save both again, without renaming them"
        )
    return run


def _sessions(file: EpochsFile, table: pd.DataFrame) -> list[str]:
    """Return every epoch's session: the one in the file's name, or else the metadata's."""
    column = _column(table, "session", "1", file.path)
    if file.session is None:
        return column
    if len(set(column)) > 1:
        raise ValueError(
            f"{file.path} is named after {file.session} but its metadata has the sessions "
            f"{', '.join(sorted(set(column)))}; save a file for each, or leave ses- out of the name"
        )
    return [file.session] * len(table)


def _check_times(run: _Run, first: _Run) -> None:
    times, others = run.epochs.times, first.epochs.times
    if len(times) != len(others) or not np.allclose(times, others, rtol=0, atol=TIME_TOLERANCE):
        raise ValueError(
            f"{run.file} has {len(times)} times from {times[0]:g} to {times[-1]:g} s but "
            f"{first.file} has {len(others)} from {others[0]:g} to {others[-1]:g} s; cut and "
            "resample the runs alike"
        )


def _load(file: Path) -> Any:
    try:
        with warnings.catch_warnings():
            # MNE calls pandas in ways that pandas deprecates.
            warnings.simplefilter("ignore", DeprecationWarning)
            return mne.read_epochs(file, preload=False, verbose="error")
    except _UNREADABLE as error:
        raise _damaged(file, error) from error


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
    for session in dict.fromkeys(recording.sessions):
        rows, values, places = [], [], []
        for run in recording.runs:
            used = np.flatnonzero((np.array(run.sessions) == session) & (run.rows >= 0))
            if used.size:
                rows.append(run.rows[used])
                values.append(_read_epochs(recording, run, used))
                places += [f"{run.file}, row {row + 1} of the metadata" for row in used.tolist()]
        if rows:
            yield SessionTrials(session, np.concatenate(rows), _joined(values), places)


def _joined(values: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    return values[0] if len(values) == 1 else np.concatenate(values)


def _read_epochs(recording: _Recording, run: _Run, used: NDArray[np.int64]) -> NDArray[np.float32]:
    """Read epochs, few at a time, since MNE reads all channels and times in double precision."""
    data = np.empty((len(used), len(recording.sensors), len(recording.times)), dtype=np.float32)
    picks = [run.sensors[name] for name in recording.sensors]
    for start in range(0, len(used), EPOCHS_AT_ONCE):
        part = slice(start, start + EPOCHS_AT_ONCE)
        try:
            epochs = run.epochs.get_data(picks=picks, item=used[part], verbose="error")
        except _UNREADABLE as error:
            raise _damaged(run.file, error) from error
        data[part] = epochs[:, :, recording.times]
    return data


def _sensors_left_out(recording: _Recording) -> list[str]:
    """Return the sensors that are good in some runs but not in all."""
    good = {name for run in recording.runs for name in run.sensors}
    missing = sorted(good - set(recording.sensors))
    return [f"sensors that are not good in every file: {', '.join(missing)}"] if missing else []


def _coords(recording: _Recording) -> xr.Dataset:
    first = recording.runs[0]
    info = first.epochs.info
    places = [first.sensors[name] for name in recording.sensors]
    kinds = [mne.channel_type(info, i) for i in places]
    loc = np.array([info["chs"][i]["loc"] for i in places], dtype=np.float64)
    axes = {f"sensor_{axis}": ("sensor", loc[:, i], {"units": "m"}) for i, axis in enumerate("xyz")}
    times = first.epochs.times[recording.times]
    return xr.Dataset(
        coords={
            "sensor": np.array(recording.sensors),
            **axes,
            "sensor_type": ("sensor", np.array(kinds)),
            # Finite, as netCDF and JSON keep it; MNE reads zeros as no position.
            "sensor_loc": (("sensor", "loc"), np.where(np.isfinite(loc), loc, 0.0)),
            "time": ("time", times, {"units": "s"}),
        },
    )


def _damaged(file: Path, error: Exception) -> ValueError:
    return ValueError(f"cannot read the epochs {file} ({error}); copy or save them again")
