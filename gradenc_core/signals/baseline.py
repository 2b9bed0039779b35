"""The complete forward baseline: all that a forward pass makes and a loss can read.

A gradient is a function of activations, so that only what it predicts beyond *all* of them speaks
for a learning signal. Each layer gives its class tokens, the mean of its registers and of its
patches, seeded spatial patterns of its patches, and its log-norm; one more entry, `readout`, gives
logits, softmax, assignments to prototypes, the losses themselves, confidence and contrast.
"""

from collections.abc import Mapping, Sequence

import torch
from torch.nn import functional

from gradenc_core.keyed import keyed_generator
from gradenc_core.models.model import VisionModel
from gradenc_core.models.tokens import TokenLayout, layer_layout, token_sequence
from gradenc_core.signals.objectives import STUDENT_TEMPERATURE
from gradenc_core.signals.projection import Projection, log_norms, sparse_projection
from gradenc_core.signals.readout import Context, Readout
from gradenc_core.signals.sizes import N_SPATIAL, READOUT, Parts, readout_parts

LUMINANCE = (0.2126, 0.7152, 0.0722)
"""Weights of red, green and blue (ITU-R BT.709)."""


def layer_parts(layout: TokenLayout) -> Parts:
    """Return the columns of one layer: its tokens' as one part, and its log-norm."""
    n_patterns = N_SPATIAL if layout.n_patches > 1 else 0
    n_tokens = layout.n_class + bool(layout.n_registers) + 1 + n_patterns
    return Parts((n_tokens * layout.n_channels,), 1)


class Baseline:
    """Makes the baseline's columns of a micro-batch and compresses them.

    Parameters
    ----------
    model : VisionModel
    layers : sequence of str
    seed : int
        Seed of the spatial patterns and projections.
    width : int or None
        Parts that are wider are projected to this many columns; None leaves all as they are.
    n_losses : int
        Losses that enter `readout`.
    context : Context
        Bank and head, whose assignments enter where they are given; settled (`Passes.context`).
    """

    def __init__(
        self,
        model: VisionModel,
        layers: Sequence[str],
        seed: int,
        width: int | None,
        n_losses: int,
        context: Context,
    ) -> None:
        self._model, self._context = model, context
        device = next(model.module.parameters()).device
        self._layouts = [layer_layout(model, name, "mean") for name in layers]
        self._patterns = [
            _patterns(seed, name, layout).to(device)
            for name, layout in zip(layers, self._layouts, strict=True)
        ]
        n_prototypes = 0 if context.bank is None else len(context.bank.prototypes)
        n_head = 0 if context.centre is None else len(context.centre)
        last = readout_parts(model.n_classes, n_prototypes, n_head, n_losses)
        self.parts = [*(layer_parts(layout) for layout in self._layouts), last]
        self.width = width
        self._projections = [
            [_projection(seed, f"{name}/{i}", n, width, device) for i, n in enumerate(parts.wide)]
            for name, parts in zip([*layers, READOUT], self.parts, strict=True)
        ]

    def columns(
        self,
        outputs: Sequence[torch.Tensor],
        readout: Readout,
        losses: Mapping[str, torch.Tensor],
        images: torch.Tensor,
    ) -> list[torch.Tensor]:
        """Return the columns of each layer and of `readout`, (n_stimuli, n_columns) float32.

        Parameters
        ----------
        outputs : sequence of torch.Tensor
            Output of each layer.
        readout : Readout
            Of the same pass.
        losses : mapping of str to torch.Tensor
            One value per stimulus of every loss.
        images : torch.Tensor, (n_stimuli, 3, image_size, image_size)
            As the network was given them.
        """
        made = [
            _of_layer(output, layout, patterns)
            for output, layout, patterns in zip(outputs, self._layouts, self._patterns, strict=True)
        ]
        return [*made, self._of_readout(readout, losses, images)]

    def compress(self, index: int, columns: torch.Tensor) -> torch.Tensor:
        """Project the parts of a layer that are too wide, (n_stimuli, n_features)."""
        parts, projections = self.parts[index], self._projections[index]
        *wide, scalars = columns.split([*parts.wide, parts.n_scalars], dim=1)
        kept = [x if p is None else p(x) for x, p in zip(wide, projections, strict=True)]
        return torch.cat([*kept, scalars], dim=1)

    def _of_readout(
        self, readout: Readout, losses: Mapping[str, torch.Tensor], images: torch.Tensor
    ) -> torch.Tensor:
        wide, scalars = [], list(losses.values())
        if readout.logits is not None:
            softmax = readout.logits.softmax(dim=1)
            wide += [readout.logits, softmax]
            scalars.append(softmax.amax(dim=1))
        if (bank := self._context.bank) is not None:
            wide.append(_assigned(bank.logits(readout.pooled)))
        if (head := self._context.head) is not None and readout.embedding is not None:
            wide.append(_assigned(head(readout.embedding)))
        scalars.append(_contrast(images, self._model))
        return torch.cat([*wide, *(values[:, None] for values in scalars)], dim=1).float()


def _of_layer(output: torch.Tensor, layout: TokenLayout, patterns: torch.Tensor) -> torch.Tensor:
    sequence = token_sequence(output, layout)
    n_prefix = layout.n_class + layout.n_registers
    own, patches = sequence[:, : layout.n_class], sequence[:, n_prefix:]
    columns = [own.flatten(1)]
    if layout.n_registers:
        columns.append(sequence[:, layout.n_class : n_prefix].mean(dim=1))
    columns += [patches.mean(dim=1), _in_patterns(patches, patterns), log_norms(output.flatten(1))]
    return torch.cat(columns, dim=1).float()


def _patterns(seed: int, layer: str, layout: TokenLayout) -> torch.Tensor:
    """Return seeded spatial patterns, (N_SPATIAL, n_patches); none for a single position.

    The same for every channel: so no column mixes channels before each is standardised.
    """
    n = layout.n_patches
    rng = keyed_generator("spatial pattern", seed, layer, n)
    drawn = rng.standard_normal((N_SPATIAL if n > 1 else 0, n)) / n**0.5
    return torch.from_numpy(drawn.astype("float32"))


def _in_patterns(patches: torch.Tensor, patterns: torch.Tensor) -> torch.Tensor:
    """Weight the patches by each pattern, (n_stimuli, n_patterns * n_channels).

    The sum over patches runs in one order for every stimulus, wherever it stands in the batch.
    """
    if not len(patterns):
        return patches[:, :0, 0]
    n, n_patches, n_channels = patches.shape
    rows = patches.permute(1, 0, 2).reshape(n_patches, n * n_channels)
    order = torch.arange(n_patches, device=rows.device).expand(len(patterns), -1)
    summed = functional.embedding_bag(order, rows, mode="sum", per_sample_weights=patterns)
    return summed.reshape(len(patterns), n, n_channels).permute(1, 0, 2).flatten(1)


def _projection(
    seed: int, name: str, n_columns: int, width: int | None, device: torch.device
) -> Projection | None:
    if width is None or n_columns <= width:
        return None
    return sparse_projection(seed, f"baseline {name}", n_columns, width).to(device)


def _assigned(logits: torch.Tensor) -> torch.Tensor:
    """Return the assignment of stimuli to prototypes, as `dino` takes it of a stimulus."""
    return functional.softmax(logits / STUDENT_TEMPERATURE, dim=1)


def _contrast(images: torch.Tensor, model: VisionModel) -> torch.Tensor:
    """Return the sd of luminance over an image's pixels, (n_stimuli,); full range is 0 to 1."""
    mean, std, weights = (
        torch.tensor(values, dtype=torch.float64, device=images.device)[:, None, None]
        for values in (model.mean, model.std, LUMINANCE)
    )
    luminance = ((images.double() * std + mean) * weights).sum(dim=1)
    return luminance.flatten(1).std(dim=1)
