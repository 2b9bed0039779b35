"""Which stores stage prepare needs, and what extraction needs of them."""

from collections.abc import Iterator

from gradenc_core.bank import N_PROTOTYPES
from hpc.resolve import Resolved, ResolvedModel, signal_spec
from hpc.store_plan import References, StorePlan, safe
from hpc.study import Study
from jobs import spec as specs
from storage_schemas import kinds


def prepare_plans(study: Study, resolved: Resolved) -> Iterator[StorePlan]:
    """Plan stage prepare: weights per model, its bank where one is needed, classes per gradient."""
    for model in resolved.models:
        spec = specs.PreparedSpec(model=model.spec)
        attrs = {"model": model.name}
        weights = _weights_of(model)
        yield StorePlan("prepare", "prepared", model.name, spec, kinds.prepared(), attrs, weights)
        yield from _bank_plan(study, resolved, model)
        for source, loss in resolved.gradients.items():
            class_spec = specs.ClassesSpec(
                model=model.spec,
                source=source,
                signal=signal_spec(study, model, source),
                images=resolved.class_images,
                objective=specs.ObjectiveSpec(
                    plugin=loss.plugin, head=loss.head, signal=loss.signal
                ),
            )
            yield StorePlan(
                "prepare",
                "classes",
                f"{model.name}-{safe(source)}",
                class_spec,
                kinds.classes(model.layers),
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
            specs.BankSpec(
                model=model.spec, images=resolved.bank, prototypes=N_PROTOTYPES, seed=study.seed
            ),
            kinds.bank(resolved.bank.n_images, model.n_channels, N_PROTOTYPES),
            {"model": model.name},
            _weights_of(model)
            | {name: path for name, path in needing[0].locations.items() if name == "bank"},
        )


def objective_spec(
    resolved: Resolved, model: ResolvedModel, source: str, references: References
) -> specs.ObjectiveSpec | None:
    """Return what a source's loss is made of, for extraction; None for the forward signal."""
    if source == "forward":
        return None
    loss = resolved.gradients[source]
    bank = references[f"prepare/{model.name}-bank"] if loss.needs_bank else None
    return specs.ObjectiveSpec(plugin=loss.plugin, head=loss.head, signal=loss.signal, bank=bank)


def labels_of(resolved: Resolved, source: str) -> str | None:
    """Return the digest of the true classes that a source takes, if it takes any."""
    return None if source == "forward" else resolved.gradients[source].labels


def locations_of(resolved: Resolved, model: ResolvedModel, source: str) -> dict[str, str]:
    """Return the paths of the files that a source is made of: weights, bank, plug-in, head."""
    loss = {} if source == "forward" else resolved.gradients[source].locations
    return _weights_of(model) | loss


def _weights_of(model: ResolvedModel) -> dict[str, str]:
    return {} if model.checkpoint is None else {"checkpoint": model.checkpoint}
