"""Figures of the hierarchy comparisons: arrays in, matplotlib Figure out."""

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

Array = NDArray[np.float64]

DEPTH_COLOURS = colormaps["viridis"]
PANEL = (4.6, 3.4)
"""Width and height of one panel, in inches."""


def _panels(n: int) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(PANEL[0] * n, PANEL[1]), layout="constrained")
    return figure, [figure.add_subplot(1, n, i + 1) for i in range(n)]


def profile_heatmaps(
    profiles: Array,
    signals: Sequence[str],
    layers: Sequence[str],
    regions: Sequence[Sequence[str]],
) -> Figure:
    """Draw layer x region heat maps, one panel per signal; the best layer of a region is marked.

    Parameters
    ----------
    profiles : array, (n_signals, n_layers, n_regions)
        Mean score of each region; NaN where it has none.
    regions : sequence of sequence of str
        Per signal, the label of each region, with how many voxels it is the mean of.
    """
    figure, axes = _panels(len(signals))
    for axis, profile, signal, names in zip(axes, profiles, signals, regions, strict=True):
        image = axis.imshow(profile, aspect="auto", origin="lower", cmap="magma")
        figure.colorbar(image, ax=axis, shrink=0.85)
        for column in np.flatnonzero(np.isfinite(profile).any(axis=0)):
            axis.plot(column, np.nanargmax(profile[:, column]), "o", mfc="none", mec="w", ms=8)
        axis.set_xticks(range(len(names)), names, rotation=45)
        axis.set_yticks(range(len(layers)), layers)
        axis.set(title=signal, xlabel="region", ylabel="layer")
    return figure


def curves(
    values: Array, times: Array, depths: Array, signals: Sequence[str], peaks: Array
) -> Figure:
    """Draw score against time, a line per layer (dark: shallow, light: deep), a panel per signal.

    Parameters
    ----------
    values : array, (n_signals, n_layers, n_times)
        Mean score over significant sensors.
    times : array, (n_times,)
        Window centres, s.
    depths : array, (n_layers,)
    peaks : array, (n_signals, n_layers)
        Peak latency, s; NaN where a layer has none.
    """
    figure, axes = _panels(len(signals))
    for axis, lines, signal, latency in zip(axes, values, signals, peaks, strict=True):
        for line, depth, peak in zip(lines, depths, latency, strict=True):
            colour = DEPTH_COLOURS(depth * 0.92)
            axis.plot(times, line, color=colour, lw=1.4, label=f"{depth:.2f}")
            if np.isfinite(peak):
                axis.axvline(peak, color=colour, lw=0.6, ls=":")
        axis.set(title=signal, xlabel="time (s)", ylabel="score")
    axes[-1].legend(title="depth", fontsize=7, title_fontsize=7, loc="upper right")
    return figure


def depth_against_position(
    kstar: Array, position: Array, signals: Sequence[str], label: str
) -> Figure:
    """Draw each region's best depth against its position; one marker per subject and region.

    Parameters
    ----------
    kstar : array, (n_signals, n_regions, n_subjects)
        Relative depth of the best layer; NaN where it is not defined.
    position : array, (n_regions, n_subjects)
    label : str
        Name of the position, with its unit.
    """
    figure, axes = _panels(len(signals))
    for axis, depth, signal in zip(axes, kstar, signals, strict=True):
        for subject in range(depth.shape[1]):
            axis.plot(position[:, subject], depth[:, subject], "o", alpha=0.75)
        _add_line(axis, position.ravel(), depth.ravel())
        axis.set(title=signal, xlabel=label, ylabel="relative depth of the best layer")
        axis.set_ylim(0, 1.05)
    return figure


def depth_against_latency(latency: Array, depths: Array, signals: Sequence[str]) -> Figure:
    """Draw peak latency against depth; one marker per subject and layer.

    Parameters
    ----------
    latency : array, (n_signals, n_layers, n_subjects)
        Peak latency, s; NaN where a layer has none.
    depths : array, (n_layers,)
    """
    figure, axes = _panels(len(signals))
    for axis, times, signal in zip(axes, latency, signals, strict=True):
        for subject in range(times.shape[1]):
            axis.plot(depths, times[:, subject], "o", alpha=0.75)
        _add_line(axis, np.repeat(depths, times.shape[1]), times.ravel())
        axis.set(title=signal, xlabel="relative depth of the layer", ylabel="peak latency (s)")
        axis.set_xlim(0, 1.05 * max(1.0, *depths))
    return figure


def position_against_latency(
    position: Array, latency: Array, depths: Array, signals: Sequence[str], label: str
) -> Figure:
    """Draw where in the cortex and when in the response each layer is found, coloured by depth.

    Parameters
    ----------
    position, latency : array, (n_signals, n_layers)
        Mean over subjects: position of the regions that a layer predicts, and peak latency in s.
    label : str
        Name of the position, with its unit.
    """
    figure, axes = _panels(len(signals))
    for axis, x, y, signal in zip(axes, position, latency, signals, strict=True):
        axis.scatter(x, y, c=depths, cmap=DEPTH_COLOURS, vmin=0, vmax=1.08, s=45)
        for depth, u, v in zip(depths, x, y, strict=True):
            if np.isfinite(u) and np.isfinite(v):
                axis.annotate(
                    f"{depth:.2f}", (u, v), xytext=(5, 4), textcoords="offset points", fontsize=7
                )
        axis.set(title=signal, xlabel=label, ylabel="peak latency (s)")
    return figure


def stability(
    cosines: Array,
    reliability: Array,
    depths: Array,
    sources: Sequence[str],
    perturbations: Sequence[str],
) -> Figure:
    """Draw how stable each layer's signal is, one panel per source.

    Parameters
    ----------
    cosines : array, (n_sources, n_perturbations, n_layers)
        Mean cosine with the signal of the perturbed image.
    reliability : array, (n_sources, n_layers)
        NaN where it is not known.
    depths : array, (n_layers,)
    """
    figure, axes = _panels(len(sources))
    for axis, lines, seeded, source in zip(axes, cosines, reliability, sources, strict=True):
        for line, perturbation in zip(lines, perturbations, strict=True):
            axis.plot(depths, line, "o-", ms=3, lw=1.2, label=perturbation)
        axis.plot(depths, seeded, "k--", lw=1.2, label="reliability")
        axis.set(title=source, xlabel="relative depth of the layer", ylabel="cosine, reliability")
        axis.set_xlim(0, 1.05 * max(1.0, *depths))
    axes[-1].legend(fontsize=7, loc="lower right")
    return figure


def _add_line(axis: Axes, x: Array, y: Array) -> None:
    """Add a least-squares line where there is one."""
    known = np.isfinite(x) & np.isfinite(y)
    if known.sum() > 2 and np.ptp(x[known]) > 0:
        slope, intercept = np.polyfit(x[known], y[known], 1)
        ends = np.array([x[known].min(), x[known].max()])
        axis.plot(ends, slope * ends + intercept, color="0.4", lw=1, ls="--")
