"""The stores of stage extract: features of every source and stimulus set, stability of sources.

All stores of one model and stimulus set are filled by the same passes (`hpc.run.advance.items`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from gradenc_core.signals.sizes import BASELINE, scaled_width
from gradenc_core.signals.stability import PERTURBATIONS
from hpc.plan.bands import UNRECORDED, feature_label
from hpc.plan.prepare import (
    bank_location,
    baseline_parts,
    has_components,
    has_scales,
    labels_of,
    layers_of,
    locations_of,
    objective_spec,
    pca_label,
    scales_label,
)
from hpc.plan.store_plan import References, StorePlan
from hpc.plan.subjects import Targets, stimulus_sets
from hpc.study.resolved import Resolved, ResolvedModel, signal_spec
from hpc.study.study import Study
from jobs import spec as specs
from storage_schemas.identity import digest
from storage_schemas.kinds.features import IMAGES, features_layout
from storage_schemas.kinds.stability import stability_layout


@dataclass(frozen=True)
class ImageSet:
    """Images of which a model's features are made: those that some subjects saw, or unrecorded."""

    number: int | str
    """Place among the sets of recorded stimuli, or `UNRECORDED`."""
    ids: Sequence[str]
    digests: Sequence[str]
    locations: Mapping[str, str]
    """Path of their folder (`stimuli`); empty for generated images."""
    generated: specs.GeneratedImages | None = None


def image_sets(resolved: Resolved, targets: Sequence[Targets]) -> Iterator[ImageSet]:
    """Yield each distinct set of stimuli that subjects saw, then the images without recordings."""
    digests = dict(zip(resolved.stimulus_ids, resolved.stimulus_digests, strict=True))
    folder = {"stimuli": resolved.stimuli}
    for number, stimuli in enumerate(stimulus_sets(targets)):
        yield ImageSet(number, stimuli, [digests[name] for name in stimuli], folder)
    if (images := resolved.unrecorded) is not None:
        place = {} if images.folder is None else {"stimuli": images.folder}
        yield ImageSet(UNRECORDED, images.ids, images.digests, place, images.generated)


def extract_plans(
    study: Study, resolved: Resolved, targets: Sequence[Targets], references: References
) -> Iterator[StorePlan]:
    """Plan stage extract: features per model, source and stimulus set; stability of each source."""
    for model in resolved.models:
        for images in image_sets(resolved, targets):
            for source in resolved.extracted:
                yield _features_plan(study, resolved, model, source, images, references)
        yield from _stability_plans(study, resolved, model, references)


def _features_plan(
    study: Study,
    resolved: Resolved,
    model: ResolvedModel,
    source: str,
    images: ImageSet,
    references: References,
) -> StorePlan:
    per_shard = study.extraction.stimuli_per_shard
    spec = specs.FeaturesSpec(
        model=model.spec,
        source=source,
        signal=signal_spec(study, model, source),
        stimuli=set_digest(images.ids, images.digests),
        generated=images.generated,
        stimuli_per_shard=per_shard,
        prepared=references[f"prepare/{model.name}"],
        labels=labels_of(resolved, source),
        pca=references[f"prepare/{pca_label(model, source)}"]
        if has_components(study, source)
        else None,
        scales=references[f"prepare/{scales_label(model, source)}"]
        if has_scales(study, source)
        else None,
        objective=objective_spec(resolved, model, source, references),
        baseline=_baseline_spec(study, resolved, model, references) if source == BASELINE else None,
    )
    widths = n_features(study, resolved, model, source)
    attrs = {"model": model.name, "source": source}
    return StorePlan(
        "extract",
        "features",
        feature_label(model.name, source, images.number),
        spec,
        features_layout(layers_of(model, source), images.ids, images.digests, widths, per_shard),
        attrs | ({IMAGES: UNRECORDED} if images.number == UNRECORDED else {}),
        {**images.locations, **locations_of(resolved, model, source)},
    )


def _baseline_spec(
    study: Study, resolved: Resolved, model: ResolvedModel, references: References
) -> specs.BaselineSpec:
    """Return the baseline's width, and the losses whose values it has, banks and all."""
    losses = (
        (source, objective_spec(resolved, model, source, references))
        for source in resolved.gradients
    )
    return specs.BaselineSpec(
        width=study.encoding.baseline_width,
        losses=tuple((source, loss) for source, loss in losses if loss is not None),
    )


def _stability_plans(
    study: Study, resolved: Resolved, model: ResolvedModel, references: References
) -> Iterator[StorePlan]:
    images = resolved.class_images
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
            locations_of(resolved, model, source) | bank_location(resolved),
        )


def n_features(
    study: Study, resolved: Resolved, model: ResolvedModel, source: str
) -> int | list[int]:
    """Return the number of features of a source, for each layer where they differ."""
    if source == BASELINE:
        width = study.encoding.baseline_width
        return [parts.width(width) for parts in baseline_parts(resolved, model)]
    if study.projection is not None:
        return scaled_width(study.projection, source, study.gradient_scale)
    return [scaled_width(width, source, study.gradient_scale) for width in model.widths]


def set_digest(names: Sequence[str], digests: Sequence[str]) -> str:
    """Return the digest of a stimulus set: ids and content digests, in order."""
    return digest([list(pair) for pair in zip(names, digests, strict=True)])
