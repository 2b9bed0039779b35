"""The stores that each stage needs and the units that fill them; nothing is submitted here.

A stage is planned when the stages before it are sealed, because a store's identity holds the
digests of the seals it builds on. Planning twice gives the same stores.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from gradenc_core.signals.sizes import scaled_width
from gradenc_core.signals.stability import PERTURBATIONS
from hpc.plan.bands import feature_label
from hpc.plan.compare import compare_plans
from hpc.plan.encode import encode_plans
from hpc.plan.prepare import (
    has_components,
    labels_of,
    locations_of,
    objective_spec,
    pca_label,
    prepare_plans,
)
from hpc.plan.store_plan import References, StorePlan
from hpc.plan.targets import (
    Targets,
    check_fit,
    stimulus_sets,
)
from hpc.study.resolved import Resolved, ResolvedModel, Subject, signal_spec
from hpc.study.study import Study
from jobs import spec as specs
from jobs.spec import Reference
from storage_schemas.identity import digest
from storage_schemas.kinds.features import features_layout
from storage_schemas.kinds.responses import responses_layout
from storage_schemas.kinds.stability import stability_layout


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
                targets.sessions,
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


def n_features(study: Study, model: ResolvedModel, source: str) -> int | list[int]:
    """Return the number of features of a source, for each layer where nothing is projected."""
    if study.projection is not None:
        return scaled_width(study.projection, source, study.gradient_scale)
    return [scaled_width(width, source, study.gradient_scale) for width in model.widths]


def _set_digest(stimuli: Sequence[str], digests: Mapping[str, str]) -> str:
    return digest([[name, digests[name]] for name in stimuli])
