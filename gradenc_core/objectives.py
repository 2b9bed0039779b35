"""Per-stimulus losses whose gradients are the learning signals (docs/methods.md)."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional

from gradenc_core.models import VisionModel
from gradenc_core.projection import keyed_generator

N_RANDOM_DRAWS = 10


@dataclass(frozen=True)
class Readout:
    """What an objective reads from one forward pass.

    Attributes
    ----------
    pooled : torch.Tensor, (n_stimuli, n_channels)
        Output of the last block *before* the final norm: global mean of a map, mean of the patch
        tokens of a transformer (class and register tokens do not enter).
    logits : torch.Tensor, (n_stimuli, n_classes), or None
        Output of the model's own head; None without one.
    labels : torch.Tensor, (n_stimuli,) int64, or None
        True classes, where known.
    """

    pooled: torch.Tensor
    logits: torch.Tensor | None
    labels: torch.Tensor | None


Loss = Callable[[Readout, int, int], torch.Tensor]


@dataclass(frozen=True)
class Objective:
    """A registered objective: its loss (readout, seed, draw) -> (n_stimuli,), and its needs."""

    name: str
    loss: Loss
    n_draws: int
    needs_head: bool

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the sources: "gradient:<name>", or one "gradient:<name>.<draw>" per draw."""
        if self.n_draws == 1:
            return (f"gradient:{self.name}",)
        return tuple(f"gradient:{self.name}.{draw}" for draw in range(self.n_draws))


OBJECTIVES: dict[str, Objective] = {}


def register(name: str, *, n_draws: int = 1, needs_head: bool = False) -> Callable[[Loss], Loss]:
    """Enter a loss into the registry under `name`.

    A loss maps a readout, a seed and the number of a draw to one value per stimulus, which must
    depend on that stimulus alone.
    """

    def enter(loss: Loss) -> Loss:
        OBJECTIVES[name] = Objective(name, loss, n_draws, needs_head)
        return loss

    return enter


@register("classification", needs_head=True)
def classification(readout: Readout, seed: int, draw: int) -> torch.Tensor:
    """Cross-entropy of the model's own head, (n_stimuli,).

    `L_s = -log softmax(logits_s)[y_s]`, where y_s is the true label if given, else the model's own
    argmax, taken as a constant. Source: docs/methods.md.
    """
    if readout.logits is None:
        raise ValueError("the objective classification needs a model with a classification head")
    labels = readout.logits.argmax(dim=1) if readout.labels is None else readout.labels
    return functional.cross_entropy(readout.logits, labels, reduction="none")


@register("energy")
def energy(readout: Readout, seed: int, draw: int) -> torch.Tensor:
    """Half the squared norm of the last block's pooled output before the final norm, (n_stimuli,).

    `L_s = ||z_s||^2 / 2`, z_s the global mean of a map or the mean of the patch tokens. After the
    final norm it would be a constant. Source: docs/methods.md.
    """
    return readout.pooled.square().sum(dim=1) / 2


@register("random", n_draws=N_RANDOM_DRAWS)
def random(readout: Readout, seed: int, draw: int) -> torch.Tensor:
    """Seeded linear functional of the same pooled output as `energy`, (n_stimuli,).

    `L_s = w_k . z_s` with w_k ~ N(0, 1/n_channels), keyed by (seed, draw k, n_channels). The
    distribution over draws is the control for any other objective.
    Source: docs/methods.md.
    """
    n_channels = readout.pooled.shape[1]
    rng = keyed_generator("random objective", seed, draw, n_channels)
    weights = rng.standard_normal(n_channels) / math.sqrt(n_channels)
    return (readout.pooled * torch.as_tensor(weights).to(readout.pooled)).sum(dim=1)


def supported_objectives(model: VisionModel) -> tuple[str, ...]:
    """Return the names of the objectives that the model can run."""
    return tuple(
        name
        for name, objective in OBJECTIVES.items()
        if model.n_classes or not objective.needs_head
    )


def parse_source(model: VisionModel, source: str) -> tuple[Objective, int]:
    """Return the objective and draw of "gradient:<objective>" or "gradient:<objective>.<draw>".

    Raises
    ------
    ValueError
        The source names no objective that the model supports, or no such draw.
    """
    supported = supported_objectives(model)
    known = {
        name: (OBJECTIVES[objective], draw)
        for objective in supported
        for draw, name in enumerate(OBJECTIVES[objective].sources)
    }
    if source not in known:
        raise ValueError(
            f"the source {source!r} is not one of {model.architecture}: use forward, "
            f"{', '.join(known)}"
        )
    return known[source]
