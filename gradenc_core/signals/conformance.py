"""Tests whether an objective can be trusted, on a tiny network in float64.

The pipeline promises that a stimulus's gradient is exact and depends on that stimulus alone; an
objective that breaks this is refused before anything runs. A lab calls it from its own tests::

    from gradenc_core.signals.conformance import check_objective
    from gradenc_core.signals.objectives import as_objective, as_signal

    def test_sparsity():
        check_objective(as_objective(sparsity))

    def test_relevance():
        check_objective(as_signal(relevance))
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from gradenc_core.keyed import keyed_generator
from gradenc_core.models.model import VisionModel, from_module
from gradenc_core.models.preprocessing import Preprocessing
from gradenc_core.models.tokens import layer_layout, pool
from gradenc_core.signals.bank import build_bank
from gradenc_core.signals.extractor import ExtractionOptions, SignalExtractor
from gradenc_core.signals.objectives import Objective
from gradenc_core.signals.passes import WorksInPlace
from gradenc_core.signals.readout import Context, Head
from gradenc_core.signals.stimulus import Stimuli
from gradenc_core.signals.views import N_VIEWS
from gradenc_errors import GradencError

N_STIMULI, MICRO_BATCH = 5, 3
N_BANK, N_PROTOTYPES = 12, 4
STEP, TOLERANCE = 1e-5, 1e-4
"""Step of the finite differences along a direction of norm 1, and their largest error relative to
the gradient's norm."""
ROUNDING = 1e-6
"""Share of the loss that its rounding may add to a difference, over the tolerance."""

Gradients = dict[str, list[torch.Tensor]]


class NotConforming(GradencError, ValueError):
    """An objective breaks a promise that every objective must keep."""


def check_objective(
    objective: Objective, model: VisionModel | None = None, head: Head | None = None
) -> None:
    """Refuse an objective or a signal that could not be trusted.

    An objective passes if all of this holds: its losses are one finite number per stimulus, with
    finite gradients; it leaves the tensors that it reads as they are; a stimulus's gradient depends
    neither on the other stimuli of the batch nor on the batch's size; the bytes do not depend on
    how stimuli are split or ordered; gradients equal central finite differences with respect to
    every block's output (relative error below 1e-4), with views, bank and the unmasked pass held
    constant. A signal is no gradient of a loss, so it needs no finite differences.

    Parameters
    ----------
    model : VisionModel, optional
        A float64 network with a small input; by default `tiny_model()`.
    head : Head, optional
        For `dino` with a user's head.

    Raises
    ------
    NotConforming
        Naming the objective, what was found and what to change.
    """
    model = model or tiny_model()
    extractor = _extractor(objective, model, head)
    stimuli = _stimuli(model, "stimulus", N_STIMULI)
    problems = [_losses, _finite, _independence, _batch_size, _partition]
    if objective.rule is None:
        problems.append(_finite_differences)
    for problem in problems:
        try:
            found = problem(extractor, stimuli)
        except WorksInPlace as error:
            raise NotConforming(str(error)) from error
        except Exception as error:
            found = f"fails ({type(error).__name__}: {error}); {_remedy(objective)}"
        if found:
            what = "objective" if objective.rule is None else "signal"
            raise NotConforming(f"the {what} {objective.name} {found}")


def _remedy(objective: Objective) -> str:
    """Return the remedy of an exception."""
    if objective.rule is not None:
        return "it is given two lists of tensors, activations and gradients, and returns one"
    return "declare with `needs` what it reads beside the stimulus's own pass"


def tiny_model() -> VisionModel:
    """Return a transformer of two blocks with a class token and a head, in float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = VisionTransformer(
            img_size=16, patch_size=4, embed_dim=16, depth=2, num_heads=2, num_classes=5
        ).double()
        for parameter in module.parameters():  # the published initialisation nearly is linear
            nn.init.normal_(parameter, std=0.3)
    return from_module(
        module, Preprocessing(16, 16, False, "bilinear", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    )


def _extractor(objective: Objective, model: VisionModel, head: Head | None) -> SignalExtractor:
    # one item has a stimulus's own content
    items = [*_items(_stimuli(model, "bank", N_BANK - 1)), *_items(_stimuli(model, "stimulus", 1))]
    bank = build_bank(model, items, 0, N_BANK, N_PROTOTYPES)
    options = ExtractionOptions(
        tokens="patches",
        projection=1,
        scale="raw",
        micro_batch=MICRO_BATCH,
        context=Context(0, bank, head),
        objectives={objective.name: objective},
    )
    return SignalExtractor(model, objective.sources, options)


def _stimuli(model: VisionModel, name: str, n: int) -> Stimuli:
    """Return noise images with views, each keyed by its number."""
    shape = (1 + N_VIEWS, 3, model.image_size, model.image_size)
    noise = [keyed_generator(name, i).standard_normal(shape) for i in range(n)]
    images = torch.from_numpy(np.stack(noise))
    return Stimuli(
        images[:, 0], None, tuple(f"{name} {i}" for i in range(n)), images[:, :1] + images[:, 1:]
    )


def _items(stimuli: Stimuli) -> list[tuple[str, torch.Tensor]]:
    return list(zip(stimuli.digests or (), stimuli.images, strict=True))


def _pooled(extractor: SignalExtractor, stimuli: Stimuli, order: Sequence[int]) -> Gradients:
    pooled = extractor.pooled(stimuli[torch.tensor(order)])
    return {source: pooled[source] for source in extractor.sources}


def _losses(extractor: SignalExtractor, stimuli: Stimuli) -> str | None:
    for loss in extractor.passes.losses(stimuli).values():
        if loss.shape != (len(stimuli),):
            return (
                f"returns shape {tuple(loss.shape)} for {len(stimuli)} stimuli; return one loss "
                "per stimulus, summed or averaged over anything else"
            )
        if not bool(loss.isfinite().all()):
            return "returns a loss that is not finite; guard its logarithms, roots and divisions"
    return None


def _finite(extractor: SignalExtractor, stimuli: Stimuli) -> str | None:
    for source, layers in _pooled(extractor, stimuli, range(N_STIMULI)).items():
        if not all(bool(layer.isfinite().all()) for layer in layers):
            what = "is" if source.startswith("signal:") else "has a gradient that is"
            return f"{what} not finite; guard its logarithms, roots and divisions against 0"
    return None


def _independence(extractor: SignalExtractor, stimuli: Stimuli) -> str | None:
    """Give the first stimulus other companions: its gradient must not change."""
    alone, together = (_pooled(extractor, stimuli, order) for order in ([0, 1, 2], [0, 3, 4]))
    if all(torch.allclose(x[0], y[0], rtol=1e-9, atol=0) for x, y in _pairs(alone, together)):
        return None
    return (
        "gives a stimulus another gradient beside other stimuli; take no mean, norm or batch "
        "statistic over the first axis, and other stimuli from the bank"
    )


def _batch_size(extractor: SignalExtractor, stimuli: Stimuli) -> str | None:
    """Run the first stimulus alone, unpadded: its gradient must not change."""
    beside, alone = (
        extractor.passes.run(stimuli[torch.arange(n)]).signals for n in (MICRO_BATCH, 1)
    )
    errors = [((x[0] - y[0]).norm(), y[0].norm()) for x, y in _pairs(beside, alone)]
    if all(bool(error <= TOLERANCE * size) for error, size in errors):
        return None
    return (
        "gives a stimulus another gradient in a batch of another size; do not divide by the number "
        "of stimuli, nor multiply with it: every stimulus counts once, however many run together"
    )


def _partition(extractor: SignalExtractor, stimuli: Stimuli) -> str | None:
    """Split and reorder the stimuli: the bytes must stay what they were."""
    order = [3, 0, 4, 1, 2]
    whole = _pooled(extractor, stimuli, range(N_STIMULI))
    parts = [_pooled(extractor, stimuli, part) for part in (order[:2], order[2:])]
    for source, layers in whole.items():
        for index, layer in enumerate(layers):
            joined = torch.cat([part[source][index] for part in parts])
            if not torch.equal(joined, layer[order]):
                return (
                    "gives other bytes when stimuli are split or ordered otherwise; key whatever "
                    "is random by the stimulus's digest and the seed, and keep no state"
                )
    return None


def _finite_differences(extractor: SignalExtractor, stimuli: Stimuli) -> str | None:
    """Compare the gradient along a random direction, of each stimulus and block."""
    gradients = _pooled(extractor, stimuli, range(N_STIMULI))
    for index, layer in enumerate(extractor.layers):
        direction, flat = _direction(extractor.model, layer)
        up, down = (_perturbed(extractor, stimuli, layer, s * STEP * direction) for s in (1, -1))
        for source in extractor.sources:
            expected = (up[source] - down[source]) / (2 * STEP)
            error = (gradients[source][index] @ flat - expected).abs()
            size = gradients[source][index].norm(dim=1) + up[source].abs() * ROUNDING
            if bool((error > TOLERANCE * size).any()):
                return (
                    f"has a gradient at {layer} that is not that of its loss; do not detach or "
                    "round what is read of the stimulus's own pass"
                )
    return None


def _direction(model: VisionModel, layer: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a direction of norm 1 over a layer's patches: as the output, and as pooled."""
    layout = layer_layout(model, layer, "patches")
    direction = torch.from_numpy(keyed_generator("direction", layer).standard_normal(layout.shape))
    direction[: layout.n_class + layout.n_registers] = 0
    direction /= direction.norm()
    return direction, pool(direction[None], layout, "patches")[0]


def _perturbed(
    extractor: SignalExtractor, stimuli: Stimuli, layer: str, change: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Return the losses when `change` is added to the layer's output, wherever a gradient is."""

    def hook(_module: nn.Module, _inputs: Any, output: torch.Tensor) -> torch.Tensor | None:
        return output + change if torch.is_grad_enabled() else None

    handle = extractor.model.module.get_submodule(layer).register_forward_hook(hook)
    try:
        return extractor.passes.losses(stimuli)
    finally:
        handle.remove()


def _pairs(
    first: Mapping[str, Sequence[torch.Tensor]], second: Mapping[str, Sequence[torch.Tensor]]
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    for source in first:
        yield from zip(first[source], second[source], strict=True)
