"""The tokens of a layer's output that become its features, and how they are pooled."""

from dataclasses import dataclass
from typing import Literal, get_args

import torch

from gradenc_core.models.layers import output_shape
from gradenc_core.models.model import VisionModel

Tokens = Literal["cls", "registers", "patches", "mean", "all"]
TOKENS: tuple[Tokens, ...] = get_args(Tokens)


@dataclass(frozen=True)
class TokenLayout:
    """The axes and tokens of a layer's output, read off its shape and the model's token counts.

    Attributes
    ----------
    kind : {"map", "map_last", "tokens", "vector"}
        (n, channel, height, width), (n, height, width, channel), (n, token, channel), (n, channel).
    n_class, n_registers : int
        Tokens before the patches; 0 for anything but tokens.
    shape : tuple of int
        Output shape of one image, without the batch.
    """

    kind: Literal["map", "map_last", "tokens", "vector"]
    n_class: int
    n_registers: int
    shape: tuple[int, ...]

    @property
    def n_channels(self) -> int:
        """Number of channels of a token or position."""
        return self.shape[0] if self.kind == "map" else self.shape[-1]

    @property
    def n_patches(self) -> int:
        """Number of patch tokens or positions; 1 for a vector."""
        n_tokens = int(torch.Size(self.shape).numel()) // self.n_channels
        return n_tokens - self.n_class - self.n_registers

    def n_features(self, tokens: Tokens) -> int:
        """Return the number of features after pooling."""
        if tokens not in ("patches", "all"):
            return self.n_channels
        n_others = self.n_class + self.n_registers if tokens == "all" else 0
        return (self.n_patches + n_others) * self.n_channels


def layer_layout(model: VisionModel, layer: str, tokens: Tokens) -> TokenLayout:
    """Return the layout of a layer's output, refusing tokens that it does not have.

    Raises
    ------
    ValueError
        `tokens` is unknown, the layer lacks them, or its output is neither map, tokens nor vector.
    """
    if tokens not in TOKENS:
        raise ValueError(f"tokens is {tokens!r}: use one of {', '.join(TOKENS)}")
    layout = _layout(model, layer)
    count = {"cls": layout.n_class, "registers": layout.n_registers}.get(tokens, 1)
    if not count:
        raise ValueError(
            f"tokens is {tokens!r}, but layer {layer!r} of {model.architecture} has none; "
            "use 'mean' or 'patches'"
        )
    return layout


def pool(output: torch.Tensor, layout: TokenLayout, tokens: Tokens) -> torch.Tensor:
    """Return a layer's features, (n_stimuli, n_features).

    `cls`: the class token. `registers`: mean of the register tokens. `mean`: mean of the patch
    tokens, or of all positions of a map. `patches`: all patch tokens or positions, token x channel,
    flattened. `all`: the same of every token, class and register tokens first. A vector is its own
    `mean`, `patches` and `all`.
    """
    if layout.kind == "vector":
        return output
    sequence = token_sequence(output, layout)
    n_prefix = layout.n_class + layout.n_registers
    if tokens == "cls":
        return sequence[:, 0]
    if tokens == "registers":
        return sequence[:, layout.n_class : n_prefix].mean(dim=1)
    if tokens == "all":
        return sequence.flatten(1)
    patches = sequence[:, n_prefix:]
    return patches.mean(dim=1) if tokens == "mean" else patches.flatten(1)


def token_sequence(output: torch.Tensor, layout: TokenLayout) -> torch.Tensor:
    """Return a layer's output as tokens or positions, (n_stimuli, n_tokens, n_channels)."""
    if layout.kind == "vector":
        return output[:, None]
    if layout.kind == "map":
        output = output.permute(0, 2, 3, 1)
    return output if layout.kind == "tokens" else output.flatten(1, 2)


def _layout(model: VisionModel, layer: str) -> TokenLayout:
    shape = output_shape(model, layer)[1:]
    if len(shape) == 1:
        return TokenLayout("vector", 0, 0, shape)
    if len(shape) == 3:
        square_first, square_last = shape[0] == shape[1], shape[1] == shape[2]
        last = square_first and (model.channels_last or not square_last)
        return TokenLayout("map_last" if last else "map", 0, 0, shape)
    if len(shape) == 2:
        if shape[0] == model.n_patches or not model.n_prefix_tokens:
            return TokenLayout("tokens", 0, 0, shape)
        if shape[0] == model.n_patches + model.n_prefix_tokens:
            return TokenLayout("tokens", model.n_class_tokens, model.n_register_tokens, shape)
    raise ValueError(
        f"layer {layer!r} of {model.architecture} returns shape {shape} per image, which is "
        f"neither a map, a vector, nor {model.n_patches} patches with or without the model's "
        f"{model.n_prefix_tokens} other tokens; name another layer"
    )
