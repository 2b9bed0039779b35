"""The stores of stage prepare, and the parts of extraction's specifications that refer to them."""

from collections.abc import Iterator

from gradenc_core.signals.sizes import N_PROTOTYPES
from hpc.plan.store_plan import References, StorePlan, safe
from hpc.study.resolved import Resolved, ResolvedModel, ResolvedSource, signal_spec
from hpc.study.study import Study
from jobs import spec as specs
from storage_schemas.identity import digest
from storage_schemas.kinds.bank import bank_layout
from storage_schemas.kinds.classes import classes_layout
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
    needing = [loss for loss in resolved.gradients.values() if loss.needs_bank]
    if needing:
        yield StorePlan(
            "prepare",
            "bank",
            f"{model.name}-bank",
            _bank_spec(study, resolved, model),
            bank_layout(resolved.bank.n_images, model.n_channels, N_PROTOTYPES),
            {"model": model.name},
            _weights_of(model)
            | {name: path for name, path in needing[0].locations.items() if name == "bank"},
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
            {"stimuli": resolved.stimuli} | locations_of(resolved, model, source),
        )


def has_components(study: Study, source: str) -> bool:
    """Return whether a source is projected onto components; a lone log-norm is not projected."""
    lone = source != "forward" and study.gradient_scale == "norm_only"
    return study.projection_kind == "pca" and not lone


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
    """Return the parts of a source's loss, for extraction; None for the forward signal."""
    if source == "forward":
        return None
    loss = resolved.gradients[source]
    bank = references[f"prepare/{model.name}-bank"] if loss.needs_bank else None
    return _own_parts(loss).model_copy(update={"bank": bank})


def labels_of(resolved: Resolved, source: str) -> str | None:
    """Return the digest of the true classes that a source takes, if it takes any."""
    return None if source == "forward" else resolved.gradients[source].labels


def locations_of(resolved: Resolved, model: ResolvedModel, source: str) -> dict[str, str]:
    """Return the paths of a source's files: the weights, and the files of its loss."""
    loss = {} if source == "forward" else resolved.gradients[source].locations
    return _weights_of(model) | loss


def _weights_of(model: ResolvedModel) -> dict[str, str]:
    return {} if model.checkpoint is None else {"checkpoint": model.checkpoint}
