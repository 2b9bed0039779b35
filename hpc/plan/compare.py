"""The stores of stage compare: the hierarchy comparisons of every model."""

from collections.abc import Iterator, Sequence

from gradenc_core.compare.people import untestable
from hpc.plan.bands import bands_of, feature_label, score_label
from hpc.plan.store_plan import References, StorePlan, safe
from hpc.plan.subjects import (
    Targets,
    common_windows,
    encode_groups,
    in_order,
    stimulus_sets,
    windows_of,
)
from hpc.study.resolved import Resolved, ResolvedModel
from hpc.study.study import Study
from jobs import spec as specs
from storage_schemas.kinds.comparisons import CONTROL_SIGNALS, DISTANCE, comparisons_layout
from storage_schemas.layout import Layout
from storage_schemas.sources import unique_of


def compare_plans(
    study: Study, resolved: Resolved, targets: Sequence[Targets], references: References
) -> Iterator[StorePlan]:
    """Plan stage compare: one store per model."""
    numbers = range(len(list(stimulus_sets(targets))))
    groups = encode_groups(targets)
    for model in resolved.models:
        scores = {
            bands: tuple(references[f"encode/{score_label(model, bands, g)}"] for g in groups)
            for bands in bands_of(resolved)
        }
        collinearity = {
            source: tuple(
                references[f"encode/cka-{feature_label(model.name, source, n)}"] for n in numbers
            )
            for source in resolved.sources
        }
        spec = specs.ComparisonsSpec(
            scores=scores,
            classes={
                source: references[f"prepare/{model.name}-{safe(source)}"]
                for source in resolved.gradients
            },
            collinearity=collinearity,
            responses=tuple(references[f"ingest/{t.label}"] for t in targets),
            options=compare_options(study),
        )
        layout = comparison_layout(study, resolved, model, targets)
        attrs = {"model": model.name, "control": model.control}
        yield StorePlan("compare", "comparisons", model.name, spec, layout, attrs, {})


def comparison_layout(
    study: Study, resolved: Resolved, model: ResolvedModel, targets: Sequence[Targets]
) -> Layout:
    """Return the tables of one model's comparisons."""
    fmri = [t for t in targets if t.modality == "fmri"]
    meg = [t for t in targets if t.modality == "meg"]
    regions = dict.fromkeys(str(name) for t in fmri for name in t.coords["roi"].values)
    return comparisons_layout(
        signals_of(resolved),
        model.layers,
        in_order(regions, study.comparisons.ladders.values()),
        [DISTANCE, *study.comparisons.ladders],
        [t.subject for t in fmri],
        [t.subject for t in meg],
        common_windows(meg, windows_of(study)),
    )


def signals_of(resolved: Resolved) -> list[str]:
    """Return the signals that are compared: sources alone, then gradients beyond the baseline.

    The controls, forward features beyond the baseline, stand last.
    """
    unique = [unique_of(source) for source in resolved.gradients]
    return [*resolved.sources, *unique, *(CONTROL_SIGNALS if unique else ())]


def compare_options(study: Study) -> specs.CompareOptions:
    """Return the study's comparison options in the form that is hashed."""
    comparisons = study.comparisons
    return specs.CompareOptions(
        search_window=(comparisons.search_window[0], comparisons.search_window[1]),
        ladders={name: tuple(ladder) for name, ladder in comparisons.ladders.items()},
        seed_region=comparisons.seed_region,
        significance=comparisons.significance,
        smallest_effect=comparisons.smallest_effect,
        folds=study.encoding.folds,
        seed=study.seed,
    )


def order_note(plans: Sequence[StorePlan]) -> str:
    """Say which orders over regions a study cannot test; empty where it can test all."""
    for plan in plans:
        if isinstance(plan.spec, specs.ComparisonsSpec) and "region" in plan.layout.coords:
            regions = [str(name) for name in plan.layout.coords["region"].values]
            n_people = plan.layout.coords.sizes["fmri_subject"]
            return "\n".join(_too_few(plan.spec.options, regions, n_people))
    return ""


def _too_few(options: specs.CompareOptions, regions: Sequence[str], n_people: int) -> Iterator[str]:
    if said := untestable(len(regions), n_people):
        yield said
    for name, ladder in options.ladders.items():
        absent = [region for region in ladder if region not in regions]
        said = untestable(len(ladder) - len(absent), n_people)
        if absent and said:
            yield f"ladder {name}, without {', '.join(absent)}, which nobody has: {said}"
