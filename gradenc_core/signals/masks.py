"""Passes of a vision transformer that see half of the patches."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from gradenc_core.keyed import keyed_generator
from gradenc_core.models.model import VisionModel


def patch_masks(digest: str, seed: int, n_patches: int) -> NDArray[np.bool_]:
    """Return two complementary masks of half of the patches, (2, n_patches), True where hidden.

    Keyed by the stimulus's content and the study's seed; of an odd number of patches, the second
    mask hides one more.
    """
    first = np.zeros(n_patches, dtype=bool)
    rng = keyed_generator("patch mask", seed, digest, n_patches)
    first[rng.permutation(n_patches)[: n_patches // 2]] = True
    return np.stack([first, ~first])


def patch_module(model: VisionModel) -> str | None:
    """Return the module that embeds the patches: the first with one position for each of them.

    Its output comes before positions, class and register tokens are added. None for networks
    without patch tokens.
    """
    if model.n_patches < 2:
        return None
    begun = model.calls[model.blocks[0]].begin
    before = sorted((c.end, name) for name, c in model.calls.items() if c.end < begun)
    holding = (name for _, name in before if _holds_patches(model, name))
    return next(holding, None)


def mask_token(model: VisionModel) -> tuple[Literal["model", "zeros"], torch.Tensor]:
    """Return the token of hidden patches, (n_channels,): the model's own mask token, else zeros.

    The first word says which; stage prepare records it.
    """
    name = patch_module(model)
    shape = None if name is None else model.calls[name].shape
    if shape is None:
        raise ValueError(f"{model.architecture} has no patch tokens that could be masked")
    n_channels = shape[1] if len(shape) == 4 else shape[-1]
    for key, parameter in model.module.named_parameters():
        if key.rpartition(".")[2] == "mask_token" and parameter.numel() == n_channels:
            return "model", parameter.detach().reshape(-1)
    return "zeros", next(model.module.parameters()).new_zeros(n_channels)


@contextmanager
def masked_patches(model: VisionModel, mask: torch.Tensor) -> Iterator[None]:
    """Replace the hidden patches of every pass within, mask (n_stimuli, n_patches) bool."""
    name = patch_module(model)
    assert name is not None
    _, token = mask_token(model)

    def hook(_module: nn.Module, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        if output.ndim == 4:
            shaped = mask.reshape(len(mask), 1, *output.shape[2:])
            return torch.where(shaped, token[:, None, None], output)
        return torch.where(mask[..., None], token, output)

    handle = model.module.get_submodule(name).register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _holds_patches(model: VisionModel, name: str) -> bool:
    """Return whether a module's output is a map or sequence of one position per patch."""
    call = model.calls[name]
    if call.n_calls > 1 or call.shape is None:
        return False
    positions = call.shape[2:] if len(call.shape) == 4 else call.shape[1:-1]
    return len(call.shape) in (3, 4) and math.prod(positions) == model.n_patches
