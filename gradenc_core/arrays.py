"""Arrays: on which device they lie, how many rows of them are read, how many threads work on them.

This is the only module that knows of devices. All other code is written for any array: numpy's on a
CPU, torch's tensors on a GPU. Torch, which is slow to import, is imported only on a machine with a
GPU's driver.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import array_api_compat
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

if TYPE_CHECKING:
    import torch

Array = Any
"""A numpy array or a torch tensor."""

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]

Item = TypeVar("Item")
Result = TypeVar("Result")


class Rows(Protocol):
    """A matrix that is read by slices of rows: an array, or one on disk too large for memory."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(n_stimuli, n_columns)."""

    def __getitem__(self, rows: slice, /) -> Any:
        """Read a slice of rows."""


class Columns(Protocol):
    """A matrix that is read by slices of columns: an array, or one on disk too large for memory."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(n_stimuli, n_targets)."""

    def __getitem__(self, columns: tuple[slice, slice], /) -> Any:
        """Read a slice of columns of all rows."""


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
    return _has_driver() and device().type != "cpu"


@cache
def _has_driver() -> bool:
    """Whether this machine has a GPU's driver (CUDA or ROCm); torch finds no GPU without one."""
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


def take(values: Array, index: Ints, axis: int = -1) -> Array:
    """Select entries along an axis; `index` is a numpy array."""
    return namespace(values).take(values, like(index, values), axis=axis)


def single(values: Array) -> Array:
    """Return an array in float32, without a copy where it is float32 already."""
    xp = namespace(values)
    return xp.astype(values, xp.float32, copy=False)


def in_threads(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Map a function over items with as many threads as BLAS has, each of one BLAS thread.

    Small matrices gain more from a thread each than from many threads within each. The memory of
    that many calls is needed at once. BLAS's threads are set for the whole process, so two threads
    must not call this at the same time. Where BLAS has one thread, as in every worker of a study,
    or arrays are on a GPU, items follow each other.
    """
    blas = ThreadpoolController().select(user_api="blas")
    n_threads = max((library["num_threads"] for library in blas.info()), default=1)
    if n_threads == 1 or uses_tensors():
        return [function(item) for item in items]
    with blas.limit(limits=1), ThreadPoolExecutor(n_threads) as pool:
        return list(pool.map(function, items))


def _tensor(values: Array, where: torch.device) -> torch.Tensor:
    import torch

    if isinstance(values, np.ndarray):
        # Torch refuses arrays with negative strides, and warns of read-only ones.
        values = np.require(values, requirements=["C", "W"])
    return torch.as_tensor(values, device=where)
