"""Means of MEG responses over windows of time."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

TOLERANCE_S = 1e-9
"""Sampled times are sums of steps: 0.05 s may be there as 0.04999999999999999."""


def samples_in(times: NDArray[np.floating], start: float, stop: float) -> NDArray[np.bool_]:
    """Return which samples a window holds, start <= time < stop, (n_times,).

    Parameters
    ----------
    times : array, (n_times,)
        s from stimulus onset.
    start, stop : float
        s; compared to `TOLERANCE_S`.
    """
    seconds = np.asarray(times, dtype=np.float64)
    return np.asarray((seconds >= start - TOLERANCE_S) & (seconds < stop - TOLERANCE_S))


def window_means(
    responses: NDArray[np.floating],
    times: NDArray[np.floating],
    windows: Sequence[tuple[float, float]],
) -> NDArray[np.float64]:
    """Return the mean response of every sensor in every window, (n_stimuli, …, n_windows).

    Parameters
    ----------
    responses : array, (n_stimuli, …, n_times)
        Of any unit; NaN in a sample is NaN in the means of its windows.
    times : array, (n_times,)
        s from stimulus onset.
    windows : sequence of (start, stop)
        s; they may overlap.

    Raises
    ------
    ValueError
        If a window holds no sample, or `times` is not as long as the last axis.
    """
    if responses.shape[-1] != len(times):
        raise ValueError(
            f"responses have shape {responses.shape} but there are {len(times)} times; give "
            "(n_stimuli, n_sensors, n_times)"
        )
    held = [samples_in(times, start, stop) for start, stop in windows]
    for (start, stop), inside in zip(windows, held, strict=True):
        if not inside.any():
            raise ValueError(
                f"the window {start:g} to {stop:g} s holds no sample of times from {times[0]:g} to "
                f"{times[-1]:g} s; give windows inside them"
            )
    means = [responses[..., inside].mean(axis=-1, dtype=np.float64) for inside in held]
    return np.stack(means, axis=-1)
