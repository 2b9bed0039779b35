"""The inputs of an objective: one pass of the network, and what stays fixed over the study."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.nn import functional


@dataclass(frozen=True)
class Bank:
    """The reference bank: fixed images that objectives compare a stimulus with.

    Attributes
    ----------
    digests : tuple of str, (n_items,)
        SHA-256 of each item's content; an item that equals the stimulus is left out.
    pooled, embedding : torch.Tensor, (n_items, n_channels)
        `Readout.pooled` and `Readout.embedding` of each item.
    mean : torch.Tensor, (n_channels,)
        Mean of `pooled`, which centres vectors before they are compared with the prototypes.
    prototypes : torch.Tensor, (n_prototypes, n_channels)
        Spherical k-means of the centred `pooled`; each has norm 1.
    """

    digests: tuple[str, ...]
    pooled: torch.Tensor
    embedding: torch.Tensor
    mean: torch.Tensor
    prototypes: torch.Tensor

    def to(self, like: torch.Tensor) -> "Bank":
        """Return the bank on the device and in the precision of `like`."""
        tensors = (self.pooled, self.embedding, self.mean, self.prototypes)
        return Bank(self.digests, *(tensor.to(like) for tensor in tensors))

    def read(self, items: Sequence[int]) -> "Readout":
        """Return copies of what an objective may read of some items."""
        pooled, embedding = self.pooled[items], self.embedding[items]
        digests = tuple(self.digests[item] for item in items)
        return Readout(pooled, pooled[:, None], embedding, digests=digests)

    def logits(self, pooled: torch.Tensor) -> torch.Tensor:
        """Return the cosine of centred vectors to the prototypes, (..., n_prototypes)."""
        return functional.normalize(pooled - self.mean, dim=-1) @ self.prototypes.T

    def has(self, digests: tuple[str, ...]) -> torch.Tensor:
        """Return which items have a stimulus's own content, (n_stimuli, n_items) bool."""
        own = [[item == digest for item in self.digests] for digest in digests]
        return torch.tensor(own, device=self.mean.device).reshape(len(digests), len(self.digests))


Head = Callable[[torch.Tensor], torch.Tensor]
"""A user's projection head: `Readout.embedding`, (n, n_channels), to logits, (n, n_logits)."""


@dataclass(frozen=True)
class Context:
    """Everything that an objective compares a stimulus with, fixed for the whole study.

    Attributes
    ----------
    seed : int
        Seed of the study.
    bank : Bank or None
    head : callable or None
        A user's head, for `dino` and other objectives that need it.
    centre : torch.Tensor, (n_logits,), or None
        Mean of the head's logits over the bank; `settled` computes it.
    """

    seed: int
    bank: Bank | None = None
    head: Head | None = None
    centre: torch.Tensor | None = None

    def settled(self, like: torch.Tensor) -> "Context":
        """Return the context on the device and in the precision of `like`, the head frozen.

        Raises
        ------
        ValueError
            A head without a bank to centre it.
        """
        bank = None if self.bank is None else self.bank.to(like)
        if self.head is None:
            return replace(self, bank=bank)
        if bank is None:
            raise ValueError("a head needs a reference bank, whose mean centres it; give a bank")
        if isinstance(self.head, nn.Module):
            self.head.to(like).eval().requires_grad_(False)
        with torch.no_grad():
            centre = self.head(bank.embedding).mean(dim=0)
        return replace(self, bank=bank, centre=centre)


@dataclass(frozen=True)
class Readout:
    """The outputs of one forward pass that an objective may read.

    An objective finds only the outputs that it declared with
    `gradenc_core.signals.objectives.needs`.

    Attributes
    ----------
    pooled : torch.Tensor, (n_stimuli, n_channels)
        Output of the last block *before* the final norm: global mean of a map, mean of the patch
        tokens of a transformer (class and register tokens do not enter).
    patches : torch.Tensor, (n_stimuli, n_positions, n_channels)
        The patch tokens or positions that `pooled` is the mean of.
    embedding : torch.Tensor, (n_stimuli, n_channels), or None
        The input of projection heads: the class token (or, without one, the mean of the patches)
        *after* the final norm, or of the last block where no such norm follows. None in passes
        that serve neither a bank nor a head.
    logits : torch.Tensor, (n_stimuli, n_classes), or None
        Output of the model's own head; None without one.
    labels : torch.Tensor, (n_stimuli,) int64, or None
        True classes, where known.
    digests : tuple of str, (n_stimuli,), or None
        SHA-256 of each stimulus's content.
    views : tuple of Readout
        Readouts of the teacher views, without gradient; empty unless needed.
    mask : torch.Tensor, (n_stimuli, n_positions) bool, or None
        Which patches this pass did not see.
    whole : Readout or None
        In a masked pass, the readout of the unmasked one, without gradient.
    """

    pooled: torch.Tensor
    patches: torch.Tensor
    embedding: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    labels: torch.Tensor | None = None
    digests: tuple[str, ...] | None = None
    views: "tuple[Readout, ...]" = ()
    mask: torch.Tensor | None = None
    whole: "Readout | None" = None
