"""One traced forward pass of a network: the order and output shapes of its modules, its blocks."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.weak import WeakTensorKeyDictionary

_BLOCK_CLASS = re.compile(
    r"Block|Bottleneck|Residual|DepthwiseSeparable|Inception(?!Aux)|Fire|M[Bb]Conv"
)
_TRANSFORMERS_BLOCK_CLASS = re.compile(r"(?<!Conv)Layer$")
_NEVER_BLOCKS = (nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.Dropout, nn.Identity)


class Call(NamedTuple):
    """A module in one forward pass: when it began and ended, its output shape, its calls.

    `ready` is the end of the first module that returned the same tensor: a container whose output
    is that of its last child is ready when the child is. `shape` is None where the output is
    neither a tensor nor a tuple that begins with one. Its first entry is 1 where that axis is the
    batch; other layers are refused (`models.output_shape`).
    """

    begin: int
    end: int
    ready: int
    shape: tuple[int, ...] | None
    n_calls: int


def first_tensor(output: Any) -> torch.Tensor | None:
    """Return a module's output, or the first entry of a tuple, where that is a tensor."""
    first = output[0] if isinstance(output, tuple) and output else output
    return first if isinstance(first, torch.Tensor) else None


def with_first(output: Any, tensor: torch.Tensor) -> Any:
    """Return a module's output with `tensor` in place of its `first_tensor`."""
    return (tensor, *output[1:]) if isinstance(output, tuple) else tensor


def trace(module: nn.Module, image_size: int) -> tuple[dict[str, Call], Any]:
    """Run one grey image and record the order and output shape of every module."""
    begins: dict[str, int] = {}
    calls: dict[str, Call] = {}
    clock = iter(range(2**62))
    returned: Any = WeakTensorKeyDictionary()

    def before(name: str) -> Any:
        # A hook that returns a value replaces the module's input.
        def record(*_: Any) -> None:
            begins.setdefault(name, next(clock))

        return record

    def after(name: str) -> Any:
        def record(_module: nn.Module, _inputs: Any, output: Any) -> None:
            tensor = first_tensor(output)
            shape = None if tensor is None else tuple(tensor.shape)
            n_calls = calls[name].n_calls + 1 if name in calls else 1
            end = next(clock)
            ready = end if tensor is None else returned.setdefault(tensor, end)
            calls[name] = Call(begins[name], end, ready, shape, n_calls)

        return record

    parts = [(name, part) for name, part in module.named_modules() if name]
    hooks = [part.register_forward_pre_hook(before(name)) for name, part in parts]
    hooks += [part.register_forward_hook(after(name)) for name, part in parts]
    first = next(module.parameters())
    try:
        with torch.no_grad():
            output = module(first.new_zeros(1, 3, image_size, image_size))
    finally:
        for hook in hooks:
            hook.remove()
    return calls, output


@contextmanager
def capture(module: nn.Module, names: Iterable[str]) -> Iterator[dict[str, torch.Tensor]]:
    """Collect the outputs of named modules in one forward pass.

    The network goes on with a copy, so that no later in-place operation reaches what was captured.
    The first captured output becomes a leaf of the graph: nothing before it is kept for backward.
    """
    outputs: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, Any, Any], Any]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> Any:
            tensor = first_tensor(output)
            assert tensor is not None  # resolve_layers refuses such a layer
            if torch.is_grad_enabled() and not tensor.requires_grad:
                tensor = tensor.detach().requires_grad_()
            outputs[name] = tensor
            return with_first(output, tensor.clone())

        return hook

    hooks = [module.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    try:
        yield outputs
    finally:
        for handle in hooks:
            handle.remove()


def find_blocks(module: nn.Module, calls: Mapping[str, Call]) -> tuple[str, ...]:
    """Return the outermost modules that are blocks by class name, else the most repeated class."""
    parts = dict(module.named_modules())
    usable = [
        name
        for name, call in sorted(calls.items(), key=lambda item: item[1].end)
        if call.n_calls == 1 and call.shape is not None
    ]
    named = {name for name in usable if _is_block(parts[name])}
    outermost = tuple(name for name in usable if name in named and not named & set(_above(name)))
    if len(outermost) > 1:
        return outermost
    repeated = [name for name in usable if not isinstance(parts[name], _NEVER_BLOCKS)]
    counts = Counter(type(parts[name]) for name in repeated)
    if not counts or counts.most_common(1)[0][1] < 2:
        return ()
    most_common = counts.most_common(1)[0][0]
    return tuple(name for name in repeated if type(parts[name]) is most_common)


def _is_block(part: nn.Module) -> bool:
    kind = type(part)
    of_transformers = kind.__module__.startswith("transformers.")
    named = _BLOCK_CLASS.search(kind.__name__) or (
        of_transformers and _TRANSFORMERS_BLOCK_CLASS.search(kind.__name__)
    )
    return bool(named) and next(part.parameters(), None) is not None


def _above(name: str) -> Iterator[str]:
    while "." in name:
        name = name.rpartition(".")[0]
        yield name
