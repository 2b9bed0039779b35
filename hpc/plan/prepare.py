"""The stores of stage prepare, and the parts of extraction's specifications that refer to them."""

from collections.abc import Iterator

from gradenc_core.signals.sizes import BASELINE, N_PROTOTYPES, READOUT, Parts, readout_parts
from hpc.plan.store_plan import References, StorePlan, safe
from hpc.study.resolved import Resolved, ResolvedModel, ResolvedSource, signal_spec
from hpc.study.study import Study
from jobs import spec as specs
from storage_schemas.identity import digest
from storage_schemas.kinds.bank import bank_layout
from storage_schemas.kinds.classes import classes_layout
from storage_schemas.kinds.features import scales_layout
from storage_schemas.kinds.pca import pca_layout
from storage_schemas.kinds.prepared import prepared_layout

STIMULI_PER_COMPONENT = 4


def prepare_plans(study: Study, resolved: Resolved) -> Iterator[StorePlan]:
    """Plan stage prepare: weights per model, its bank where one is needed, classes per gradient."""
    for model in resolved.models:
        spec = specs.PreparedSpec(model=model.spec)
        attrs = {"model": model.name}
        weights = _weights_of(model)
        yield StorePlan("prepare", "prepared", model.name, spec, prepared_layout(), attrs, weights)
        yield from _bank_plan(study, resolved, model)
        yield from _pca_plans(study, resolved, model)
        yield from _scale_plans(study, resolved, model)
        for source, loss in resolved.gradients.items():
            class_spec = specs.ClassesSpec(
                model=model.spec,
                source=source,
                signal=signal_spec(study, model, source),
                images=resolved.class_images,
                objective=_own_parts(loss),
            )
            yield StorePlan(
                "prepare",
                "classes",
                f"{model.name}-{safe(source)}",
                class_spec,
                classes_layout(model.layers),
                attrs | {"source": source},
                weights | loss.locations,
            )


def _bank_plan(study: Study, resolved: Resolved, model: ResolvedModel) -> Iterator[StorePlan]:
    if needs_bank(resolved):
        yield StorePlan(
            "prepare",
            "bank",
            f"{model.name}-bank",
            _bank_spec(study, resolved, model),
            bank_layout(resolved.bank.n_images, model.n_channels, N_PROTOTYPES),
            {"model": model.name},
            _weights_of(model) | bank_location(resolved),
        )


def _bank_spec(study: Study, resolved: Resolved, model: ResolvedModel) -> specs.BankSpec:
    return specs.BankSpec(
        model=model.spec, images=resolved.bank, prototypes=N_PROTOTYPES, seed=study.seed
    )


def _pca_plans(study: Study, resolved: Resolved, model: ResolvedModel) -> Iterator[StorePlan]:
    """Plan the principal components of every source that is projected onto them."""
    stimuli = dict(pca_stimuli(study, resolved))
    for source in resolved.sources:
        if not has_components(study, source):
            continue
        loss = resolved.gradients.get(source)
        spec = specs.PcaSpec(
            model=model.spec,
            source=source,
            signal=signal_spec(study, model, source),
            objective=None if loss is None else _own_parts(loss),
            bank=_bank_spec(study, resolved, model) if loss and loss.needs_bank else None,
            images=resolved.scale_images,
            stimuli=digest(list(stimuli.items())),
            labels=labels_of(resolved, source),
        )
        yield StorePlan(
            "prepare",
            "pca",
            pca_label(model, source),
            spec,
            pca_layout(
                model.layers,
                list(stimuli),
                list(stimuli.values()),
                model.widths,
                study.projection or 0,
            ),
            {"model": model.name, "source": source},
            {"stimuli": resolved.stimuli}
            | locations_of(resolved, model, source)
            | bank_location(resolved),
        )


def _scale_plans(study: Study, resolved: Resolved, model: ResolvedModel) -> Iterator[StorePlan]:
    """Plan the scales of every source's channels."""
    for source in resolved.extracted:
        if not has_scales(study, source):
            continue
        loss = resolved.gradients.get(source)
        needing = needs_bank(resolved) if source == BASELINE else loss and loss.needs_bank
        signal = signal_spec(study, model, source)
        spec = specs.ScalesSpec(
            model=model.spec,
            source=source,
            signal=signal.model_copy(update={"projection": None, "projection_kind": "random"}),
            objective=None if loss is None else _own_parts(loss),
            losses=own_losses(resolved) if source == BASELINE else (),
            bank=_bank_spec(study, resolved, model) if needing else None,
            images=resolved.scale_images,
        )
        is_baseline = source == BASELINE
        parts = baseline_parts(resolved, model)
        yield StorePlan(
            "prepare",
            "scales",
            scales_label(model, source),
            spec,
            scales_layout(
                layers_of(model, source),
                [part.width() for part in parts] if is_baseline else model.widths,
            ),
            {"model": model.name, "source": source},
            locations_of(resolved, model, source) | bank_location(resolved),
        )


def has_scales(study: Study, source: str) -> bool:
    """Return whether a source has channels; a lone log-norm has none."""
    return source in ("forward", BASELINE) or study.gradient_scale != "norm_only"


def scales_label(model: ResolvedModel, source: str) -> str:
    """Return the label of the store of a source's scales."""
    return f"{model.name}-{safe(source)}-scales"


def layers_of(model: ResolvedModel, source: str) -> tuple[tuple[str, float], ...]:
    """Return the layers of a source's features; the baseline has one more, at depth 1."""
    return (*model.layers, (READOUT, 1.0)) if source == BASELINE else model.layers


def baseline_parts(resolved: Resolved, model: ResolvedModel) -> list[Parts]:
    """Return the columns of each layer of the baseline."""
    n_prototypes = N_PROTOTYPES if needs_bank(resolved) else 0
    n_losses = len(resolved.gradients)
    last = readout_parts(model.n_classes, n_prototypes, model.n_head, n_losses)
    return [*model.baseline_parts, last]


def needs_bank(resolved: Resolved) -> bool:
    """Return whether some objective compares stimuli with a bank."""
    return any(loss.needs_bank for loss in resolved.gradients.values())


def own_losses(resolved: Resolved) -> specs.Losses:
    """Return every gradient source with the plug-ins of its loss, for stores without a bank."""
    return tuple((source, _own_parts(loss)) for source, loss in resolved.gradients.items())


def bank_location(resolved: Resolved) -> dict[str, str]:
    """Return the path of the bank's folder; empty for generated images."""
    return {} if resolved.bank_folder is None else {"bank": resolved.bank_folder}


def has_components(study: Study, source: str) -> bool:
    """Return whether a source is projected onto components; a lone log-norm is not projected."""
    return study.projection_kind == "pca" and source != BASELINE and has_scales(study, source)


def pca_label(model: ResolvedModel, source: str) -> str:
    """Return the label of a source's store of components."""
    return f"{model.name}-{safe(source)}-pca"


def pca_stimuli(study: Study, resolved: Resolved) -> list[tuple[str, str]]:
    """Draw the stimuli that components are fitted on, each content once: (id, content digest).

    Four for each component where there are as many, in a seeded order of their contents.
    """
    by_content = dict(zip(resolved.stimulus_digests, resolved.stimulus_ids, strict=True))
    drawn = sorted(by_content, key=lambda content: digest(["pca", study.seed, content]))
    return [(by_content[c], c) for c in drawn[: STIMULI_PER_COMPONENT * (study.projection or 0)]]


def _own_parts(loss: ResolvedSource) -> specs.ObjectiveSpec:
    """Return a source's plug-ins, for stores that wait for no bank."""
    return specs.ObjectiveSpec(plugin=loss.plugin, head=loss.head, signal=loss.signal)


def objective_spec(
    resolved: Resolved, model: ResolvedModel, source: str, references: References
) -> specs.ObjectiveSpec | None:
    """Return the parts of a source's loss, for extraction; None where it is no gradient."""
    if source not in resolved.gradients:
        return None
    loss = resolved.gradients[source]
    bank = references[f"prepare/{model.name}-bank"] if loss.needs_bank else None
    return _own_parts(loss).model_copy(update={"bank": bank})


def labels_of(resolved: Resolved, source: str) -> str | None:
    """Return the digest of the true classes that a source takes, if it takes any."""
    losses = [resolved.gradients[name] for name in _losses_of(resolved, source)]
    return next((loss.labels for loss in losses if loss.labels is not None), None)


def _losses_of(resolved: Resolved, source: str) -> list[str]:
    """Return the gradient sources whose losses a source takes."""
    if source == BASELINE:
        return list(resolved.gradients)
    return [source] if source in resolved.gradients else []


def locations_of(resolved: Resolved, model: ResolvedModel, source: str) -> dict[str, str]:
    """Return the paths of a source's files: the weights, and the files of its losses.

    The baseline has several losses: the names of their files end in `@` and their source.
    """
    locations = _weights_of(model)
    for name in _losses_of(resolved, source):
        own = resolved.gradients[name].locations
        locations |= {key: own[key] for key in own if source != BASELINE or key == "labels"}
        if source == BASELINE:
            locations |= {f"{key}@{name}": path for key, path in own.items()}
    return locations


def _weights_of(model: ResolvedModel) -> dict[str, str]:
    return {} if model.checkpoint is None else {"checkpoint": model.checkpoint}
