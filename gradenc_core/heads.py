"""Projection heads that a user supplies for `dino`."""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch.nn import functional


@dataclass(frozen=True)
class DinoHead:
    """The head of DINO, DINOv2 and DINOv3: layers with GELU, L2 normalisation, prototypes.

    Source: Caron et al. (2021, arXiv 2104.14294), appendix C.

    Attributes
    ----------
    layers : list of (weight, bias)
        Of the multilayer perceptron, (n_out, n_in) and (n_out,).
    prototypes : torch.Tensor, (n_logits, n_bottleneck)
    """

    layers: list[tuple[torch.Tensor, torch.Tensor]]
    prototypes: torch.Tensor

    def __call__(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Return the logits of embeddings, (n, n_channels) -> (n, n_logits)."""
        x = embeddings
        for index, (weight, bias) in enumerate(self.layers):
            x = functional.gelu(x) if index else x
            x = functional.linear(x, weight.to(x), bias.to(x))
        return functional.linear(functional.normalize(x, dim=-1), self.prototypes.to(x))


def load_dino_head(path: Path) -> DinoHead:
    """Read a DINO head's state: `mlp.<i>.weight`, `mlp.<i>.bias` and `last_layer.*`.

    The last layer is `last_layer.weight`, or weight-normalised as `last_layer.weight_v` with
    `last_layer.weight_g`; a prefix before the names is left out.

    Raises
    ------
    ValueError
        The file is no safetensors file, or lacks these tensors.
    """
    if path.suffix != ".safetensors":
        raise ValueError(f"the head {path} is no safetensors file; convert its state to one")
    state = {_bare(name): tensor for name, tensor in load_file(path).items()}
    numbers = sorted(int(n.split(".")[1]) for n in state if n.startswith("mlp.") and "weight" in n)
    try:
        layers = [(state[f"mlp.{n}.weight"], state[f"mlp.{n}.bias"]) for n in numbers]
        return DinoHead(layers, _last_layer(state))
    except KeyError as error:
        raise ValueError(
            f"the head {path} lacks the tensor {error}; give the state of a DINO head: mlp.0.weight"
            ", mlp.0.bias, ..., last_layer.weight"
        ) from error


def _bare(name: str) -> str:
    for start in ("mlp.", "last_layer."):
        if start in name:
            return name[name.index(start) :]
    return name


def _last_layer(state: dict[str, torch.Tensor]) -> torch.Tensor:
    if "last_layer.weight" in state:
        return state["last_layer.weight"]
    direction, length = state["last_layer.weight_v"], state["last_layer.weight_g"]
    return length * functional.normalize(direction, dim=1)
