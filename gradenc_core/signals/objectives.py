"""Losses per stimulus whose gradients are the learning signals (docs/objectives.md).

Every loss depends on its stimulus alone: the batch is summed, never averaged or normalised.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch.nn import functional

from gradenc_core.keyed import keyed_generator
from gradenc_core.models.model import VisionModel
from gradenc_core.signals.masks import patch_module
from gradenc_core.signals.readout import Context, Readout
from gradenc_core.signals.sizes import N_RANDOM_DRAWS

STUDENT_TEMPERATURE, TEACHER_TEMPERATURE = 0.1, 0.04
CONTRAST_TEMPERATURE = 0.1

Need = Literal["classifier", "labels", "views", "bank", "head", "masks"]
"""`classifier`: the model's own head. `labels`: true classes, if the study gives them. `views`:
readouts of the teacher views. `bank`: the reference bank and its prototypes. `head`: the user's
projection head, if the study gives one. `masks`: the loss is taken in two complementary masked
passes. A loss finds only what it declares."""

Loss = Callable[[Readout, Context, int], torch.Tensor]
"""(readout, context, number of the draw) -> one value per stimulus, (n_stimuli,), which must depend
on that stimulus alone (`gradenc_core.signals.conformance` tests it)."""


Rule = Callable[[Sequence[torch.Tensor], Sequence[torch.Tensor]], Sequence[torch.Tensor]]
"""(activations, gradients) -> signals: of every layer one tensor in the shape of its output,
(n_stimuli, ...); a stimulus's signal must depend on that stimulus alone."""


@dataclass(frozen=True)
class Objective:
    """A loss with its name, its needs and its number of seeded draws.

    An objective with a `rule` is a signal: the rule turns activations and the loss's gradients into
    it.
    """

    name: str
    loss: Loss
    needs: frozenset[Need]
    n_draws: int
    rule: Rule | None = None

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the sources: "gradient:<name>" or "signal:<name>", ".<draw>" after each draw."""
        source = f"{'signal' if self.rule else 'gradient'}:{self.name}"
        if self.n_draws == 1:
            return (source,)
        return tuple(f"{source}.{draw}" for draw in range(self.n_draws))


def needs(*what: Need, n_draws: int = 1) -> Callable[[Loss], Loss]:
    """Declare the needs of a loss beside one forward pass, and its number of seeded draws."""

    def declare(loss: Loss) -> Loss:
        loss.__dict__.update(needs=frozenset(what), n_draws=n_draws)
        return loss

    return declare


def as_objective(loss: Loss, name: str | None = None) -> Objective:
    """Return a loss as an objective with the needs that it declared, or none."""
    declared: frozenset[Need] = loss.__dict__.get("needs", frozenset())
    n_draws: int = loss.__dict__.get("n_draws", 1)
    return Objective(name or loss.__name__, loss, declared, n_draws)


def signal(of: str) -> Callable[[Rule], Rule]:
    """Declare the objective whose gradients a signal takes."""

    def declare(rule: Rule) -> Rule:
        rule.__dict__.update(of=of)
        return rule

    return declare


def as_signal(
    rule: Rule, name: str | None = None, objectives: Mapping[str, Objective] | None = None
) -> Objective:
    """Return a signal, which runs the passes of the objective that `signal` declared.

    Parameters
    ----------
    objectives : mapping of str to Objective, optional
        The objectives to choose from; by default the shipped ones.

    Raises
    ------
    ValueError
        The rule declares no objective, or an unknown one.
    """
    known = OBJECTIVES if objectives is None else objectives
    declared: str = rule.__dict__.get("of", "")
    if declared not in known:
        raise ValueError(
            f"the signal {name or rule.__name__} takes the gradients of {declared!r}; declare one "
            f"with @signal(of=...): {', '.join(known)}"
        )
    return replace(known[declared], name=name or rule.__name__, rule=rule)


@needs("views", "bank", "head")
def dino(readout: Readout, context: Context, draw: int) -> torch.Tensor:
    """Cross-entropy over prototypes between the stimulus and its teacher views, (n_stimuli,).

    `L_s = mean_v -sum_k softmax(t_k(v) / .04) log softmax(u_k(s) / .1)`, student u the stimulus as
    shown, teacher t its 8 views with the same weights and no gradient.
    Proxy: u = t = the cosine of `Readout.pooled` (last block before the final norm, mean of the
    patches), centred by the bank's mean, to the bank's 256 prototypes.
    With a user's head: u = its logits of `Readout.embedding` (class token after the final norm),
    t = the same minus their mean over the bank (DINO's centring).
    Source: Caron et al. (2021, arXiv 2104.14294), equation 1; docs/objectives.md.
    """
    student = functional.log_softmax(_logits(readout, context) / STUDENT_TEMPERATURE, dim=1)
    centre = 0.0 if context.centre is None else context.centre
    losses = [_cross_entropy(_logits(view, context) - centre, student) for view in readout.views]
    return torch.stack(losses).mean(dim=0)


def _logits(readout: Readout, context: Context) -> torch.Tensor:
    if context.head is not None:
        assert readout.embedding is not None
        return context.head(readout.embedding)
    assert context.bank is not None
    return context.bank.logits(readout.pooled)


def _cross_entropy(teacher: torch.Tensor, log_student: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy of a stop-gradient teacher's sharpened logits over the last axis."""
    target = functional.softmax(teacher.detach() / TEACHER_TEMPERATURE, dim=-1)
    return -(target * log_student).sum(dim=-1)


@needs("views", "bank")
def contrastive(readout: Readout, context: Context, draw: int) -> torch.Tensor:
    """InfoNCE with the teacher views as positives and the bank as negatives, (n_stimuli,).

    `L_s = mean_v -log(e(s, v) / (e(s, v) + sum_b e(s, b)))`, `e(s, x) = exp(cos(z_s, z_x) / .1)`,
    z = `Readout.pooled` (last block before the final norm, mean of the patches), b the items of
    the bank without those of the stimulus's own content; no gradient through views or bank.
    Source: van den Oord et al. (2018, arXiv 1807.03748), equation 4; Chen et al. (2020, arXiv
    2002.05709), equation 1; docs/objectives.md.
    """
    assert context.bank is not None
    assert readout.digests is not None
    student = functional.normalize(readout.pooled, dim=1)
    negatives = student @ functional.normalize(context.bank.pooled, dim=1).T
    negatives = negatives.masked_fill(context.bank.has(readout.digests), -math.inf)
    losses = []
    for view in readout.views:
        positive = (student * functional.normalize(view.pooled.detach(), dim=1)).sum(dim=1)
        candidates = torch.cat([positive[:, None], negatives], dim=1) / CONTRAST_TEMPERATURE
        losses.append(-functional.log_softmax(candidates, dim=1)[:, 0])
    return torch.stack(losses).mean(dim=0)


@needs("bank", "masks")
def masked(readout: Readout, context: Context, draw: int) -> torch.Tensor:
    """Cross-entropy between masked patches and the same patches unmasked, (n_stimuli,).

    In the pass that sees half of the patches:
    `L_s = mean_{p masked} -sum_k softmax(c_k(x_p) / .04) log softmax(c_k(y_p) / .1)`, y_p the last
    block's patch token (before the final norm) in the masked pass, x_p in the unmasked one without
    gradient, c_k the cosine to the bank's prototypes after centring by the bank's mean. Loss and
    gradient are means over two complementary masks (`gradenc_core.signals.masks`).
    Source: Zhou et al. (2022, arXiv 2111.07832), equation 2; docs/objectives.md.
    """
    assert context.bank is not None
    assert readout.whole is not None
    assert readout.mask is not None
    student = context.bank.logits(readout.patches) / STUDENT_TEMPERATURE
    losses = _cross_entropy(
        context.bank.logits(readout.whole.patches), functional.log_softmax(student, dim=-1)
    )
    return (losses * readout.mask).sum(dim=1) / readout.mask.sum(dim=1)


@needs("classifier", "labels")
def classification(readout: Readout, context: Context, draw: int) -> torch.Tensor:
    """Cross-entropy of the model's own head, (n_stimuli,).

    `L_s = -log softmax(logits_s)[y_s]`, where y_s is the true label if given, else the model's own
    argmax, taken as a constant. Reads the head's output (the token that the head reads is the
    model's: class token, mean of patches or pooled map). Source: docs/objectives.md.
    """
    if readout.logits is None:
        raise ValueError("the objective classification needs a model with a classification head")
    labels = readout.logits.argmax(dim=1) if readout.labels is None else readout.labels
    return functional.cross_entropy(readout.logits, labels, reduction="none")


def energy(readout: Readout, context: Context, draw: int) -> torch.Tensor:
    """Half the squared norm of the last block's pooled output before the final norm, (n_stimuli,).

    `L_s = ||z_s||^2 / 2`, z_s the global mean of a map or the mean of the patch tokens. After the
    final norm it would be a constant. Source: docs/objectives.md.
    """
    return readout.pooled.square().sum(dim=1) / 2


@needs(n_draws=N_RANDOM_DRAWS)
def random(readout: Readout, context: Context, draw: int) -> torch.Tensor:
    """Seeded linear functional of the same pooled output as `energy`, (n_stimuli,).

    `L_s = w_k . z_s` with w_k ~ N(0, 1/n_channels), keyed by (seed, draw k, n_channels). The
    distribution over draws, all from one forward pass, is the control for any other objective.
    Source: docs/objectives.md.
    """
    n_channels = readout.pooled.shape[1]
    rng = keyed_generator("random objective", context.seed, draw, n_channels)
    weights = rng.standard_normal(n_channels) / math.sqrt(n_channels)
    return (readout.pooled * torch.as_tensor(weights).to(readout.pooled)).sum(dim=1)


def mismatched(loss: Loss) -> Loss:
    """Return the control of a loss: every stimulus gets the error of another image.

    `L_s = e_b . z_s`, so that the gradient is `J_s' e_b`: the stimulus's own Jacobian J_s and the
    error `e_b = dL/dz` of an image b of the bank, at the output z that the loss reads. The bank has
    no teacher views: each of its images is its own view. The stimulus's digest chooses b, so that
    the error is the same in every shard; b is never the stimulus itself.
    Source: docs/objectives.md.
    """

    @needs("bank", *(loss.__dict__.get("needs", frozenset()) & {"head"}))
    def control(readout: Readout, context: Context, draw: int) -> torch.Tensor:
        """Inner product of the output with the error of another image, (n_stimuli,).

        `L_s = e_b . z_s`; see `mismatched`. Source: docs/objectives.md.
        """
        assert readout.digests is not None
        assert context.bank is not None
        items = [_other_item(digest, context) for digest in readout.digests]
        shown = context.bank.read(items)
        with torch.enable_grad():
            places = ("pooled",) if context.head is None else ("pooled", "embedding")
            outputs = {place: getattr(shown, place).requires_grad_() for place in places}
            total = loss(replace(shown, views=(context.bank.read(items),)), context, draw).sum()
            errors = torch.autograd.grad(
                total, [*outputs.values()], allow_unused=True, materialize_grads=True
            )
        own = [getattr(readout, place) for place in outputs]
        products = [(z * error).sum(dim=1) for z, error in zip(own, errors, strict=True)]
        return torch.stack(products).sum(dim=0)

    return control


def _other_item(digest: str, context: Context) -> int:
    """Return the position of the item of the bank that a stimulus's digest chooses."""
    assert context.bank is not None
    items = context.bank.digests
    drawn = keyed_generator("mismatched", context.seed, digest).permutation(len(items))
    return int(next(i for i in drawn if items[i] != digest))


OBJECTIVES: Mapping[str, Objective] = {
    **{
        loss.__name__: as_objective(loss)
        for loss in (dino, contrastive, masked, classification, energy, random)
    },
    **{
        f"mismatched_{loss.__name__}": as_objective(mismatched(loss), f"mismatched_{loss.__name__}")
        for loss in (dino, contrastive, energy)
    },
}
"""The shipped objectives by name; the last are controls of three of them."""


def supported_objectives(
    model: VisionModel, objectives: Mapping[str, Objective] = OBJECTIVES
) -> tuple[str, ...]:
    """Return the names of the objectives that the model can run."""
    has = {"classifier": bool(model.n_classes), "masks": patch_module(model) is not None}
    return tuple(
        name
        for name, objective in objectives.items()
        if all(has.get(need, True) for need in objective.needs)
    )


def parse_source(
    model: VisionModel, source: str, objectives: Mapping[str, Objective] = OBJECTIVES
) -> tuple[Objective, int]:
    """Return the objective and draw of "gradient:<objective>" or "gradient:<objective>.<draw>".

    Raises
    ------
    ValueError
        The source names no objective that the model supports, or no such draw.
    """
    known = {
        name: (objectives[objective], draw)
        for objective in supported_objectives(model, objectives)
        for draw, name in enumerate(objectives[objective].sources)
    }
    if source not in known:
        raise ValueError(
            f"the source {source!r} is not one of {model.architecture}: use forward, "
            f"{', '.join(known)}"
        )
    return known[source]
