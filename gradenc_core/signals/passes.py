"""The forward and backward passes of one micro-batch, each run once for all objectives.

An objective sees only what it declared that it needs, and cannot change what others read: so the
identity of a source says all that its bytes depend on.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from gradenc_core.arrays import device
from gradenc_core.models.layers import require_blocks
from gradenc_core.models.model import VisionModel
from gradenc_core.models.tokens import Tokens, layer_layout, pool
from gradenc_core.models.tracing import capture
from gradenc_core.signals.masks import mask_token, masked_patches, patch_masks, patch_module
from gradenc_core.signals.objectives import OBJECTIVES, Objective, Rule, parse_source
from gradenc_core.signals.readout import Context, Readout
from gradenc_core.signals.sizes import BASELINE
from gradenc_core.signals.stimulus import Stimuli
from gradenc_errors import GradencError

Signals = dict[str, Sequence[torch.Tensor]]
"""By source, one tensor per layer in the shape of the layer's output."""
Precision = Literal["float32", "bf16"]

LOSS_SCALE = 2.0**16
"""Losses are multiplied by it before a bfloat16 backward pass and gradients divided by it after; a
power of two, so that nothing is rounded."""

Losses = dict[str, torch.Tensor]
"""By gradient source, one loss per stimulus."""


@dataclass(frozen=True)
class Passed:
    """What the passes of one micro-batch gave.

    Attributes
    ----------
    signals : Signals
        `forward` and every gradient; a layer that a loss does not reach has zeros.
    losses : Losses
        Of masked objectives, the mean over the masks.
    readout : Readout
        Of the stimuli as shown.
    """

    signals: Signals
    losses: Losses
    readout: Readout


class WorksInPlace(GradencError, ValueError):
    """An objective changes the tensors that it reads, which other sources are made of too."""


class Passes:
    """Runs a micro-batch through the network, once for each pass that some source needs.

    The stimulus as shown: one pass, from which `forward` and every gradient but those of masked
    objectives are taken. Teacher views: one pass without gradient each, shared by all objectives.
    Masked objectives: two passes with gradient, shared as well.

    Parameters
    ----------
    layers, sources : sequence of str
        As in `SignalExtractor`.
    context : Context
        Seed, bank and head.
    objectives : mapping of str to Objective
        By name; a user's own beside the shipped ones.
    precision : {"float32", "bf16"}
        `bf16`: the network runs in bfloat16 where PyTorch's autocast does so; losses, pooling and
        all that follows are float32.
    losses : sequence of str
        Gradient sources whose losses are taken, also where their gradients are not.

    Raises
    ------
    ValueError
        A source that the model does not have, or that needs a bank where there is none.
    """

    def __init__(
        self,
        model: VisionModel,
        layers: Sequence[str],
        sources: Iterable[str],
        context: Context,
        objectives: Mapping[str, Objective] = OBJECTIVES,
        precision: Precision = "float32",
        losses: Iterable[str] = (),
    ) -> None:
        if precision not in ("float32", "bf16"):
            raise ValueError(f"precision is {precision!r}: use float32 or bf16")
        self.model, self.layers, self.precision = model, tuple(layers), precision
        self._parameter = next(model.module.parameters())
        self.context = context.settled(self._parameter)
        wanted = [s for s in sources if s not in ("forward", BASELINE)]
        named = dict.fromkeys([*wanted, *losses])
        parsed = {s: parse_source(model, s, objectives) for s in named}
        self._wanted = frozenset(wanted)
        self._masked = {s: o for s, o in parsed.items() if "masks" in o[0].needs}
        self._whole = {s: o for s, o in parsed.items() if s not in self._masked}
        self._rules = {s: parsed[s][0].rule for s in wanted}
        self.needs_of = {source: objective.needs for source, (objective, _) in parsed.items()}
        self.needs = frozenset().union(*self.needs_of.values())
        if "bank" in self.needs and context.bank is None:
            raise ValueError(
                f"the sources {', '.join(parsed)} need a reference bank; give the context one "
                "(gradenc_core.signals.bank.build_bank)"
            )
        self._last = require_blocks(model)[-1]
        self._norm = final_norm(model) or self._last
        self._embedding = context.head is not None
        self._layout = layer_layout(model, self._last, "mean")

    def run(self, stimuli: Stimuli) -> Passed:
        """Return all signals, losses and the readout of a micro-batch."""
        signals: Signals = {}
        losses: Losses = {}
        shown: list[Readout] = []
        with _reproducible():
            for evaluated, outputs, readout in self._evaluated(stimuli):
                shown.append(readout)
                signals.setdefault("forward", [_full(output.detach()) for output in outputs])
                for source, loss in evaluated.items():
                    losses[source] = losses.get(source, 0.0) + loss.detach()
                for source, gradients in self._gradients(evaluated, outputs):
                    earlier = signals.get(source)
                    signals[source] = _sum(earlier, gradients) if earlier else gradients
            for source, rule in self._rules.items():
                if rule is not None:
                    signals[source] = _ruled(source, rule, signals["forward"], signals[source])
        return Passed(signals, losses, _detached(shown[0]))

    def losses(self, stimuli: Stimuli) -> Losses:
        """Return the losses alone, without any gradient."""
        losses: Losses = {}
        with _reproducible():
            for evaluated, _, _ in self._evaluated(stimuli):
                for source, loss in evaluated.items():
                    losses[source] = losses.get(source, 0.0) + loss.detach()
        return losses

    def read(self, images: torch.Tensor) -> Readout:
        """Return all that objectives may read of preprocessed images, without gradient."""
        with _reproducible(), torch.no_grad():
            return self._forward(Stimuli(images), (), embedding=True)[0]

    def _evaluated(self, stimuli: Stimuli) -> Iterator[tuple[Losses, list[torch.Tensor], Readout]]:
        """Yield the losses of each pass, the layers' outputs in it and its readout."""
        self._require(stimuli)
        views = self._views(stimuli)
        with torch.set_grad_enabled(not self._wanted.isdisjoint(self._whole)):
            whole, outputs = self._forward(stimuli, self.layers, self._embedding)
            losses = self._losses(self._whole, replace(whole, views=views))
        yield losses, outputs, whole
        for mask in self._masks(stimuli, whole.patches.shape[1]) if self._masked else ():
            enabled = not self._wanted.isdisjoint(self._masked)
            with torch.set_grad_enabled(enabled), masked_patches(self.model, mask):
                hidden, outputs = self._forward(stimuli, self.layers, self._embedding)
                hidden = replace(hidden, views=views, mask=mask, whole=_detached(whole))
                losses = self._losses(self._masked, hidden)
                halves = {source: loss / 2 for source, loss in losses.items()}
            yield halves, outputs, hidden

    def _require(self, stimuli: Stimuli) -> None:
        """Refuse stimuli that lack views or digests that the objectives need."""
        if self.needs & {"views", "bank", "masks"} and stimuli.digests is None:
            raise ValueError("these objectives need the digests of the stimuli; give `digests`")
        if "views" in self.needs and stimuli.views is None:
            raise ValueError("these objectives need teacher views of the stimuli; give `views`")

    def _forward(
        self, stimuli: Stimuli, layers: Sequence[str], embedding: bool
    ) -> tuple[Readout, list[torch.Tensor]]:
        """Run one pass; return its readout, with the embedding if asked, and the layers."""
        names = {*layers, self._last} | ({self._norm} if embedding else set())
        images = stimuli.images.to(self._parameter)
        with self._autocast(), capture(self.model.module, names) as captured:
            output = self.model.module(images)
        logits = None
        if self.model.n_classes:
            logits = _full(output if isinstance(output, torch.Tensor) else output.logits)
        last = _full(captured[self._last])
        patches = pool(last, self._layout, "patches")
        pooled = pool(last, self._layout, "mean")
        token = _embedding_token(self.model)
        readout = Readout(
            pooled=pooled,
            patches=patches.reshape(len(pooled), -1, pooled.shape[1]),
            embedding=pool(_full(captured[self._norm]), self._layout, token) if embedding else None,
            logits=logits,
            labels=None if stimuli.labels is None else stimuli.labels.to(pooled.device),
            digests=None if stimuli.digests is None else tuple(stimuli.digests),
        )
        return readout, [captured[name] for name in layers]

    def _views(self, stimuli: Stimuli) -> tuple[Readout, ...]:
        if "views" not in self.needs or stimuli.views is None:
            return ()
        with torch.no_grad():
            each = stimuli.views.unbind(dim=1)
            return tuple(self._forward(Stimuli(images), (), self._embedding)[0] for images in each)

    def _masks(self, stimuli: Stimuli, n_patches: int) -> torch.Tensor:
        """Return each stimulus's two masks, (2, n_stimuli, n_patches) bool."""
        masks = stimuli.masks
        if masks is None:
            seed, digests = self.context.seed, stimuli.digests or ()
            drawn = np.stack([patch_masks(digest, seed, n_patches) for digest in digests])
            masks = torch.from_numpy(drawn)
        return masks.transpose(0, 1).to(self._parameter.device)

    def _autocast(self) -> torch.autocast:
        device, enabled = self._parameter.device.type, self.precision == "bf16"
        return torch.autocast(device, dtype=torch.bfloat16, enabled=enabled)

    def _gradients(
        self, losses: Losses, outputs: Sequence[torch.Tensor]
    ) -> Iterator[tuple[str, Sequence[torch.Tensor]]]:
        """Backpropagate losses to the layers' outputs; a layer that one does not reach gets zeros.

        Those of which only the value is wanted are passed over.
        """
        scale = LOSS_SCALE if self.precision == "bf16" else 1.0
        wanted = [(source, loss) for source, loss in losses.items() if source in self._wanted]
        for left, (source, loss) in zip(reversed(range(len(wanted))), wanted, strict=True):
            gradients = torch.autograd.grad(
                loss,
                outputs,
                grad_outputs=torch.full_like(loss, scale),  # the sum over the batch
                retain_graph=left > 0,
                allow_unused=True,
                materialize_grads=True,
            )
            yield source, gradients if scale == 1 else [_full(g) / scale for g in gradients]

    def _losses(self, chosen: Mapping[str, tuple[Objective, int]], readout: Readout) -> Losses:
        return {
            source: _loss(source, objective, draw, *self._shown(objective, readout))
            for source, (objective, draw) in chosen.items()
        }

    def _shown(self, objective: Objective, readout: Readout) -> tuple[Readout, Context]:
        """Hide everything that the objective did not declare.

        Otherwise it could read what another objective of the study needs, and its bytes would
        depend on something that its identity does not record.
        """
        context = self.context
        if "labels" not in objective.needs:
            readout = replace(readout, labels=None)
        if "views" not in objective.needs:
            readout = replace(readout, views=())
        if "bank" not in objective.needs:
            context = replace(context, bank=None)
        if "head" not in objective.needs:
            readout = _without_embedding(readout)
            context = replace(context, head=None, centre=None)
        return readout, context


def _loss(
    source: str, objective: Objective, draw: int, readout: Readout, context: Context
) -> torch.Tensor:
    """Return an objective's loss, refusing one that changes the tensors all objectives share.

    Raises
    ------
    WorksInPlace
        Naming the source and what to do.
    """
    shared = _tensors(readout, context)
    before = [tensor._version for tensor in shared]  # counts what was done to it in place
    loss = objective.loss(readout, context, draw)
    if before != [tensor._version for tensor in shared]:
        raise WorksInPlace(
            f"the loss of {source} works in place on what it reads; copy it first, as in "
            "readout.pooled.clone()"
        )
    return loss


def _tensors(readout: Readout, context: Context) -> list[torch.Tensor]:
    """Return every tensor that an objective is given."""
    holders = (readout, *readout.views, readout.whole, context, context.bank)
    values = [value for holder in holders if holder for value in vars(holder).values()]
    return [value for value in values if isinstance(value, torch.Tensor)]


def final_norm(model: VisionModel) -> str | None:
    """Return the norm that follows the last block on an output of the same shape, if any."""
    last = model.calls[require_blocks(model)[-1]]
    parts = dict(model.module.named_modules())
    norms = [
        (call.begin, name)
        for name, call in model.calls.items()
        if call.begin > last.end
        and call.shape == last.shape
        and "norm" in type(parts[name]).__name__.lower()
    ]
    return min(norms)[1] if norms else None


def reading_summary(model: VisionModel) -> dict[str, str | None]:
    """Return the places where objectives read the model, as plain JSON."""
    if not model.blocks:
        return {}
    patches = patch_module(model)
    return {
        "pooled": f"mean of the patches of {model.blocks[-1]}",
        "embedding": f"{_embedding_token(model)} of {final_norm(model) or model.blocks[-1]}",
        "masked_at": patches,
        "masked_with": None if patches is None else mask_token(model)[0],
    }


def _embedding_token(model: VisionModel) -> Tokens:
    """Return the token that projection heads read: the class token, else the mean of patches."""
    return "cls" if layer_layout(model, model.blocks[-1], "mean").n_class else "mean"


def _full(values: torch.Tensor) -> torch.Tensor:
    """Return bfloat16 values as float32, others as they are."""
    return values.float() if values.dtype == torch.bfloat16 else values


def _detached(readout: Readout) -> Readout:
    embedding, logits = (
        None if values is None else values.detach()
        for values in (readout.embedding, readout.logits)
    )
    pooled, patches = readout.pooled.detach(), readout.patches.detach()
    return replace(readout, pooled=pooled, patches=patches, embedding=embedding, logits=logits)


def _without_embedding(readout: Readout) -> Readout:
    views = tuple(replace(view, embedding=None) for view in readout.views)
    whole = readout.whole and replace(readout.whole, embedding=None)
    return replace(readout, embedding=None, views=views, whole=whole)


def _ruled(
    source: str, rule: Rule, forward: Sequence[torch.Tensor], gradients: Sequence[torch.Tensor]
) -> Sequence[torch.Tensor]:
    """Apply a signal's rule, refusing tensors of other shapes than the layers', or no floats."""
    # Copies: what a rule does in place must not reach the forward signal, another rule, or another
    # layer: autograd may give two layers one tensor as their gradient.
    activations = [values.clone() for values in forward]
    found = list(rule(activations, [_full(gradient).clone() for gradient in gradients]))
    shapes = [tuple(values.shape) for values in found]
    wanted = [tuple(values.shape) for values in forward]
    if shapes != wanted:
        raise ValueError(f"{source} has shapes {shapes}; return the layers' own, {wanted}")
    types = {str(x.dtype) for x in found if not x.is_floating_point()}
    if types:
        raise ValueError(f"{source} has {', '.join(types)}; return the layers' own type, floats")
    return found


def _sum(first: Sequence[torch.Tensor], second: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
    return [a + b for a, b in zip(first, second, strict=True)]


@contextmanager
def _reproducible() -> Iterator[None]:
    """Hold every choice of kernel that could depend on timing or on what needs a gradient.

    The fused path of `nn.MultiheadAttention` runs only where no gradient is needed, which would
    give `forward` other bytes alone than beside a gradient source. On a GPU, PyTorch warns of an
    operation that it can only do in no fixed order.
    """
    fused = torch.backends.mha.get_fastpath_enabled()
    fixed_order = torch.are_deterministic_algorithms_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    if device().type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with torch.backends.cudnn.flags(deterministic=True, benchmark=False, allow_tf32=False):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        torch.use_deterministic_algorithms(fixed_order)
