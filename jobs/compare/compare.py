"""Stage compare: the hierarchy comparisons of one model, from its scores alone.

Tables are filled by the labels of the store that they go into, never by position, so that no number
can end up under another's name.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from gradenc_core.compare.space import (
    POINTS,
    Brain,
    SpatialScore,
    distance_to_seed,
    identifiable,
    kstar,
    ladder_position,
    region_position,
    region_profile,
    spatial_score,
)
from gradenc_core.compare.statistics import (
    max_statistic_p,
    pooled_null_p,
    significant,
    stouffer,
)
from gradenc_core.compare.time import Sensors, TemporalScore, temporal_score, timing
from gradenc_core.compare.verdict import Judgement, judge
from gradenc_core.ridge.scores import analytic_p
from jobs.compare.evidence import Order, evidence_of
from jobs.compare.inputs import Inputs, Scores
from jobs.runner import Arrays, Facts, Work
from jobs.spec import CompareOptions, ComparisonsSpec
from storage_schemas.kinds.comparisons import BOUNDS, DISTANCE, NOT_JUDGED
from storage_schemas.kinds.schema import flag_value
from storage_schemas.protocol.store import Store, Unit
from storage_schemas.sources import UNIQUE

Array = NDArray[np.float64]


def compute(work: Work) -> Iterator[tuple[Store, Unit, Arrays, Facts]]:
    """Yield the tables of every model; the verdicts' sentences go into the commit record."""
    for store, unit in work.units:
        spec = ComparisonsSpec.model_validate(store.spec)
        tables = _empty_tables(store)
        inputs = Inputs(spec, labels(tables, "layer"), work.root)
        for signal in labels(tables, "signal"):
            _fill_signal(inputs, tables, signal)
        judgements = _judge_all(tables, spec.options)
        facts = {
            "verdicts": {
                signal: {"verdict": str(j.verdict), "sentence": j.sentence}
                for signal, j in judgements.items()
            },
            "left_out": inputs.left_out(),
        }
        yield store, unit, {name: tables[name].values for name in unit.regions}, facts


def labels(tables: xr.Dataset, dim: str) -> list[str]:
    """Return a dimension's labels as plain strings; none if no table has it."""
    return [str(value) for value in tables[dim].values] if dim in tables.coords else []


def window_centres(tables: xr.Dataset) -> Array:
    """Return the centres of a comparison's windows, (n_windows,) in s."""
    return np.asarray((tables["window_start"] + tables["window_stop"]).values / 2)


def _empty_tables(store: Store) -> xr.Dataset:
    """Return the store's tables with its labels: NaN everywhere, and no signal judged."""
    coords = store.dataset().coords.to_dataset().load().coords
    empty = {
        name: (array.dims, np.full(array.shape, array.fill_value, array.dtype), array.attrs)
        for name, array in store.arrays.items()
    }
    tables = xr.Dataset(empty, coords)
    tables["verdict"][:] = flag_value(tables["verdict"].attrs, NOT_JUDGED)
    return tables


def _fill_signal(inputs: Inputs, tables: xr.Dataset, signal: str) -> None:
    tables["usable"].loc[{"signal": signal}] = inputs.usable(signal)
    tables["identifiable"].loc[{"signal": signal}] = all(map(identifiable, inputs.cka(signal)))
    if fmri := labels(tables, "fmri_subject"):
        _fill_space(inputs, tables, signal, fmri)
    if meg := labels(tables, "meg_subject"):
        _fill_time(inputs, tables, signal, meg)
    if signal.startswith(UNIQUE):
        recorded = [name for name in ("gradient_p_fmri", "gradient_p_meg") if name in tables]
        p = np.concatenate([tables[name].sel(signal=signal).values for name in recorded])
        tables["gradient_p"].loc[{"signal": signal}] = stouffer(p.tolist())


def _fill_space(inputs: Inputs, tables: xr.Dataset, signal: str, subjects: Sequence[str]) -> None:
    options, regions = inputs.spec.options, labels(tables, "region")
    usable = inputs.usable(signal)
    depth = tables["layer_depth"].values[usable]
    scores = [inputs.scores(signal, subject, "fmri") for subject in subjects]
    selected = [significant_voxels(signal, own, options) for own in scores]
    for position in labels(tables, "position"):
        brains = [
            _brain(inputs, subject, own, chosen, position)
            for subject, own, chosen in zip(subjects, scores, selected, strict=True)
        ]
        at = {"signal": signal, "position": position}
        _fill_spatial_scores(tables, at, brains, depth, options.seed)
        if position == DISTANCE:
            for subject, brain in zip(subjects, brains, strict=True):
                at = {"fmri_subject": subject}
                tables["region_position"].loc[at] = region_position(brain, regions)
    for subject, own, brain in zip(subjects, scores, brains, strict=True):
        at = {"signal": signal, "fmri_subject": subject}
        profile = region_profile(brain, regions)
        tables["region_profile"].loc[{**at, "layer": tables["layer"][usable]}] = profile
        for how in labels(tables, "kstar"):
            tables["region_depth"].loc[{**at, "kstar": how}] = kstar(profile, depth, how)
        tables["significant_voxels"].loc[at] = brain.selected.sum()
        if signal.startswith(UNIQUE):
            tables["gradient_p_fmri"].loc[at] = max_statistic_p(own.permutation)


def _fill_spatial_scores(
    tables: xr.Dataset, at: Mapping[str, str], brains: Sequence[Brain], depth: Array, seed: int
) -> None:
    """Fill the scores of one signal and position, for every resolution, k* and correlation."""
    regions = labels(tables, "region")
    for resolution, how in product(labels(tables, "resolution"), labels(tables, "kstar")):
        points = [POINTS[resolution](brain, depth, how, regions) for brain in brains]
        for method in labels(tables, "correlation"):
            score = spatial_score(points, method, seed)
            cell = {**at, "resolution": resolution, "kstar": how, "correlation": method}
            tables["spatial_score"].loc[cell] = score.values
            tables["spatial_p"].loc[cell] = score.p
            tables["spatial_combined_p"].loc[cell] = score.combined_p
            _fill_mean(tables, "spatial", cell, score)


def _fill_time(inputs: Inputs, tables: xr.Dataset, signal: str, subjects: Sequence[str]) -> None:
    options, times = inputs.spec.options, window_centres(tables)
    usable = inputs.usable(signal)
    timings = []
    for subject in subjects:
        scores = inputs.scores(signal, subject, "meg")
        found = timing(
            _sensors(scores, labels(tables, "window")),
            times,
            options.search_window,
            options.significance,
        )
        timings.append(found)
        at = {"signal": signal, "meg_subject": subject}
        of_layers = {**at, "layer": tables["layer"][usable]}
        tables["latency"].loc[of_layers] = found.latency
        tables["onset"].loc[of_layers] = found.onset
        tables["curve"].loc[of_layers] = found.curve
        tables["significant_sensors"].loc[at] = found.sensors.sum()
        if signal.startswith(UNIQUE):
            tables["gradient_p_meg"].loc[at] = max_statistic_p(scores.permutation)
    for method in labels(tables, "correlation"):
        score = temporal_score(timings, tables["layer_depth"].values[usable], method)
        cell = {"signal": signal, "correlation": method}
        tables["temporal_score"].loc[cell] = score.values
        tables["temporal_p"].loc[cell] = score.p
        tables["temporal_combined_p"].loc[cell] = score.combined_p
        tables["dropped_replicates"].loc[cell] = score.dropped
        _fill_mean(tables, "temporal", cell, score)


def _fill_mean(
    tables: xr.Dataset, order: Order, cell: Mapping[str, str], score: SpatialScore | TemporalScore
) -> None:
    tables[f"{order}_mean"].loc[cell] = score.mean
    for bound in BOUNDS:
        tables[f"{order}_interval"].loc[{**cell, "bound": bound}] = getattr(score, bound)


def significant_voxels(signal: str, scores: Scores, options: CompareOptions) -> NDArray[np.bool_]:
    """Select voxels by their best layer, at a false discovery rate.

    r: the analytic p of the best layer, times the number of layers (Bonferroni). U: the best
    layer's U against the same maximum under permutation, pooled over the region means whose
    permutations are stored.

    Returns
    -------
    array of bool, (n_voxels,)
    """
    best = scores.values.max(axis=0)
    if signal.startswith(UNIQUE):
        null = scores.permutation[1:].max(axis=1)
        return significant(pooled_null_p(best, null.ravel()), options.significance)
    p = analytic_p(best, scores.n_independent, options.folds) * len(scores.values)
    return significant(np.minimum(p, 1.0), options.significance)


def _brain(
    inputs: Inputs, subject: str, scores: Scores, selected: NDArray[np.bool_], position: str
) -> Brain:
    coords, options = inputs.responses[subject, "fmri"], inputs.spec.options
    roi = coords["roi"].values.astype(object)
    hemisphere = coords["hemisphere"].values.astype(object)
    if position == DISTANCE:
        xyz = np.stack([coords[axis].values for axis in "xyz"], axis=1)
        place = distance_to_seed(xyz, roi, hemisphere, options.seed_region)
    else:
        place = ladder_position(roi, options.ladders[position])
    return Brain(scores.values, selected, place, roi, hemisphere)


def _sensors(scores: Scores, windows: Sequence[str]) -> Sensors:
    """Return a subject's resampled scores in the windows that all subjects have."""
    own = [name for name, _, _ in scores.windows or ()]
    common = np.isin(own, windows)

    def split(flat: Array) -> Array:
        return flat.reshape(*flat.shape[:2], len(scores.names), len(own))[..., common]

    return Sensors(split(scores.bootstrap), split(scores.permutation))


def _judge_all(tables: xr.Dataset, options: CompareOptions) -> dict[str, Judgement]:
    """Judge every learning signal by its unique variance, the only evidence for it."""
    judgements = {}
    for signal in labels(tables, "signal"):
        if signal.startswith(UNIQUE):
            judgement = judge(evidence_of(tables, signal, options))
            judgements[signal] = judgement
            verdicts = tables["verdict"]
            verdicts.loc[{"signal": signal}] = flag_value(verdicts.attrs, judgement.verdict)
    return judgements
