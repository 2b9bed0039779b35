"""Where this process computes: the one place that knows of devices.

Everything else is written for any array: numpy's on a CPU, torch's tensors on a GPU. Torch, which
is slow to import, is imported only where a GPU may be.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import array_api_compat
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

Array = Any
"""A numpy array or a torch tensor."""

Floats = NDArray[np.float64]


@cache
def device() -> torch.device:
    """Return the GPU that this process sees, with TF32 off, or else the CPU."""
    import torch

    if not torch.cuda.is_available():
        return torch.device("cpu")
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    return torch.device("cuda")


def uses_tensors() -> bool:
    """Whether arrays are torch's: on a CPU they stay numpy's, whose BLAS is faster."""
    return has_driver() and device().type != "cpu"


@cache
def has_driver() -> bool:
    """Whether this machine has a GPU's driver, CUDA's or ROCm's: torch finds no GPU without one."""
    if Path("/dev/kfd").exists():
        return True
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def put(values: Array) -> Array:
    """Move an array to this process's device."""
    return _tensor(values, device()) if uses_tensors() else values


def fetch(values: Array) -> NDArray[Any]:
    """Return an array of any device as numpy's."""
    return values if isinstance(values, np.ndarray) else np.asarray(values.cpu())


def like(values: NDArray[Any], other: Array) -> Array:
    """Move an array to the device of another one."""
    if isinstance(other, np.ndarray):
        return values
    return _tensor(values, other.device)


def zeros(shape: tuple[int, ...]) -> Array:
    """Return float64 zeros on this process's device."""
    return put(np.zeros(shape))


def namespace(*values: Array) -> Any:
    """Return the module of array functions (the Python array API) that goes with arrays."""
    return array_api_compat.array_namespace(*values)


def single(values: Array) -> Array:
    """Return an array in float32; not a copy where it is so already."""
    xp = namespace(values)
    return xp.astype(values, xp.float32, copy=False)


def _tensor(values: Array, where: torch.device) -> torch.Tensor:
    import torch

    if isinstance(values, np.ndarray):
        # Torch takes no arrays that run backwards, and warns of those that it may not write to.
        values = np.require(values, requirements=["C", "W"])
    return torch.as_tensor(values, device=where)
