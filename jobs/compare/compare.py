"""Stage compare: the hierarchy comparisons of one model, from its scores alone."""

from collections.abc import Iterator

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from gradenc_core.compare.space import identifiable
from gradenc_core.compare.statistics import common_max_p
from gradenc_core.compare.verdict import Judgement, judge
from jobs.compare import person, space, time
from jobs.compare.evidence import evidence_of
from jobs.compare.inputs import Inputs
from jobs.compare.tables import empty_tables, labels
from jobs.runner import Arrays, Facts, Work
from jobs.spec import CompareOptions, ComparisonsSpec
from storage_schemas.kinds.schema import flag_value
from storage_schemas.protocol.store import Store, Unit
from storage_schemas.sources import UNIQUE

Array = NDArray[np.float64]


def compute(work: Work) -> Iterator[tuple[Store, Unit, Arrays, Facts]]:
    """Yield the tables of every model; the verdicts' sentences go into the commit record."""
    for store, unit in work.units:
        spec = ComparisonsSpec.model_validate(store.spec)
        tables = empty_tables(store)
        inputs = Inputs(spec, labels(tables, "layer"), work.root)
        _fill(inputs, tables)
        judgements = _judge_all(tables, spec.options)
        facts = {
            "verdicts": {
                signal: {"verdict": str(j.verdict), "sentence": j.sentence}
                for signal, j in judgements.items()
            },
            "left_out": inputs.left_out(),
        }
        yield store, unit, {name: tables[name].values for name in unit.regions}, facts


def _fill(inputs: Inputs, tables: xr.Dataset) -> None:
    signals = labels(tables, "signal")
    largest: dict[str, list[Array]] = {signal: [] for signal in signals}
    for signal in signals:
        tables["usable"].loc[{"signal": signal}] = inputs.usable(signal)
        tables["identifiable"].loc[{"signal": signal}] = all(map(identifiable, inputs.cka(signal)))
    if fmri := labels(tables, "fmri_subject"):
        forward = person.read_people(inputs, "forward", fmri)
        for signal in signals:
            people = person.read_people(inputs, signal, fmri)
            space.fill_space(inputs, tables, signal, people, forward)
            largest[signal] += [one.largest for one in people]
    if meg := labels(tables, "meg_subject"):
        activations = time.read_people(inputs, tables, "forward", meg)
        for signal in signals:
            timed = time.read_people(inputs, tables, signal, meg)
            time.fill_time(inputs, tables, signal, timed, activations)
            largest[signal] += [one.largest for one in timed]
    for signal in signals:
        if signal.startswith(UNIQUE):
            tables["gradient_p"].loc[{"signal": signal}] = common_max_p(largest[signal])


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
