"""The one-page report of a run: verdicts, predictions against findings, figures, counts."""

import base64
import io
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import xarray as xr
from matplotlib import rc_context
from matplotlib.figure import Figure
from numpy.typing import NDArray

from gradenc_core.compare import figures
from gradenc_core.compare.statistics import t_interval
from gradenc_core.compare.verdict import Verdict
from jobs.compare import labels, window_centres
from jobs.evidence import CELLS, SPATIAL_CELL, Order
from jobs.report.predictions import hypothesis_table
from storage_schemas import files as durable
from storage_schemas.kinds.names import UNIQUE, source_of
from storage_schemas.protocol.commit import facts_of
from storage_schemas.protocol.seal import run_digest
from storage_schemas.protocol.store import Store
from storage_schemas.results.ceilings import noise_ceiling
from storage_schemas.results.open import open_run
from storage_schemas.results.reliability import DISATTENUATED, LEAST_RELIABILITY
from storage_schemas.runs.run import read_run, run_stores

COLOURS = {
    Verdict.BACKPROP_LIKE: "#17692c",
    Verdict.MISALIGNED: "#a32020",
    Verdict.NO_GRADIENT_SIGNAL: "#6b6b6b",
    Verdict.UNDECIDED: "#b07d12",
    Verdict.NOT_IDENTIFIABLE: "#6b6b6b",
}
TITLES = {
    Verdict.BACKPROP_LIKE: "The gradients follow the order that backpropagation needs",
    Verdict.MISALIGNED: "Gradients are there, but not in the order that backpropagation needs",
    Verdict.NO_GRADIENT_SIGNAL: "No sign of gradients beyond the activations",
    Verdict.UNDECIDED: "Undecided",
    Verdict.NOT_IDENTIFIABLE: "Not identifiable: the layers are too alike",
}
PROFILES = (
    "Mean score of each region's significant voxels, mean over subjects. The circle marks the "
    "layer that predicts a region best; a hierarchy climbs from lower left to upper right."
)
CURVES = (
    "Mean score over significant sensors, mean over subjects; dotted lines mark the layers' peak "
    "latencies."
)
DIVIDED = (
    "The same with r divided by the root of the reliability of the layer's signal over seeds of "
    f"views and masks, and U by the reliability; blank where that is below {LEAST_RELIABILITY} or "
    "not known. Verdicts read the scores as they are."
)
SUBJECTS: dict[Order, str] = {"spatial": "fmri_subject", "temporal": "meg_subject"}
"""Score -> dimension of the subjects that it was computed for."""
SIGNAL_TITLES = {
    "forward": "activations",
    "gradient": "gradient, {0}",
    "signal": "signal, {0}",
}


def write_report(run: Path, path: Path) -> None:
    """Write the report of a complete run as one HTML file without outside links."""
    stores = [store for stage in read_run(run)["stores"] for store in run_stores(run, stage)]
    tree = open_run(run)
    comparisons = [store for store in stores if store.kind == "comparisons"]
    template = jinja2.Environment(autoescape=True).from_string(
        files("jobs.report").joinpath("page.html.j2").read_text()
    )
    page = template.render(
        name=read_run(run)["name"],
        summary=_summary(tree),
        verdicts=[v for store in comparisons for v in _verdicts(store)],
        hypotheses=[t for store in comparisons for t in _hypotheses(store)],
        models=[_model(store, tree) for store in comparisons],
        counts=list(_counts(stores)),
        version=version("gradenc"),
        digest=run_digest(stores),
        study=(run / "study.yaml").read_text(),
    )
    durable.replace(path, page.encode())


def _summary(tree: xr.DataTree) -> str:
    subjects = [
        f"{subject} ({modality}, {leaf.sizes['stimulus']} stimuli)"
        for subject, node in tree["responses"].children.items()
        for modality, leaf in node.children.items()
    ]
    models = ", ".join(tree["comparisons"].children)
    return f"models {models}; recordings of {', '.join(subjects)}"


def _verdicts(store: Store) -> Iterator[dict[str, str]]:
    role = " (control)" if store.attrs["control"] else ""
    for signal, judgement in facts_of(store, store.units[0])["verdicts"].items():
        verdict = Verdict(judgement["verdict"])
        yield {
            "title": f"{store.attrs['model']}{role}, {_judged(signal)}: {TITLES[verdict]}",
            "verdict": verdict.value,
            "colour": COLOURS[verdict],
            "sentence": judgement["sentence"],
        }


def _hypotheses(store: Store) -> Iterator[dict[str, Any]]:
    tables = store.dataset().load()
    for signal in labels(tables, "signal"):
        if signal.startswith(UNIQUE):
            title = f"{store.attrs['model']}, {_judged(signal)}"
            yield {"title": title, **hypothesis_table(tables, signal)}


def signal_title(signal: str) -> str:
    """Return a signal's name for people."""
    kind, _, name = source_of(signal).partition(":")
    score = ": unique (U)" if signal.startswith(UNIQUE) else " (r)"
    return SIGNAL_TITLES[kind].format(name) + score


def _judged(signal: str) -> str:
    """Return the name of what a verdict is about: an objective, or a signal of the lab's own."""
    kind, _, name = source_of(signal).partition(":")
    return f"{'signal' if kind == 'signal' else 'objective'} {name}"


def _model(store: Store, tree: xr.DataTree) -> dict[str, Any]:
    name = store.attrs["model"]
    tables = tree[f"comparisons/{name}"].to_dataset().load()
    return {
        "name": name,
        "control": store.attrs["control"],
        "figures": [*_figures(tables), *_stability(tree, name)],
        "subjects": list(_subject_rows(tables)),
    }


def _figures(tables: xr.Dataset) -> Iterator[dict[str, str]]:
    signals = [signal_title(s) for s in labels(tables, "signal")]
    depth = tables["layer_depth"].values
    # Where nothing is seeded, every reliability is 1 and there is nothing to divide by.
    divided = bool((tables["reliability"] < 1).any())
    if "region_profile" in tables:
        yield _figure("Layer by region", PROFILES, _heatmaps(tables, "region_profile"))
        if divided:
            figure = _heatmaps(tables, "region_profile" + DISATTENUATED)
            yield _figure("Layer by region, divided by reliability", DIVIDED, figure)
        yield _figure(
            "Depth against position",
            "The layer that predicts a region best against the region's distance from V1; a dot "
            "per region and subject.",
            figures.depth_against_position(
                tables["region_depth"].sel(kstar=SPATIAL_CELL["kstar"]).values,
                tables["region_position"].values,
                signals,
                "distance from V1 (mm)",
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
            ),
        )


def _heatmaps(tables: xr.Dataset, name: str) -> Figure:
    return figures.profile_heatmaps(
        _mean(tables[name], "fmri_subject"),
        [signal_title(s) for s in labels(tables, "signal")],
        labels(tables, "layer"),
        labels(tables, "region"),
    )


def _curves(tables: xr.Dataset, name: str) -> Figure:
    return figures.curves(
        _mean(tables[name], "meg_subject"),
        window_centres(tables),
        tables["layer_depth"].values,
        [signal_title(s) for s in labels(tables, "signal")],
        _mean(tables["latency"], "meg_subject"),
    )


def _stability(tree: xr.DataTree, model: str) -> Iterator[dict[str, str]]:
    """Yield the figure of a model's stability; runs of early versions have none."""
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
    """Return where each layer is found: regions' mm from V1 weighted by how well it does there.

    Weights are a layer's positive scores less its lowest over regions, as for k*'s centre of mass.

    Returns
    -------
    array, (n_signals, n_layers)
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


def _subject_rows(tables: xr.Dataset) -> Iterator[dict[str, str]]:
    """Yield the scores that verdicts read, of all subjects together and of each."""
    for order, dim in SUBJECTS.items():
        if f"{order}_score" not in tables:
            continue
        for signal in labels(tables, "signal"):
            at = {"signal": signal, **CELLS[order]}
            values, p = (tables[f"{order}_{kind}"].sel(at).values for kind in ("score", "p"))
            common = {"signal": signal_title(signal), "score": order}
            yield {**common, **_together(values, p)}
            for subject, value, own in zip(labels(tables, dim), values, p, strict=True):
                yield {**common, "subject": subject, "value": number(value), "p": p_value(own)}


def _together(values: NDArray[np.float64], p: NDArray[np.float64]) -> dict[str, str]:
    """Return the row of all subjects: mean, t interval and how many are significant."""
    low, high = t_interval(values)
    known = values[np.isfinite(values)]
    mean = known.mean() if len(known) else np.nan
    return {
        "subject": f"all {len(values)} (descriptive)",
        "value": f"{number(mean)} [{number(low)}, {number(high)}]",
        "p": f"{int((p < 0.05).sum())} of {len(p)} below 0.05",
    }


def number(value: float, digits: int = 2) -> str:
    """Return a number for a table."""
    return f"{value:.{digits}f}" if np.isfinite(value) else "undefined"


def p_value(p: float) -> str:
    """Return a p value for a table."""
    return "< 0.001" if p < 0.001 else number(p, digits=3)


def _counts(stores: Sequence[Store]) -> Iterator[str]:
    for store in stores:
        if store.kind == "responses":
            facts = facts_of(store, store.units[0])
            yield (
                f"{store.label}: {facts['n_nan_targets']} target(s) with missing values and "
                f"{facts['n_constant_targets']} constant ones, which have no score; "
                f"noise ceiling: the median target's greatest r is {_median_ceiling(store):.2f}"
            )
        elif store.kind == "comparisons":
            left_out = facts_of(store, store.units[0])["left_out"] or ["none"]
            yield f"{store.label}: layers without a gradient of their own: {', '.join(left_out)}"
        elif store.kind == "scores":
            yield f"{store.label}: {_encoding_counts(store)}"
        elif store.kind == "stability" and (layers := _unreliable(store)):
            yield (
                f"{store.label}: {len(layers)} layer(s) whose scores are not divided by "
                f"reliability, which is below {LEAST_RELIABILITY} or not known: {', '.join(layers)}"
            )


def _unreliable(store: Store) -> list[str]:
    data = store.dataset().load()
    pairs = zip(labels(data, "layer"), data["reliability"].values, strict=True)
    return [f"{layer} ({number(r)})" for layer, r in pairs if not r >= LEAST_RELIABILITY]


def _median_ceiling(store: Store) -> float:
    return float(np.sqrt(np.nanmedian(noise_ceiling(store.dataset()).values)))


def _encoding_counts(store: Store) -> str:
    records = [durable.read_json(store.record_path(unit)) or {} for unit in store.units]
    totals: dict[str, int] = {}
    for record in records:
        for name, value in record["facts"].items():
            totals[name] = totals.get(name, 0) + value
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in totals.items())
