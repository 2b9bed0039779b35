"""Stage compare: the hierarchy comparisons of one model, from its scores alone."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from gradenc_core.compare import space as hierarchy
from gradenc_core.compare import time as latency
from gradenc_core.compare.space import Brain
from gradenc_core.compare.statistics import (
    max_statistic_p,
    pooled_null_p,
    significant,
    stouffer,
)
from gradenc_core.compare.time import Sensors, Timing
from gradenc_core.compare.verdict import VERDICTS, Evidence, Judgement, Score, judge
from gradenc_core.ridge.encode import analytic_p
from jobs.runner import Arrays, Facts, Work
from jobs.spec import ComparisonsSpec, Reference
from storage_schemas.kinds.names import UNIQUE, source_of
from storage_schemas.kinds.schemas import SIGNAL_CLASSES
from storage_schemas.protocol.store import Store, Unit

Array = NDArray[np.float64]
VERDICT_POSITION, VERDICT_RESOLUTION, VERDICT_KSTAR = "distance", "voxel", "argmax"
"""The spatial score that a verdict reads; all others stand beside it in the store."""
VERDICT_CORRELATION = "pearson"


def compute(work: Work) -> Iterator[tuple[Store, Unit, Arrays, Facts]]:
    """Yield the tables of every model; the verdicts' sentences go into the commit record."""
    for store, unit in work.units:
        study = _Study(ComparisonsSpec.model_validate(store.spec), store.dataset(), work.root)
        tables = {
            name: np.full([stop - start for start, stop in region], np.nan)
            for name, region in unit.regions.items()
        }
        _fill(study, tables)
        judgements = _judge_all(study, tables)
        facts = {
            "verdicts": {
                signal: {"verdict": str(j.verdict), "sentence": j.sentence}
                for signal, j in judgements.items()
            },
            "left_out": study.left_out(),
        }
        yield store, unit, tables, facts


@dataclass(frozen=True)
class _Scores:
    """Scores of one subject for one bands specification.

    `values` (n_layers, n_targets): mean over folds of r, or U. `bootstrap` and `permutation`
    (n + 1, n_layers, n_summaries).
    """

    values: Array
    bootstrap: Array
    permutation: Array
    n_stimuli: int
    names: Sequence[str]
    windows: Sequence[tuple[str, float, float]] | None


class _Study:
    """What the comparisons of one model read, opened on demand."""

    def __init__(self, spec: ComparisonsSpec, coords: xr.Dataset, root: Path) -> None:
        self.spec, self.root, self.coords = spec, root, coords
        self.signals = [str(s) for s in coords["signal"].values]
        self.layers = [str(name) for name in coords["layer"].values]
        self.depth: Array = coords["layer_depth"].values.astype(np.float64)

    def labels(self, dim: str) -> list[str]:
        return [str(v) for v in self.coords[dim].values] if dim in self.coords else []

    @property
    def fmri(self) -> list[str]:
        return self.labels("fmri_subject")

    @property
    def meg(self) -> list[str]:
        return self.labels("meg_subject")

    @cached_property
    def responses(self) -> dict[tuple[str, str], xr.Dataset]:
        stores = [reference.open(self.root) for reference in self.spec.responses]
        return {(s.attrs["subject"], s.attrs["modality"]): s.dataset() for s in stores}

    def usable(self, signal: str) -> NDArray[np.bool_]:
        """Return the layers that enter order scores: all forward ones, gradients classed ok."""
        source = source_of(signal)
        if source == "forward":
            return np.ones(len(self.layers), dtype=bool)
        codes = self.spec.classes[source].open(self.root).dataset()["signal_class"].values
        return np.asarray(codes == SIGNAL_CLASSES.index("ok"))

    def left_out(self) -> list[str]:
        """Name the layers whose gradient is no signal of its own."""
        named = []
        for source, reference in self.spec.classes.items():
            codes = reference.open(self.root).dataset()["signal_class"].values
            named += [
                f"{source}, {layer}: {SIGNAL_CLASSES[code]}"
                for layer, code in zip(self.layers, codes, strict=True)
                if code
            ]
        return named

    def cka(self, signal: str) -> list[Array]:
        """Return the CKA between a signal's usable layers, per stimulus set."""
        rows = np.flatnonzero(self.usable(signal))
        references = self.spec.collinearity[source_of(signal)]
        return [r.open(self.root).dataset()["cka"].values[np.ix_(rows, rows)] for r in references]

    def scores(self, signal: str, subject: str, modality: str) -> _Scores:
        """Return the scores behind a signal: r of one band, or U of forward_all and gradient."""
        unique = signal.startswith(UNIQUE)
        bands = f"forward_all+{source_of(signal)}" if unique else signal
        store, group, summary = self._find(self.spec.scores[bands], subject, modality)
        data = store.dataset()
        rows = np.flatnonzero(self.usable(signal))
        targets = data["scores"].isel(layer=rows, target=slice(group["start"], group["stop"]))
        columns = slice(summary["start"], summary["stop"])
        return _Scores(
            _unique(targets) if unique else mean_r(targets),
            _by_replicate(data["bootstrap"].isel(layer=rows, summary=columns)),
            _by_replicate(data["permutation"].isel(layer=rows, summary=columns)),
            data.sizes["stimulus"],
            summary["names"],
            summary["windows"],
        )

    def _find(
        self, references: Sequence[Reference], subject: str, modality: str
    ) -> tuple[Store, dict[str, Any], dict[str, Any]]:
        for reference in references:
            store = reference.open(self.root)
            groups = zip(store.attrs["groups"], store.attrs["summary_groups"], strict=True)
            for group, summary in groups:
                if (group["subject"], group["modality"]) == (subject, modality):
                    return store, group, summary
        raise ValueError(f"no scores of {subject} {modality} among the stores of stage encode")


def mean_r(targets: xr.DataArray) -> Array:
    """Plain mean over folds, NaN for a target that is constant in one, as in every replicate."""
    values: Array = targets.sel(measure="r").mean("fold", skipna=False).values
    return values


def _unique(targets: xr.DataArray) -> Array:
    """Return U = (sum sse_off - sum sse) / sum sst, (n_layers, n_targets)."""
    sums = targets.astype(np.float64).sum("fold", skipna=False)
    explained = sums.sel(measure="sse_off") - sums.sel(measure="sse")
    return np.asarray((explained / sums.sel(measure="sst")).values)


def _by_replicate(data: xr.DataArray) -> Array:
    return np.moveaxis(data.values.astype(np.float64), 1, 0)


Tables = dict[str, Array]


def _fill(study: _Study, tables: Tables) -> None:
    for i, signal in enumerate(study.signals):
        tables["usable"][i] = study.usable(signal)
        tables["identifiable"][i] = all(hierarchy.identifiable(c) for c in study.cka(signal))
        if study.fmri:
            _fill_space(study, tables, i, signal)
        if study.meg:
            _fill_time(study, tables, i, signal)
        if signal.startswith(UNIQUE):
            p = [
                tables[f"gradient_p_{m}"][i] for m in ("fmri", "meg") if f"gradient_p_{m}" in tables
            ]
            tables["gradient_p"][i] = stouffer(np.concatenate(p).tolist())


def _fill_space(study: _Study, tables: Tables, i: int, signal: str) -> None:
    usable = study.usable(signal)
    depth, regions = study.depth[usable], study.labels("region")
    subjects = [study.scores(signal, subject, "fmri") for subject in study.fmri]
    selected = [_significant_voxels(study, signal, scores) for scores in subjects]
    for j, position in enumerate(study.labels("position")):
        brains = [
            _brain(study, subject, scores, chosen, position)
            for subject, scores, chosen in zip(study.fmri, subjects, selected, strict=True)
        ]
        _fill_spatial_scores(study, tables, (i, j), brains, depth, regions)
        for s, brain in enumerate(brains):
            for r, region in enumerate(regions):
                inside = brain.position[brain.roi == region]
                tables["region_position"][j, r, s] = inside.mean() if len(inside) else np.nan
    for s, (brain, scores) in enumerate(zip(brains, subjects, strict=True)):
        profile = hierarchy.region_profile(brain, regions)
        tables["region_profile"][i, usable, :, s] = profile
        for k, how in enumerate(hierarchy.KSTARS):
            tables["region_depth"][i, k, :, s] = hierarchy.kstar(profile, depth, how)
        tables["significant_voxels"][i, s] = brain.selected.sum()
        if signal.startswith(UNIQUE):
            tables["gradient_p_fmri"][i, s] = max_statistic_p(scores.permutation)


def _fill_spatial_scores(
    study: _Study,
    tables: Tables,
    place: tuple[int, int],
    brains: Sequence[Brain],
    depth: Array,
    regions: Sequence[str],
) -> None:
    for r, resolution in enumerate(hierarchy.RESOLUTIONS):
        for k, how in enumerate(hierarchy.KSTARS):
            points = [hierarchy.POINTS[resolution](b, depth, how, regions) for b in brains]
            for c, method in enumerate(hierarchy.CORRELATIONS):
                score = hierarchy.spatial_score(points, method, study.spec.options.seed)
                at = (*place, r, k, c)
                tables["spatial_score"][at] = score.values
                tables["spatial_p"][at] = score.p
                tables["spatial_mean"][at] = score.mean
                tables["spatial_interval"][at] = score.low, score.high
                tables["spatial_combined_p"][at] = score.combined_p


def _significant_voxels(study: _Study, signal: str, scores: _Scores) -> NDArray[np.bool_]:
    """Select voxels: by the analytic p of the best layer's r, or U against its pooled null.

    The best of n layers is taken, hence Bonferroni over layers for r; for U the null holds the same
    maximum, pooled over the region means whose permutations are stored.
    """
    options = study.spec.options
    best = scores.values.max(axis=0)
    if signal.startswith(UNIQUE):
        null = scores.permutation[1:].max(axis=1)
        return significant(pooled_null_p(best, null.ravel()), options.significance)
    p = analytic_p(best, scores.n_stimuli, options.folds) * len(scores.values)
    return significant(np.minimum(p, 1.0), options.significance)


def _brain(
    study: _Study, subject: str, scores: _Scores, selected: NDArray[np.bool_], position: str
) -> Brain:
    coords = study.responses[subject, "fmri"]
    roi = coords["roi"].values.astype(object)
    hemisphere = coords["hemisphere"].values.astype(object)
    if position == "distance":
        xyz = np.stack([coords[axis].values for axis in "xyz"], axis=1)
        place = hierarchy.distance_to_seed(xyz, roi, hemisphere, study.spec.options.seed_region)
    else:
        place = hierarchy.ladder_position(roi, study.spec.options.ladders[position])
    return Brain(scores.values, selected, place, roi, hemisphere)


def _fill_time(study: _Study, tables: Tables, i: int, signal: str) -> None:
    usable, options = study.usable(signal), study.spec.options
    windows = study.labels("window")
    times = window_centres(study.coords)
    subjects: list[Timing] = []
    for s, subject in enumerate(study.meg):
        scores = study.scores(signal, subject, "meg")
        sensors = Sensors(
            *(_in_windows(scores, flat, windows) for flat in (scores.bootstrap, scores.permutation))
        )
        timing = latency.timing(sensors, times, options.search_window, options.significance)
        subjects.append(timing)
        tables["latency"][i, usable, s] = timing.latency
        tables["onset"][i, usable, s] = timing.onset
        tables["curve"][i, usable, :, s] = timing.curve
        tables["significant_sensors"][i, s] = timing.sensors.sum()
        if signal.startswith(UNIQUE):
            tables["gradient_p_meg"][i, s] = max_statistic_p(scores.permutation)
    for c, method in enumerate(hierarchy.CORRELATIONS):
        score = latency.temporal_score(subjects, study.depth[usable], method)
        tables["temporal_score"][i, c] = score.values
        tables["temporal_p"][i, c] = score.p
        tables["dropped_replicates"][i, c] = score.dropped
        tables["temporal_mean"][i, c] = score.mean
        tables["temporal_interval"][i, c] = score.low, score.high
        tables["temporal_combined_p"][i, c] = score.combined_p


def window_centres(tables: xr.Dataset) -> Array:
    """Return the centres of a comparison's windows, (n_windows,) in s."""
    if "window_start" not in tables.coords:  # version 1, whose windows were named by their centres
        return np.asarray(tables["window"].values, dtype=np.float64)
    return np.asarray((tables["window_start"] + tables["window_stop"]).values / 2)


def _in_windows(scores: _Scores, flat: Array, windows: Sequence[str]) -> Array:
    """Return summaries as (n, n_layers, n_sensors, n_windows) in the windows of all subjects."""
    own = [name for name, _, _ in scores.windows or ()]
    shape = (*flat.shape[:2], len(scores.names), len(own))
    return flat.reshape(shape)[..., np.isin(own, windows)]


def _judge_all(study: _Study, tables: Tables) -> Mapping[str, Judgement]:
    """Judge every gradient in U, which alone speaks for a gradient signal."""
    judgements = {}
    forward = study.signals.index("forward")
    for i, signal in enumerate(study.signals):
        if signal.startswith(UNIQUE):
            evidence = Evidence(
                gradient_p=float(tables["gradient_p"][i]),
                forward_space=_space(study, tables, forward),
                gradient_space=_space(study, tables, i),
                forward_time=_time(study, tables, forward),
                gradient_time=_time(study, tables, i),
                identifiable=bool(tables["identifiable"][forward] and tables["identifiable"][i]),
                significance=study.spec.options.significance,
                smallest_effect=study.spec.options.smallest_effect,
            )
            judgements[signal] = judge(evidence)
            tables["verdict"][i] = VERDICTS.index(judgements[signal].verdict)
    return judgements


def _space(study: _Study, tables: Tables, i: int) -> Score | None:
    if not study.fmri:
        return None
    at = (
        i,
        study.labels("position").index(VERDICT_POSITION),
        hierarchy.RESOLUTIONS.index(VERDICT_RESOLUTION),
        hierarchy.KSTARS.index(VERDICT_KSTAR),
        hierarchy.CORRELATIONS.index(VERDICT_CORRELATION),
    )
    low, high = tables["spatial_interval"][at]
    return Score(float(tables["spatial_mean"][at]), float(low), float(high))


def _time(study: _Study, tables: Tables, i: int) -> Score | None:
    if not study.meg:
        return None
    at = (i, hierarchy.CORRELATIONS.index(VERDICT_CORRELATION))
    low, high = tables["temporal_interval"][at]
    return Score(float(tables["temporal_mean"][at]), float(low), float(high))
