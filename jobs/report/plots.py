"""The figures of one model in the report, each with its title and caption."""

import base64
import io
from collections.abc import Iterator

import numpy as np
import xarray as xr
from matplotlib import rc_context
from matplotlib.figure import Figure
from numpy.typing import NDArray

from gradenc_core.compare import figures
from jobs.compare.evidence import SPATIAL_CELL
from jobs.compare.tables import labels, window_centres
from jobs.report.words import signal_title
from storage_schemas.results.reliability import DISATTENUATED, LEAST_RELIABILITY

ALL_PROFILES = (
    "Mean score of all voxels of each region, mean over subjects; below its name the region's "
    "number of voxels. The circle marks the layer that predicts a region best; a hierarchy climbs "
    "from lower left to upper right."
)
PROFILES = (
    "The same of the significant voxels alone; below a region's name, how many of its voxels, and "
    "in how many subjects. They were selected by their best score, so these means are too high, "
    "and differ less between regions than the responses do."
)
CURVES = (
    "Mean score over significant sensors, mean over subjects; dotted lines mark the layers' peak "
    "latencies."
)
DIVIDED = (
    "The same with r divided by the root of the reliability of the layer's signal over seeds of "
    f"views and masks; blank where that is below {LEAST_RELIABILITY} or not known. Verdicts read "
    "the scores as they are."
)


def comparison_figures(tables: xr.Dataset, seed_region: str) -> Iterator[dict[str, str]]:
    """Yield the figures of a model's comparisons, as far as the modalities were recorded."""
    signals = [signal_title(s) for s in labels(tables, "signal")]
    depth = tables["layer_depth"].values
    # Where nothing is seeded, every reliability is 1 and there is nothing to divide by.
    divided = bool((tables["reliability"] < 1).any())
    if "region_profile" in tables:
        everything = _heatmaps(tables, "region_profile_all", _region_sizes(tables))
        yield _figure("Layer by region", ALL_PROFILES, everything)
        figure = _heatmaps(tables, "region_profile", _selections(tables))
        yield _figure("Layer by region, significant voxels", PROFILES, figure)
        if divided:
            name = "region_profile" + DISATTENUATED
            figure = _heatmaps(tables, name, _selections(tables))
            yield _figure("Layer by region, divided by reliability", DIVIDED, figure)
        yield _figure(
            "Depth against position",
            "The layer that predicts a region best against the region's distance from "
            f"{seed_region}; a dot per region and subject.",
            figures.depth_against_position(
                tables["region_depth"].sel(kstar=SPATIAL_CELL["kstar"]).values,
                tables["region_position"].values,
                signals,
                f"distance from {seed_region} (mm)",
            ),
        )
    if "curve" in tables:
        yield _figure("Layer by time", CURVES, _curves(tables, "curve"))
        if divided:
            figure = _curves(tables, "curve" + DISATTENUATED)
            yield _figure("Layer by time, divided by reliability", DIVIDED, figure)
        yield _figure(
            "Depth against latency",
            "When each layer predicts the sensors best; a dot per layer and subject. "
            "Backpropagation needs a fall for gradients: deep layers first.",
            figures.depth_against_latency(tables["latency"].values, depth, signals),
        )
    if "curve" in tables and "region_profile" in tables:
        yield _figure(
            "Place and time together",
            "Each layer where it predicts the cortex (mean position of the regions, weighted by "
            "score) and when it predicts the sensors; the number is the layer's depth.",
            figures.position_against_latency(
                layer_positions(tables),
                _mean(tables["latency"], "meg_subject"),
                depth,
                signals,
                f"position (mm from {seed_region})",
            ),
        )


def _heatmaps(tables: xr.Dataset, name: str, regions: list[list[str]]) -> Figure:
    return figures.profile_heatmaps(
        _mean(tables[name], "fmri_subject"),
        [signal_title(s) for s in labels(tables, "signal")],
        labels(tables, "layer"),
        regions,
    )


def _region_sizes(tables: xr.Dataset) -> list[list[str]]:
    """Return every region's label with its number of voxels, the same for every signal."""
    sizes = tables["region_voxels"].sum("fmri_subject").values
    names = zip(labels(tables, "region"), sizes, strict=True)
    return [[f"{name}\n{size:.0f}" for name, size in names]] * tables.sizes["signal"]


def _selections(tables: xr.Dataset) -> list[list[str]]:
    """Return, per signal, every region's label with how many voxels and subjects were selected."""
    sizes = tables["region_voxels"].sum("fmri_subject").values
    people = (tables["region_voxels"] > 0).sum("fmri_subject").values
    found = []
    for signal in labels(tables, "signal"):
        selected = tables["region_selected"].sel(signal=signal)
        counts = (selected.sum("fmri_subject").values, (selected > 0).sum("fmri_subject").values)
        cells = zip(labels(tables, "region"), counts[0], sizes, counts[1], people, strict=True)
        found.append([f"{name}\n{n:.0f} of {of:.0f}\n{m} of {p}" for name, n, of, m, p in cells])
    return found


def _curves(tables: xr.Dataset, name: str) -> Figure:
    return figures.curves(
        _mean(tables[name], "meg_subject"),
        window_centres(tables),
        tables["layer_depth"].values,
        [signal_title(s) for s in labels(tables, "signal")],
        _mean(tables["latency"], "meg_subject"),
    )


def stability_figures(tree: xr.DataTree, model: str) -> Iterator[dict[str, str]]:
    """Yield the figure of a model's stability, if the run has one."""
    if f"/stability/{model}" not in tree.groups:
        return
    found = {
        source: leaf.to_dataset().load()
        for source, leaf in tree[f"stability/{model}"].children.items()
    }
    one = next(iter(found.values()))
    yield _figure(
        "Stability",
        "Cosine of a layer's signal with that of the image shifted by a pixel, with noise of a "
        "grey level, and recompressed (JPEG, quality 90), mean over images; and the reliability "
        "over seeds of views and masks, 1 where nothing is seeded.",
        figures.stability(
            np.stack([_mean(data["cosine"], "image").T for data in found.values()]),
            np.stack([data["reliability"].values for data in found.values()]),
            one["layer_depth"].values,
            list(found),
            labels(one, "perturbation"),
        ),
    )


def layer_positions(tables: xr.Dataset) -> NDArray[np.float64]:
    """Return where each layer is found: the position of regions, weighted by its scores there.

    Weights are a layer's positive scores less its lowest over regions, as for the centre of mass
    of k*.

    Returns
    -------
    array, (n_signals, n_layers)
        mm from the seed region.
    """
    profile = tables["region_profile"].clip(min=0)
    weights = (profile - profile.min("region")).fillna(0.0)
    position = tables["region_position"]
    total = weights.sum("region")
    found = (weights * position).sum("region") / total.where(total > 0)
    return _mean(found, "fmri_subject")


def _mean(data: xr.DataArray, dim: str) -> NDArray[np.float64]:
    return np.asarray(data.mean(dim).values)


def _figure(title: str, caption: str, figure: Figure) -> dict[str, str]:
    buffer = io.BytesIO()
    # Without date and with a fixed salt, the same run gives the same page.
    with rc_context({"svg.hashsalt": "gradenc"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = base64.b64encode(buffer.getvalue()).decode()
    return {"title": title, "caption": caption, "svg": svg}
