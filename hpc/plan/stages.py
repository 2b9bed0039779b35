"""Which stores a stage needs and which units fill them: pure planning, nothing is submitted here.

A stage is planned when the stages before it are sealed, because a store's identity holds the
digests of the seals it builds on. Planning twice gives the same stores.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from gradenc_core.signals.sizes import scaled_width
from gradenc_core.signals.stability import PERTURBATIONS
from gradenc_core.stimuli.folds import assign_blocks, assign_folds
from hpc.plan.prepare import (
    has_components,
    labels_of,
    locations_of,
    objective_spec,
    pca_label,
    prepare_plans,
)
from hpc.plan.store_plan import References, StorePlan, safe
from hpc.plan.targets import (
    Targets,
    check_fit,
    common_windows,
    encode_groups,
    group_label,
    in_order,
    stimulus_sets,
    target_groups,
    window_coords,
    windows_of,
)
from hpc.study.resolved import Resolved, ResolvedModel, Subject, signal_spec
from hpc.study.study import Study
from jobs import spec as specs
from jobs.spec import SAME_LAYER, Reference
from storage_schemas.identity import digest
from storage_schemas.kinds.collinearity import collinearity_layout
from storage_schemas.kinds.comparisons import DISTANCE, comparisons_layout
from storage_schemas.kinds.coordinates import stimulus_coords
from storage_schemas.kinds.features import features_layout
from storage_schemas.kinds.names import unique_of
from storage_schemas.kinds.responses import responses_layout
from storage_schemas.kinds.scores import scores_layout
from storage_schemas.kinds.stability import stability_layout
from storage_schemas.layout import Layout


def all_plans(study: Study, resolved: Resolved, subjects: Sequence[Subject]) -> list[StorePlan]:
    """Plan every stage before anything runs, with placeholders for seals that do not exist yet.

    Counts what a study would run, and refuses what a later stage could not be planned with.

    Raises
    ------
    ValueError
        Naming the key of the study that does not fit the recordings.
    """
    targets = [Targets.of_subject(subject) for subject in subjects]
    check_fit(study, targets)
    sealed: defaultdict[str, Reference] = defaultdict(
        lambda: Reference(stage="planned", identity="planned", seal="planned")
    )
    return [
        *prepare_plans(study, resolved),
        *ingest_plans(resolved, subjects),
        *extract_plans(study, resolved, targets, sealed),
        *encode_plans(study, resolved, targets, sealed),
        *compare_plans(study, resolved, targets, sealed),
    ]


def ingest_plans(resolved: Resolved, subjects: Iterable[Subject]) -> Iterator[StorePlan]:
    """Plan stage ingest: one store per subject and modality."""
    digests = dict(zip(resolved.stimulus_ids, resolved.stimulus_digests, strict=True))
    for subject in subjects:
        targets = Targets.of_subject(subject)
        spec = specs.ResponsesSpec(
            reader=subject.reader,
            subject=targets.subject,
            options=subject.options,
            stimuli=_set_digest(targets.stimuli, digests),
            files=dict(subject.description.files),
        )
        yield StorePlan(
            "ingest",
            "responses",
            targets.label,
            spec,
            responses_layout(
                targets.stimuli,
                [digests[name] for name in targets.stimuli],
                targets.coords,
                targets.dims,
            ),
            {"subject": targets.subject, "modality": targets.modality},
            {"responses": str(subject.folder), "stimuli": resolved.stimuli},
        )


def extract_plans(
    study: Study, resolved: Resolved, targets: Sequence[Targets], references: References
) -> Iterator[StorePlan]:
    """Plan stage extract: features per model, source and stimulus set; stability of each source."""
    digests = dict(zip(resolved.stimulus_ids, resolved.stimulus_digests, strict=True))
    for model in resolved.models:
        for number, stimuli in enumerate(stimulus_sets(targets)):
            for source in resolved.sources:
                signal = signal_spec(study, model, source)
                spec = specs.FeaturesSpec(
                    model=model.spec,
                    source=source,
                    signal=signal,
                    stimuli=_set_digest(stimuli, digests),
                    stimuli_per_shard=study.extraction.stimuli_per_shard,
                    prepared=references[f"prepare/{model.name}"],
                    labels=labels_of(resolved, source),
                    pca=references[f"prepare/{pca_label(model, source)}"]
                    if has_components(study, source)
                    else None,
                    objective=objective_spec(resolved, model, source, references),
                )
                yield StorePlan(
                    "extract",
                    "features",
                    feature_label(model.name, source, number),
                    spec,
                    features_layout(
                        model.layers,
                        stimuli,
                        [digests[name] for name in stimuli],
                        n_features(study, model, source),
                        study.extraction.stimuli_per_shard,
                    ),
                    {"model": model.name, "source": source},
                    {"stimuli": resolved.stimuli} | locations_of(resolved, model, source),
                )
        yield from _stability_plans(study, resolved, model, references)


def _stability_plans(
    study: Study, resolved: Resolved, model: ResolvedModel, references: References
) -> Iterator[StorePlan]:
    images = resolved.class_images
    bank = {} if resolved.bank_folder is None else {"bank": resolved.bank_folder}
    for source in resolved.sources:
        spec = specs.StabilitySpec(
            model=model.spec,
            source=source,
            signal=signal_spec(study, model, source),
            prepared=references[f"prepare/{model.name}"],
            objective=objective_spec(resolved, model, source, references),
            images=images,
        )
        yield StorePlan(
            "extract",
            "stability",
            f"stability-{feature_label(model.name, source, 0)}",
            spec,
            stability_layout(model.layers, list(PERTURBATIONS), images.n_images),
            {"model": model.name, "source": source},
            locations_of(resolved, model, source) | bank,
        )


def encode_plans(
    study: Study, resolved: Resolved, targets: Sequence[Targets], references: References
) -> Iterator[StorePlan]:
    """Plan stage encode: scores per model, bands and group of subjects; CKA per features store."""
    sets = list(stimulus_sets(targets))
    for model in resolved.models:
        for number in range(len(sets)):
            for source in resolved.sources:
                yield _collinearity_plan(model, source, number, references)
        for group in encode_groups(targets):
            number = sets.index(group[0].stimuli)
            for bands in fitted_bands(resolved):
                yield _score_plan(study, resolved, model, bands, group, number, references)


def _collinearity_plan(
    model: ResolvedModel, source: str, number: int, references: References
) -> StorePlan:
    label = feature_label(model.name, source, number)
    spec = specs.CollinearitySpec(features=references[f"extract/{label}"])
    return StorePlan(
        "encode",
        "collinearity",
        f"cka-{label}",
        spec,
        collinearity_layout(model.layers),
        {"model": model.name, "source": source},
        {},
    )


def _score_plan(
    study: Study,
    resolved: Resolved,
    model: ResolvedModel,
    bands: str,
    group: Sequence[Targets],
    number: int,
    references: References,
) -> StorePlan:
    encoding = encoding_spec(study)
    if is_diagnostic(bands):
        encoding = encoding.model_copy(update={"bootstrap": 0, "permutations": 0})
    coords = partition_coords(study, resolved, group[0])
    groups, summary_groups = target_groups(group, encoding.windows, encoding.meg_targets)
    coords |= window_coords("target", groups) | window_coords("summary", summary_groups)
    uses_forward, source = split_bands(bands)
    spec = specs.ScoresSpec(
        bands=bands,
        forward=references[f"extract/{feature_label(model.name, 'forward', number)}"]
        if uses_forward
        else None,
        gradient=references[f"extract/{feature_label(model.name, source, number)}"]
        if source
        else None,
        layers=model.layers,
        responses=tuple(references[f"ingest/{t.label}"] for t in group),
        partition=digest(
            [coords[name][1].tolist() for name in ("stimulus", "stimulus_fold", "stimulus_block")]
        ),
        encoding=encoding,
    )
    layout = scores_layout(
        model.layers,
        coords,
        banded=uses_forward and source is not None,
        n_folds=encoding.folds,
        n_targets=groups[-1]["stop"],
        n_summaries=summary_groups[-1]["stop"],
        n_bootstrap=encoding.bootstrap,
        n_permutations=encoding.permutations,
    )
    attrs = {
        "model": model.name,
        "bands": bands,
        "groups": groups,
        "summary_groups": summary_groups,
    }
    label = score_label(model, bands, group)
    return StorePlan("encode", "scores", label, spec, layout, attrs, {})


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
                for source in gradients(resolved)
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
    """Return what is compared: forward and gradient scores in r, gradient scores in U."""
    unique = [unique_of(source) for source in gradients(resolved)]
    return [*resolved.sources, *unique]


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


def encoding_spec(study: Study) -> specs.EncodingSpec:
    """Return the study's encoding options in the form that is hashed."""
    encoding = study.encoding
    return specs.EncodingSpec(
        folds=encoding.folds,
        blocks=encoding.blocks,
        seed=study.seed,
        alphas=tuple(
            np.geomspace(encoding.alphas.low, encoding.alphas.high, encoding.alphas.count).tolist()
        ),
        alpha_choice=encoding.alpha_choice,
        forward_all=encoding.forward_all,
        band_ratios=tuple(sorted(encoding.band_ratios)),
        bootstrap=encoding.bootstrap,
        permutations=encoding.permutations,
        windows=windows_of(study),
        meg_targets=encoding.meg_targets,
    )


def partition_coords(study: Study, resolved: Resolved, targets: Targets) -> dict[str, Any]:
    """Return folds and blocks of a stimulus set: assigned over the whole study, then selected."""
    folds = assign_folds(resolved.stimulus_digests, study.encoding.folds, study.seed)
    row = {name: i for i, name in enumerate(resolved.stimulus_ids)}
    rows = [row[name] for name in targets.stimuli]
    if len(set(folds[rows].tolist())) < study.encoding.folds:
        raise ValueError(
            f"encoding.folds: given {study.encoding.folds}; the {len(rows)} stimuli that "
            f"{targets.subject} saw leave a fold empty; give fewer folds"
        )
    chosen = [resolved.stimulus_digests[i] for i in rows]
    blocks = assign_blocks(chosen, folds[rows], study.encoding.blocks, seed=study.seed)
    return stimulus_coords(targets.stimuli, chosen) | {
        "stimulus_fold": ("stimulus", folds[rows].astype("int64")),
        "stimulus_block": ("stimulus", blocks.astype("int64")),
    }


def bands_of(resolved: Resolved) -> Iterator[str]:
    """Yield the bands that are compared: every source alone, every gradient beside all forward."""
    yield from resolved.sources
    for source in gradients(resolved):
        yield f"forward_all+{source}"


def fitted_bands(resolved: Resolved) -> Iterator[str]:
    """Yield the bands that are fitted: those that are compared, and the same-layer diagnostic."""
    yield from bands_of(resolved)
    for source in gradients(resolved):
        yield f"{SAME_LAYER}{source}"


def is_diagnostic(bands: str) -> bool:
    """Whether bands are scored only, never tested: a gradient beside its own layer's activations.

    A gradient is a function of deeper activations, so it adds to its own layer's in any brain.
    """
    return bands.startswith(SAME_LAYER)


def split_bands(bands: str) -> tuple[bool, str | None]:
    """Return whether forward features enter, and the gradient source if one does."""
    if bands == "forward":
        return True, None
    forward, _, source = bands.rpartition("+")
    return bool(forward), source


def n_features(study: Study, model: ResolvedModel, source: str) -> int | list[int]:
    """Return the number of features of a source, for each layer where nothing is projected."""
    if study.projection is not None:
        return scaled_width(study.projection, source, study.gradient_scale)
    return [scaled_width(width, source, study.gradient_scale) for width in model.widths]


def score_label(model: ResolvedModel, bands: str, group: Sequence[Targets]) -> str:
    """Return the label of a scores store, after the group of subjects that it holds."""
    return f"{model.name}-{safe(bands)}-{group_label(group)}"


def feature_label(model: str, source: str, number: int) -> str:
    """Return the label of a features store; further stimulus sets are numbered."""
    return f"{model}-{safe(source)}" + (f"-set{number}" if number else "")


def gradients(resolved: Resolved) -> list[str]:
    """Return the gradient sources."""
    return list(resolved.gradients)


def _set_digest(stimuli: Sequence[str], digests: Mapping[str, str]) -> str:
    return digest([[name, digests[name]] for name in stimuli])
