"""From a study file to what it means here: its images, models, subjects and their files.

This is the slow part of planning (it hashes images and recordings and builds every model once) and
is done once per run; `resolved.json` in the run folder keeps what later stages need.
"""

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

from gradenc_core.models.model import (
    Layer,
    VisionModel,
    layers_at,
    load_model,
    output_shape,
    resolve_layers,
)
from gradenc_core.models.tokens import layer_layout
from gradenc_core.models.weights import weights_digest
from gradenc_core.recordings import bids, epochs
from gradenc_core.signals.sizes import N_ITEMS
from gradenc_core.stimuli.images import Manifest, read_manifest
from hpc.study.plugins import find_head, find_sources
from hpc.study.resolved import Resolved, ResolvedModel, ResolvedSource, Subject
from hpc.study.stimuli import check_stimuli
from hpc.study.study import BidsResponses, Depths, EpochsResponses, Model, Study
from jobs.spec import BankImages, ModelSpec
from storage_schemas.files import file_digest
from storage_schemas.identity import digest

N_CLASS_IMAGES = 16


def resolve_sources(study: Study) -> dict[str, ResolvedSource]:
    """Return what each learning signal is made of; `random` stands for one source per draw."""
    head = find_head(study)
    given_labels = None if study.labels is None else (study.folder / study.labels).resolve()
    sources: dict[str, ResolvedSource] = {}
    for found in find_sources(study).values():
        given_head = head if "head" in found.objective.needs else None
        labels = given_labels if "labels" in found.objective.needs else None
        locations = {
            "bank": None if study.bank is None else (study.folder / study.bank).resolve(),
            "objective": found.path,
            "head": given_head[1] if given_head else None,
            "signal": found.signal_path,
            "labels": labels,
        }
        source = ResolvedSource(
            needs_bank="bank" in found.objective.needs,
            plugin=found.plugin,
            head=given_head[0] if given_head else None,
            signal=found.signal,
            labels=None if labels is None else file_digest(labels),
            locations={key: str(path) for key, path in locations.items() if path is not None},
        )
        sources |= dict.fromkeys(found.objective.sources, source)
    return sources


def resolve_bank(study: Study) -> tuple[BankImages, BankImages]:
    """Return the images of the study's bank, and the first, on which gradients are classed."""
    if study.bank is None:
        return BankImages(n_images=N_ITEMS), BankImages(n_images=N_CLASS_IMAGES)
    digests = list(read_manifest(study.folder / study.bank).digests)
    whole, first = (
        BankImages(manifest=digest(part), n_images=len(part))
        for part in (digests, digests[:N_CLASS_IMAGES])
    )
    return whole, first


def resolve(study: Study) -> tuple[Resolved, list[Subject]]:
    """Read what the study names, refusing whatever is missing or inconsistent."""
    manifest = read_manifest(study.folder / study.stimuli)
    check_stimuli(study, manifest)
    bank, class_images = resolve_bank(study)
    resolved = Resolved(
        study=study.model_dump(mode="json"),
        stimuli=str((study.folder / study.stimuli).resolve()),
        stimulus_ids=tuple(manifest.ids),
        stimulus_digests=tuple(manifest.digests),
        models=tuple(resolve_model(study, model) for model in study.models),
        gradients=resolve_sources(study),
        bank=bank,
        bank_folder=None if study.bank is None else str((study.folder / study.bank).resolve()),
        class_images=class_images,
    )
    return resolved, list(describe_subjects(study, manifest))


def resolve_model(study: Study, model: Model) -> ResolvedModel:
    """Build a model and return what it is: its specification and its layers."""
    checkpoint = study.checkpoint_of(model)
    loaded = load_model(
        model.library,
        model.architecture,
        model.weights,
        model.seed,
        image_size=model.image_size,
        checkpoint=checkpoint,
    )
    trained = model.weights != "untrained"
    spec = ModelSpec(
        library=model.library,
        architecture=model.architecture,
        weights=model.weights,
        weights_digest=weights_digest(loaded.module) if trained else None,
        seed=model.seed,
        image_size=model.image_size,
        preprocessing=loaded.preprocessing,
    )
    layers = layers_of(study.layers, loaded)
    tokens = study.tokens
    return ResolvedModel(
        name=model.name,
        control=model.control,
        spec=spec,
        layers=tuple((layer.name, layer.depth) for layer in layers),
        widths=tuple(layer_layout(loaded, x.name, tokens).n_features(tokens) for x in layers),
        n_channels=layer_layout(loaded, loaded.blocks[-1], "mean").n_features("mean"),
        checkpoint=None if checkpoint is None else str(checkpoint),
        n_parameters=sum(p.numel() for p in loaded.module.parameters()),
        layer_values=tuple(prod(output_shape(loaded, layer.name)) for layer in layers),
    )


def layers_of(layers: str | Sequence[str] | Depths, model: VisionModel) -> tuple[Layer, ...]:
    """Return the layers of a model that a study's key `layers` means, in order of execution."""
    if isinstance(layers, Depths):
        return layers_at(model, layers.depths)
    return resolve_layers(model, layers)


def describe_subjects(study: Study, manifest: Manifest) -> Iterator[Subject]:
    """Describe every subject's recordings from headers, events and metadata alone."""
    for responses in study.responses:
        folder = study.folder / responses.path
        module = {"bids": bids, "epochs": epochs}[responses.reader]
        options = reader_options(responses)
        for subject in responses.subjects or module.list_subjects(folder):
            yield Subject(
                reader=responses.reader,
                options=options,
                folder=folder.resolve(),
                description=module.describe(folder, subject, manifest, **options),
            )


def reader_options(responses: BidsResponses | EpochsResponses) -> dict[str, Any]:
    """Return the keys of a `responses` entry that its reader takes."""
    return responses.model_dump(mode="json", exclude={"reader", "path", "subjects"})
