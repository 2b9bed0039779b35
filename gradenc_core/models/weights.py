"""Weights of a network: loaded from a file, shuffled as a control, and their digest.

Files of weights are read as tensors; nothing else in them is unpickled.
"""

import hashlib
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from gradenc_core.keyed import keyed_generator

_STATISTICS = {"running_mean", "running_var"}
"""Names of the buffers that training fills; others are fixed tables."""

SHOWN = 5
"""How many names of tensors an error lists."""
PICKLED = (b"PK\x03\x04", b"\x80\x02")
"""First bytes of a file of `torch.save`: a ZIP archive, formerly a pickle."""


def load_checkpoint(module: nn.Module, path: Path) -> None:
    """Fill every parameter and persistent buffer of a network from a file, in place.

    Parameters
    ----------
    path : Path
        `.safetensors`, or a state dict that `torch.save` wrote (`.pt`, `.pth`). Nothing but tensors
        is unpickled.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        The file is damaged or of another kind, or its tensors are not those of the network by name
        and shape.
    """
    found = _read(path)
    wanted = module.state_dict()
    problems = {
        "missing": sorted(wanted.keys() - found.keys()),
        "unexpected": sorted(found.keys() - wanted.keys()),
        "of another shape": sorted(
            name for name in wanted.keys() & found.keys() if wanted[name].shape != found[name].shape
        ),
    }
    told = "; ".join(f"{kind}: {_listed(names)}" for kind, names in problems.items() if names)
    if told:
        raise ValueError(
            f"the checkpoint {path} does not fit {type(module).__name__} ({told}); give the state "
            "dict of this very architecture and image size"
        )
    module.load_state_dict(found)


def read_safetensors(path: Path, what: str) -> dict[str, torch.Tensor]:
    """Return the tensors of a `.safetensors` file.

    Parameters
    ----------
    what : str
        Name of the file's role in errors, such as "checkpoint".

    Raises
    ------
    ValueError
        The file is damaged.
    """
    try:
        return load_file(path)
    except SafetensorError as error:
        raise _unreadable(path, what) from error


def shuffle(module: nn.Module, seed: int) -> None:
    """Permute the values of every trained tensor within it, in place.

    Trained tensors are the parameters that require a gradient and the running statistics of
    normalisation layers, not fixed tables among the buffers. A tensor's permutation depends on
    `seed` and its name alone.

    Raises
    ------
    ValueError
        If every trained tensor has one value only, so that nothing is shuffled.
    """
    trained = _trained(module)
    if all(_is_constant(tensor) for tensor in trained.values()):
        raise ValueError(
            f"shuffled weights of {type(module).__name__} would be the same as before, because each"
            " of its tensors has one value only; use weights: untrained"
        )
    for name, tensor in trained.items():
        values = tensor.cpu().reshape(-1).numpy()
        permuted = keyed_generator("shuffled weights", seed, name).permutation(values)
        tensor.copy_(torch.from_numpy(permuted).reshape(tensor.shape))


def constant_tensors(module: nn.Module) -> list[str]:
    """Return the names of the tensors that no shuffle changes: all their values are equal."""
    return [name for name, tensor in _values(module).items() if _is_constant(tensor)]


def weights_digest(module: nn.Module) -> str:
    """Return sha256 over sorted name, dtype, shape and bytes of all parameters and buffers."""
    digest = hashlib.sha256()
    tensors = dict(module.named_parameters()) | dict(module.named_buffers())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _read(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no checkpoint {path}; give the path of a file of weights"
        )
    if path.suffix == ".safetensors":
        return read_safetensors(path, "checkpoint")
    if path.suffix not in (".pt", ".pth"):
        raise ValueError(f"the checkpoint {path} is no .safetensors, .pt or .pth file; save it so")
    found = _unpickled(path)
    if not isinstance(found, dict) or not all(isinstance(v, torch.Tensor) for v in found.values()):
        held = _listed(sorted(map(str, found))) if isinstance(found, dict) else type(found).__name__
        raise ValueError(
            f"the checkpoint {path} is no plain state dict (it holds {held}); save the dict of "
            "tensors alone"
        )
    return found


def _unpickled(path: Path) -> Any:
    with path.open("rb") as file:
        saved = file.read(4).startswith(PICKLED)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of a damaged file torch raises errors of many kinds
        if saved and isinstance(error, UnpicklingError):
            raise ValueError(
                f"the checkpoint {path} holds more than tensors, and unpickling that could run any "
                "code; save the model's state_dict() alone, best as .safetensors"
            ) from error
        raise _unreadable(path, "checkpoint") from error


def _unreadable(path: Path, what: str) -> ValueError:
    return ValueError(
        f"the {what} {path} is no {path.suffix} file, or is cut short or damaged; copy it again or "
        "save it anew"
    )


def _trained(module: nn.Module) -> dict[str, torch.Tensor]:
    trained = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    return {
        name: tensor
        for name, tensor in _values(module).items()
        if name in trained or name.rpartition(".")[2] in _STATISTICS
    }


def _values(module: nn.Module) -> dict[str, torch.Tensor]:
    return {n: tensor for n, tensor in module.state_dict().items() if tensor.is_floating_point()}


def _is_constant(tensor: torch.Tensor) -> bool:
    return bool((tensor == tensor.reshape(-1)[:1]).all())


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
