"""Projection heads that a user supplies for the objective `dino`.

A head is read as tensors alone, never unpickled as code.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import functional

from gradenc_core.models.weights import read_safetensors

NAME = re.compile(r"(?:.*\.)?(mlp\.\d+\.(?:weight|bias)|last_layer\.weight(?:_[vg])?)")
"""Name of a head's tensor; a prefix before it is left out."""


@dataclass(frozen=True)
class DinoHead:
    """The head of DINO, DINOv2 and DINOv3: layers with GELU, L2 normalisation, prototypes.

    Source: Caron et al. (2021, arXiv 2104.14294), appendix C.

    Attributes
    ----------
    layers : list of (weight, bias)
        Layers of the multilayer perceptron, (n_out, n_in) and (n_out,).
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
        The file is no safetensors file, or holds other tensors than those of one head.
    """
    if path.suffix != ".safetensors":
        raise ValueError(f"the head {path} is no safetensors file; convert its state to one")
    state = _bare(path, read_safetensors(path, "head"))
    numbers = sorted({int(name.split(".")[1]) for name in state if name.startswith("mlp.")})
    try:
        layers = [(state[f"mlp.{n}.weight"], state[f"mlp.{n}.bias"]) for n in numbers]
        return DinoHead(layers, _last_layer(state))
    except KeyError as error:
        raise ValueError(
            f"the head {path} lacks the tensor {error}; give the state of a DINO head: mlp.0.weight"
            ", mlp.0.bias, ..., last_layer.weight"
        ) from error


def _bare(path: Path, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return a head's tensors without the prefix of their names, refusing any others."""
    names: dict[str, str] = {}
    for name in state:
        match = NAME.fullmatch(name)
        if match is None:
            raise ValueError(
                f"the head {path} holds {name}, which is no tensor of a DINO head; save the head "
                "alone: mlp.0.weight, mlp.0.bias, ..., last_layer.weight"
            )
        other = names.setdefault(match[1], name)
        if other != name:
            raise ValueError(
                f"the head {path} holds both {other} and {name}; save the tensors of one head alone"
            )
    return {bare: state[name] for bare, name in names.items()}


def _last_layer(state: dict[str, torch.Tensor]) -> torch.Tensor:
    if "last_layer.weight" in state:
        return state["last_layer.weight"]
    direction, length = state["last_layer.weight_v"], state["last_layer.weight_g"]
    return length * functional.normalize(direction, dim=1)
