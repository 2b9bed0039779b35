"""The channels of a recording that are targets."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import mne
import numpy as np
from numpy.typing import NDArray

PICKS = {"meg": "MEG", "mag": "magnetometer", "grad": "gradiometer"}


def good_sensors(epochs: Any, picks: str, file: Path) -> dict[str, int]:
    """Return the places of the good channels of a kind, by name.

    Parameters
    ----------
    epochs : mne.Epochs
    picks : str
        A key of `PICKS`.
    file : Path
        Named in refusals.

    Raises
    ------
    ValueError
        If the kind is unknown or has no good channel.
    """
    if picks not in PICKS:
        raise ValueError(f"picks is {picks!r}; give one of {', '.join(PICKS)}")
    meg = True if picks == "meg" else picks
    sensors: NDArray[np.int64] = mne.pick_types(epochs.info, meg=meg, ref_meg=False, exclude="bads")
    if not len(sensors):
        bad = mne.pick_types(epochs.info, meg=meg, ref_meg=False, exclude=())
        found = "only some in info['bads']" if len(bad) else f"it has {_kinds(epochs)}"
        raise ValueError(
            f"{file} has no good {PICKS[picks]} channel, {found}; save epochs with some, or give "
            "other picks"
        )
    return {epochs.ch_names[i]: int(i) for i in sensors}


def _kinds(epochs: Any) -> str:
    """Return the kinds of a file's channels with their numbers, such as "60 eeg, 2 eog"."""
    return ", ".join(f"{n} {kind}" for kind, n in Counter(epochs.get_channel_types()).items())
