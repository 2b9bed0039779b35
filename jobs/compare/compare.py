"""Stage compare: the hierarchy comparisons of one model, from its scores alone."""

from collections.abc import Iterator

import xarray as xr

from gradenc_core.compare.space import identifiable
from gradenc_core.compare.verdict import Judgement, judge, judge_order
from jobs.compare import judged, person, space, time
from jobs.compare.evidence import compared_signals, evidence_of, judged_signals
from jobs.compare.inputs import Inputs
from jobs.compare.tables import empty_tables, labels
from jobs.runner import Arrays, Facts, Work
from jobs.spec import ComparisonsSpec
from storage_schemas.kinds.schema import flag_value
from storage_schemas.protocol.store import Store, Unit


def compute(work: Work) -> Iterator[tuple[Store, Unit, Arrays, Facts]]:
    """Yield the tables of every model; the verdicts' sentences go into the commit record."""
    for store, unit in work.units:
        spec = ComparisonsSpec.model_validate(store.spec)
        tables = empty_tables(store)
        inputs = Inputs(spec, labels(tables, "layer"), work.root)
        _fill(inputs, tables)
        judgements = {signal: _judge(inputs, tables, signal) for signal in judged_signals(tables)}
        facts = {
            "verdicts": {
                signal: {"verdict": str(j.verdict), "sentence": j.sentence}
                for signal, j in judgements.items()
            },
            "left_out": inputs.left_out(),
        }
        yield store, unit, {name: tables[name].values for name in unit.regions}, facts


def _fill(inputs: Inputs, tables: xr.Dataset) -> None:
    for signal in compared_signals(tables):
        tables["usable"].loc[{"signal": signal}] = inputs.usable(signal)
    for signal in _with_layers(inputs, tables):
        tables["identifiable"].loc[{"signal": signal}] = all(map(identifiable, inputs.cka(signal)))
    judged.fill_beyond(inputs, tables)
    if labels(tables, "fmri_subject"):
        _fill_space(inputs, tables)
    if labels(tables, "meg_subject"):
        _fill_time(inputs, tables)


def _with_layers(inputs: Inputs, tables: xr.Dataset) -> list[str]:
    """Return the signals that are compared and have a layer of their own."""
    return [signal for signal in compared_signals(tables) if inputs.usable(signal).any()]


def _fill_space(inputs: Inputs, tables: xr.Dataset) -> None:
    """Fill the tables in space; a learning signal's rest on those of the activations."""
    subjects, learned = labels(tables, "fmri_subject"), judged_signals(tables)
    forward = person.read_people(inputs, "forward", subjects)
    space.fill_space(inputs, tables, "forward", forward, forward)
    for signal in _with_layers(inputs, tables):
        if signal != "forward":
            people = person.read_people(inputs, signal, subjects)
            space.fill_space(inputs, tables, signal, people, forward)
            if signal in learned:
                judged.fill_spatial(inputs, tables, signal, people, forward)


def _fill_time(inputs: Inputs, tables: xr.Dataset) -> None:
    """Fill the tables in time; a learning signal's rest on those of the activations."""
    subjects, learned = labels(tables, "meg_subject"), judged_signals(tables)
    forward = time.read_people(inputs, tables, "forward", subjects)
    time.fill_time(inputs, tables, "forward", forward, forward)
    for signal in _with_layers(inputs, tables):
        if signal != "forward":
            people = time.read_people(inputs, tables, signal, subjects)
            time.fill_time(inputs, tables, signal, people, forward)
            if signal in learned:
                judged.fill_temporal(inputs, tables, signal, people)


def _judge(inputs: Inputs, tables: xr.Dataset, signal: str) -> Judgement:
    """Judge a learning signal by what it predicts beyond the baseline, in every order and over all.

    The sentence names the people who could not be tested, with the reason.
    """
    evidence, significance = evidence_of(tables, signal), inputs.spec.options.significance
    level = significance / len(evidence)
    judgement = judge(evidence, significance)
    verdicts = tables["verdict"]
    verdicts.loc[{"signal": signal}] = flag_value(verdicts.attrs, judgement.verdict)
    verdicts = tables["order_verdict"]
    for own in evidence:
        found = judge_order(own, level).verdict
        verdicts.loc[{"signal": signal, "order": own.order}] = flag_value(verdicts.attrs, found)
    return Judgement(
        judgement.verdict, " ".join([judgement.sentence, *inputs.untested(signal, level)])
    )
