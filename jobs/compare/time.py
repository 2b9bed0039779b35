"""The tables in time of one model's comparisons, signal by signal."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from gradenc_core.compare.peaks import Sensors, Timing, timing
from gradenc_core.compare.reference import Confusion
from gradenc_core.compare.time import Latencies, temporal_score
from jobs.compare.inputs import Inputs, Scores
from jobs.compare.tables import fill_score, labels, window_centres

Array = NDArray[np.float64]

AGAINST_FORWARD = {
    "lag": ("lag", "mean"),
    "lag_slope": ("lag", "slope"),
    "contrast": ("contrast", "slope"),
}
"""Quantity in time -> weight of the forward latencies in it (lag: -1; contrast: the smallest
effect), and its statistic over layers."""


@dataclass(frozen=True)
class Person:
    """One subject's timing for one signal.

    Attributes
    ----------
    name : str
    timing : Timing
    curves : array, (n_permutations + 1, n_layers, n_windows)
        Mean over the selected sensors, over all if there are none; index 0 is observed.
    confusion : Confusion or None
        How targets that one layer's gradient drives look to every layer.
    """

    name: str
    timing: Timing
    curves: Array
    confusion: Confusion | None


def read_people(
    inputs: Inputs, tables: xr.Dataset, signal: str, subjects: Sequence[str]
) -> list[Person]:
    """Read one signal's scores of every subject, and when each layer predicts them best."""
    return [_person(inputs, tables, signal, subject) for subject in subjects]


def _person(inputs: Inputs, tables: xr.Dataset, signal: str, subject: str) -> Person:
    scores, options = inputs.scores(signal, subject, "meg"), inputs.spec.options
    sensors = _sensors(scores, labels(tables, "window"))
    times = window_centres(tables)
    found = timing(sensors, times, options.search_window, options.significance)
    chosen = found.sensors if found.sensors.any() else np.ones_like(found.sensors)
    return Person(
        name=subject,
        timing=found,
        curves=sensors.permutation[:, :, chosen].mean(axis=2),
        confusion=scores.confusion,
    )


def _sensors(scores: Scores, windows: Sequence[str]) -> Sensors:
    """Return a subject's resampled scores in the windows that all subjects have."""
    own = [name for name, _, _ in scores.windows or ()]
    common = np.isin(own, windows)

    def split(flat: Array) -> Array:
        return flat.reshape(*flat.shape[:2], len(scores.names), len(own))[..., common]

    assert scores.bootstrap is not None
    return Sensors(split(scores.bootstrap), split(scores.permutation))


def fill_time(
    inputs: Inputs,
    tables: xr.Dataset,
    signal: str,
    people: Sequence[Person],
    forward: Sequence[Person],
) -> None:
    """Fill a signal's tables in time; `forward` are the same subjects' activations."""
    usable = inputs.usable(signal)
    layers, depth = tables["layer"][usable], tables["layer_depth"].values[usable]
    for person in people:
        at = {"signal": signal, "meg_subject": person.name}
        of_layers, found = {**at, "layer": layers}, person.timing
        tables["latency"].loc[of_layers] = found.latencies.observed
        tables["onset"].loc[of_layers] = found.onset
        tables["curve"].loc[of_layers] = found.curve
        tables["significant_sensors"].loc[at] = found.sensors.sum()
        tables["edge_peaks"].loc[at] = found.at_edge.sum()
    _fill_order(tables, signal, depth, [person.timing.latencies for person in people])
    if signal != "forward":
        _fill_against_forward(inputs, tables, signal, people, forward)


def _fill_order(
    tables: xr.Dataset, signal: str, depth: Array, latencies: Sequence[Latencies]
) -> None:
    """Fill the correlations of latency with depth, and the slope."""
    for method in labels(tables, "correlation"):
        cell = {"signal": signal, "correlation": method}
        score = temporal_score(latencies, depth, method)
        fill_score(tables, "temporal", cell, score)
        tables["dropped_replicates"].loc[cell] = score.dropped
    slope = temporal_score(latencies, depth, "slope")
    fill_score(tables, "timing", {"signal": signal, "timing": "slope"}, slope)


def _fill_against_forward(
    inputs: Inputs,
    tables: xr.Dataset,
    signal: str,
    people: Sequence[Person],
    forward: Sequence[Person],
) -> None:
    """Fill the lag behind the forward signal, its slope, and the contrast of the two slopes."""
    usable = inputs.usable(signal)
    layers, depth = tables["layer"][usable], tables["layer_depth"].values[usable]
    own = [person.timing.latencies for person in people]
    same = [person.timing.latencies.of_layers(usable) for person in forward]
    weights = {"lag": -1.0, "contrast": inputs.spec.options.smallest_effect}
    for name, (weight, order) in AGAINST_FORWARD.items():
        sums = [a.plus(b, weights[weight]) for a, b in zip(own, same, strict=True)]
        score = temporal_score(sums, depth, order)
        fill_score(tables, "timing", {"signal": signal, "timing": name}, score)
    for person, a, b in zip(people, own, same, strict=True):
        at = {"signal": signal, "meg_subject": person.name, "layer": layers}
        tables["lag"].loc[at] = a.plus(b, -1).observed
