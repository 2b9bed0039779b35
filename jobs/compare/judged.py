"""The tables that verdicts rest on, of what signals predict beyond the baseline.

Every order belongs to one modality: fMRI decides the order in space, MEG or EEG that in time.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from gradenc_core.compare.reference import (
    UNKNOWN,
    Curves,
    Reference,
    Regions,
    space_reference,
    time_reference,
)
from gradenc_core.compare.statistics import (
    above_zero_p,
    common_max_p,
    exceeds_p,
    max_statistic_p,
    permutation_maxima,
)
from jobs.compare import person, time
from jobs.compare.evidence import AGREEMENT_CELL, SPATIAL_CELL, controls_of, judged_signals
from jobs.compare.inputs import Inputs
from jobs.compare.tables import labels, window_centres
from storage_schemas.kinds.comparisons import DISTANCE, ORDERS
from storage_schemas.sources import UNIQUE

Array = NDArray[np.float64]


def fill_beyond(inputs: Inputs, tables: xr.Dataset) -> None:
    """Fill the p of what every signal, the controls too, predicts beyond the baseline."""
    beyond = [signal for signal in labels(tables, "signal") if signal.startswith(UNIQUE)]
    if not beyond:
        return
    tested = [signal for signal in beyond if inputs.usable(signal).any()]
    orders = labels(tables, "order")
    for signal, order in product(tested, orders):
        _fill_signal_p(inputs, tables, signal, order)
    for signal, order in product(judged_signals(tables), orders):
        _fill_controls(inputs, tables, signal, order)
    smallest = tables["signal_p"].min("order") * len(orders)
    tables["gradient_p"].loc[{"signal": beyond}] = smallest.sel(signal=beyond).clip(max=1)


def _fill_signal_p(inputs: Inputs, tables: xr.Dataset, signal: str, order: str) -> None:
    """Fill the p of every subject, and that of all, whose permutations are common.

    NaN where permutations are too few for a p to reach the level.
    """
    subjects = f"{ORDERS[order]}_subject"
    maxima = [permutation_maxima(scores) for scores in _permuted(inputs, tables, signal, order)]
    for subject, own in zip(labels(tables, subjects), maxima, strict=True):
        at = {"signal": signal, subjects: subject}
        tables[f"gradient_p_{ORDERS[order]}"].loc[at] = max_statistic_p(own)
    if 1 / len(maxima[0]) <= _level(inputs, tables):
        tables["signal_p"].loc[{"signal": signal, "order": order}] = common_max_p(maxima)


def _permuted(inputs: Inputs, tables: xr.Dataset, signal: str, order: str) -> Iterator[Array]:
    """Yield every subject's scores under permutation: they are large, so one at a time."""
    for subject in labels(tables, f"{ORDERS[order]}_subject"):
        yield inputs.permutation(signal, subject, ORDERS[order])


def _fill_controls(inputs: Inputs, tables: xr.Dataset, signal: str, order: str) -> None:
    """Fill the p of a signal's controls, and that it exceeds those that are significant."""
    p = tables["signal_p"].sel(signal=controls_of(tables, signal), order=order)
    at = {"signal": signal, "order": order}
    tables["control_p"].loc[at] = p.min()
    found = [
        exceeds_p(
            _permuted(inputs, tables, signal, order),
            _permuted(inputs, tables, str(control), order),
        )
        for control in p["signal"].values[p.values <= _level(inputs, tables)]
        if inputs.usable(signal).any()
    ]
    if found:
        tables["exceeds_p"].loc[at] = np.nan_to_num(found, nan=1.0).max()


def fill_spatial(
    inputs: Inputs,
    tables: xr.Dataset,
    signal: str,
    people: Sequence[person.Person],
    forward: Sequence[person.Person],
) -> None:
    """Fill what the verdict on a signal's order in space rests on."""
    usable, regions = inputs.usable(signal), labels(tables, "region")
    subjects = [
        _regions(own.at(inputs, DISTANCE), other, usable, regions)
        for own, other in zip(people, forward, strict=True)
    ]
    reference = space_reference(
        subjects,
        tables["layer_depth"].values[usable],
        SPATIAL_CELL["kstar"],
        _level(inputs, tables),
        inputs.spec.options.seed,
    )
    at = {"signal": signal, "order": "spatial"}
    _fill_reference(tables, at, reference)
    forward_p = tables["spatial_combined_p"].sel({"signal": "forward", **SPATIAL_CELL})
    tables["forward_order_p"].loc[at] = forward_p.item()
    agrees_p = tables["agreement_combined_p"].sel({"signal": signal, **AGREEMENT_CELL})
    tables["agrees_p"].loc[at] = agrees_p.item()


def _regions(
    own: person.Person,
    forward: person.Person,
    usable: NDArray[np.bool_],
    regions: Sequence[str],
) -> Regions:
    """Return one subject's mean responses; without r of activations one has no expected layer."""
    assert own.confusion is not None
    means = own.brains["mean_response"]
    activations = forward.brains["mean_response"].profile[usable]
    likely = activations + forward.noise[:, usable]
    number = {name: i for i, name in enumerate(regions)}
    return Regions(
        profile=means.profile,
        noise=own.noise,
        driver=likely.argmax(axis=1),
        position=np.where(np.isfinite(activations).all(axis=0), means.position, np.nan),
        region=np.array([number[name] for name in means.roi], dtype=np.intp),
        confusion=own.confusion,
    )


def fill_temporal(
    inputs: Inputs, tables: xr.Dataset, signal: str, people: Sequence[time.Person]
) -> None:
    """Fill what the verdict on a signal's order in time rests on."""
    options, at = inputs.spec.options, {"signal": signal, "order": "temporal"}
    sweep = tables["timing_mean"].sel(signal="forward", timing="slope").item()
    reference = UNKNOWN
    # Backpropagation is as fast as a share of the forward sweep: without one there is no reference.
    if sweep > 0:
        reference = time_reference(
            [_curves(one) for one in people],
            tables["layer_depth"].values[inputs.usable(signal)],
            window_centres(tables),
            options.search_window,
            -options.smallest_effect * sweep,
            _level(inputs, tables),
            options.seed,
        )
    _fill_reference(tables, at, reference)
    tables["forward_order_p"].loc[at] = _above_zero_p(tables, "forward", "slope")
    tables["agrees_p"].loc[at] = _above_zero_p(tables, signal, "lag")


def _curves(own: time.Person) -> Curves:
    assert own.confusion is not None
    return Curves(own.curves[0], own.curves[1:], own.confusion)


def _above_zero_p(tables: xr.Dataset, signal: str, quantity: str) -> float:
    """Return the one-sided p of a quantity of latencies above 0, from its two-sided p."""
    at = {"signal": signal, "timing": quantity}
    return above_zero_p(
        *(tables[f"timing_{kind}"].sel(at).item() for kind in ("mean", "combined_p"))
    )


def _level(inputs: Inputs, tables: xr.Dataset) -> float:
    """Return the level of each order, at which its power is stated: Bonferroni over modalities."""
    return inputs.spec.options.significance / tables.sizes["order"]


def _fill_reference(tables: xr.Dataset, at: Mapping[str, str], reference: Reference) -> None:
    tables["observed_order"].loc[at] = reference.observed
    tables["no_order_p"].loc[at] = reference.none_p
    tables["backprop_p"].loc[at] = reference.backprop_p
    tables["power"].loc[at] = reference.power
