"""The page of a run: warnings, verdicts, predictions against findings, figures, counts."""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import jinja2
import xarray as xr

from gradenc_core.compare.verdict import Verdict
from jobs.compare.evidence import compared_signals, judged_signals
from jobs.report.cautions import cautions
from jobs.report.counts import counts
from jobs.report.orders import CLAIMS, order_rows
from jobs.report.plots import comparison_figures, stability_figures
from jobs.report.predictions import HypothesisTable, hypothesis_table
from jobs.report.subjects import people_rows, subject_rows, too_few_regions
from jobs.report.words import judged_name, rules_of_scores
from jobs.spec import ComparisonsSpec
from storage_schemas import files as durable
from storage_schemas.protocol.commit import facts_of
from storage_schemas.protocol.seal import run_digest
from storage_schemas.protocol.store import Store
from storage_schemas.results.open import open_run
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
    Verdict.NOT_IDENTIFIABLE: "Not identifiable: this study could not tell the orders apart",
}


def write_report(run: Path, path: Path) -> None:
    """Write the report of a complete run as one HTML file without outside links."""
    stores = [store for stage in read_run(run).stores for store in run_stores(run, stage)]
    tree = open_run(run)
    comparisons = [store for store in stores if store.kind == "comparisons"]
    template = jinja2.Environment(autoescape=True).from_string(
        files("jobs.report").joinpath("page.html.j2").read_text(encoding="utf-8")
    )
    page = template.render(
        name=read_run(run).name,
        summary=_summary(tree),
        warnings=list(cautions(stores)),
        verdicts=[v for store in comparisons for v in _verdicts(store)],
        orders=[row for store in comparisons for row in _orders(store)],
        hypotheses=[t for store in comparisons for t in _hypotheses(store)],
        models=[_model(store, tree) for store in comparisons],
        counts=list(counts(stores)),
        version=version("gradenc"),
        digest=run_digest(stores),
        study=(run / "study.yaml").read_text(encoding="utf-8"),
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
            "title": f"{store.attrs['model']}{role}, {judged_name(signal)}: {TITLES[verdict]}",
            "verdict": verdict.value,
            "colour": COLOURS[verdict],
            "sentence": judgement["sentence"],
            "claim": CLAIMS[verdict],
        }


def _orders(store: Store) -> Iterator[dict[str, str]]:
    for row in order_rows(store.dataset().load()):
        yield {"model": store.attrs["model"], **row}


def _hypotheses(store: Store) -> Iterator[HypothesisTable]:
    tables = store.dataset().load()
    for signal in judged_signals(tables):
        yield hypothesis_table(tables, signal, f"{store.attrs['model']}, {judged_name(signal)}")


@dataclass(frozen=True)
class ModelFacts:
    """What the page shows of one model's comparisons."""

    name: str
    control: bool
    rules: str
    """How its scores were cross-validated and tested."""
    figures: tuple[dict[str, str], ...]
    subjects: tuple[dict[str, str], ...]
    too_few_regions: str


def _model(store: Store, tree: xr.DataTree) -> ModelFacts:
    name = store.attrs["model"]
    options = ComparisonsSpec.model_validate(store.spec).options
    tables = tree[f"comparisons/{name}"].to_dataset().load()
    tables = tables.sel(signal=compared_signals(tables))
    shown = [*comparison_figures(tables, options.seed_region), *stability_figures(tree, name)]
    subjects = tuple([*people_rows(tables), *subject_rows(tables, options.significance)])
    scores = next(iter(tree[f"scores/{name}"].leaves)).attrs
    rules = rules_of_scores(scores["fold_rule"], scores["permute_within"])
    few = too_few_regions(tables)
    return ModelFacts(name, store.attrs["control"], rules, tuple(shown), subjects, few)
