"""Vision models of torchvision and timm: loading, preprocessing, blocks, layers and depths."""

import fnmatch
import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from difflib import get_close_matches
from typing import Any, Literal, NamedTuple

import torch
from PIL import Image
from torch import nn
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as transforms

from gradenc_core.library import Library, Preprocessing, build

Weights = Literal["pretrained", "untrained"]

_BLOCK_CLASS = re.compile(
    r"Block|Bottleneck|Residual|DepthwiseSeparable|Inception(?!Aux)|Fire|M[Bb]Conv"
)
_NEVER_BLOCKS = (nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.Dropout, nn.Identity)


class Layer(NamedTuple):
    """A module whose output is read, and its depth: blocks begun by then / number of blocks."""

    name: str
    depth: float


class Call(NamedTuple):
    """What one forward pass did with a module: order of begin and end, output shape, calls.

    `shape` is None where the output is not a single tensor; its first entry, the batch, is 1.
    """

    begin: int
    end: int
    shape: tuple[int, ...] | None
    n_calls: int


@dataclass(frozen=True)
class VisionModel:
    """A network in eval mode whose parameters need no gradient, and what was read off it.

    Attributes
    ----------
    blocks : tuple of str
        Names of the residual or transformer blocks in the order of execution.
    calls : mapping of str to Call
        One forward pass of one image, by module name, in the order in which modules end.
    n_class_tokens, n_register_tokens : int
        Tokens before the patches: class (and distillation) tokens first, then registers.
    n_patches : int
        Number of patch tokens; 0 where the last block's output is no token sequence.
    channels_last : bool
        Whether feature maps are (n, height, width, channel).
    n_classes : int
        Outputs of the classification head; 0 without one.
    """

    library: str
    architecture: str
    weights: str
    seed: int
    module: nn.Module = field(repr=False)
    preprocessing: Preprocessing
    blocks: tuple[str, ...]
    calls: Mapping[str, Call] = field(repr=False)
    n_class_tokens: int
    n_register_tokens: int
    n_patches: int
    channels_last: bool
    n_classes: int

    @property
    def image_size(self) -> int:
        """Side of the network's input, pixels."""
        return self.preprocessing.image_size

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean per channel that preprocessing subtracts, in [0, 1]."""
        return self.preprocessing.mean

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation per channel that preprocessing divides by."""
        return self.preprocessing.std

    @property
    def n_prefix_tokens(self) -> int:
        """Number of tokens before the patches."""
        return self.n_class_tokens + self.n_register_tokens


def load_model(
    library: Library,
    architecture: str,
    weights: Weights,
    seed: int,
    image_size: int | None = None,
) -> VisionModel:
    """Load a classification model of torchvision or any model of timm.

    Parameters
    ----------
    weights : {"pretrained", "untrained"}
        `untrained` is the published initialisation drawn with `seed`, with every LayerScale gamma
        set to 1 (docs/methods.md); the global random state is left alone.
    image_size : int, optional
        Side of the input in pixels, instead of the one that the weights were trained with.

    Raises
    ------
    ValueError
        Unknown library or architecture, or a size that the architecture cannot take.
    FileNotFoundError
        Pretrained weights that are neither here nor reachable.
    """
    if weights not in ("pretrained", "untrained"):
        raise ValueError(f"weights is {weights!r}: use 'pretrained' or 'untrained'")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module, preprocessing = build(library, architecture, weights == "pretrained", image_size)
    return from_module(
        module,
        preprocessing,
        library=library,
        architecture=architecture,
        weights=weights,
        seed=seed,
    )


def from_module(
    module: nn.Module,
    preprocessing: Preprocessing,
    *,
    library: str = "custom",
    architecture: str = "custom",
    weights: str = "custom",
    seed: int = 0,
) -> VisionModel:
    """Describe a network of one's own, (n, 3, size, size) -> (n, n_classes); freezes it in place.

    In-place activations are switched off, since they would overwrite captured outputs.
    """
    module.eval().requires_grad_(False)
    for part in module.modules():
        if getattr(part, "inplace", False):
            part.inplace = False  # type: ignore[assignment]
    calls, output = _trace(module, preprocessing.image_size)
    blocks = _find_blocks(module, calls)
    last = calls[blocks[-1]].shape if blocks else None
    n_class_tokens, n_register_tokens = _prefix_tokens(module)
    n_classes = output.shape[1] if isinstance(output, torch.Tensor) and output.ndim == 2 else 0
    return VisionModel(
        library=library,
        architecture=architecture,
        weights=weights,
        seed=seed,
        module=module,
        preprocessing=preprocessing,
        blocks=blocks,
        calls=calls,
        n_class_tokens=n_class_tokens,
        n_register_tokens=n_register_tokens,
        n_patches=_count_patches(module, last, n_class_tokens + n_register_tokens),
        channels_last=any(_is_channels_last(calls[name].shape) for name in blocks),
        n_classes=0 if getattr(module, "num_classes", None) == 0 else n_classes,
    )


def model_summary(model: VisionModel) -> dict[str, Any]:
    """Return everything about the model that plain JSON can record (no weights)."""
    return {
        "library": model.library,
        "architecture": model.architecture,
        "weights": model.weights,
        "seed": model.seed,
        "preprocessing": asdict(model.preprocessing),
        "blocks": list(model.blocks),
        "n_class_tokens": model.n_class_tokens,
        "n_register_tokens": model.n_register_tokens,
        "n_patches": model.n_patches,
        "n_classes": model.n_classes,
    }


def weights_digest(module: nn.Module) -> str:
    """Return sha256 over sorted name, dtype, shape and bytes of all parameters and buffers."""
    digest = hashlib.sha256()
    tensors = dict(module.named_parameters()) | dict(module.named_buffers())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def preprocess(model: VisionModel, image: Image.Image) -> torch.Tensor:
    """Return the network's input for an image, (3, image_size, image_size) float32."""
    steps = model.preprocessing
    size = [steps.resize_size, steps.resize_size] if steps.squash else [steps.resize_size]
    resized = transforms.resize(image.convert("RGB"), size, InterpolationMode(steps.interpolation))
    cropped = transforms.center_crop(resized, [steps.image_size, steps.image_size])
    return transforms.normalize(transforms.to_tensor(cropped), steps.mean, steps.std)


def resolve_layers(model: VisionModel, patterns: str | Sequence[str]) -> tuple[Layer, ...]:
    """Return the layers that `patterns` name, in the order of execution, each once.

    The depth of a module is the number of blocks begun when its output is ready, over the number of
    blocks: i/N for block i and what is inside it, 0 for a stem, 1 for what follows the last block.

    Parameters
    ----------
    patterns : "blocks" or sequence of str
        Names of modules, globs over them (`layer?.0`), or "blocks".

    Raises
    ------
    ValueError
        A pattern matches no module, or a module runs never, repeatedly or returns no single tensor.
    """
    requested = [patterns] if isinstance(patterns, str) else patterns
    names = {name for pattern in requested for name in _matches(model, pattern)}
    for name in names:
        output_shape(model, name)
    ordered = sorted(names, key=lambda name: model.calls[name].end)
    return tuple(Layer(name, _depth(model, name)) for name in ordered)


def output_shape(model: VisionModel, name: str) -> tuple[int, ...]:
    """Return the shape of a layer's output for one image, or say why it cannot be a layer."""
    call = model.calls.get(name)
    if call is None:
        _matches(model, name)  # refuses an unknown name
        reason = "does not run in a forward pass"
    elif call.n_calls > 1:
        reason = f"runs {call.n_calls} times in a forward pass"
    elif call.shape is None:
        reason = "does not return a single tensor"
    else:
        return call.shape
    raise ValueError(
        f"layer {name!r} of {model.architecture} {reason}; name the module around it or another one"
    )


def _matches(model: VisionModel, pattern: str) -> list[str]:
    if pattern == "blocks":
        return list(require_blocks(model))
    names = [name for name, _ in model.module.named_modules() if name]
    if pattern in names:
        return [pattern]
    matches = [name for name in fnmatch.filter(names, pattern) if name in model.calls]
    if not matches:
        close = get_close_matches(pattern, ["blocks", *names], n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(close)}?" if close else "use 'blocks' or a module's name"
        raise ValueError(f"{model.architecture} has no layer {pattern!r}; {hint}")
    return matches


def require_blocks(model: VisionModel) -> tuple[str, ...]:
    """Return the names of the model's blocks, or say that it has none."""
    if not model.blocks:
        raise ValueError(
            f"no repeated blocks were found in {model.architecture}; name its layers instead of "
            "'blocks'"
        )
    return model.blocks


def _depth(model: VisionModel, name: str) -> float:
    blocks = require_blocks(model)
    end = model.calls[name].end
    return sum(model.calls[block].begin < end for block in blocks) / len(blocks)


def _trace(module: nn.Module, image_size: int) -> tuple[dict[str, Call], Any]:
    """Run one grey image and record the order and output shape of every module."""
    begins: dict[str, int] = {}
    calls: dict[str, Call] = {}
    clock = iter(range(2**62))

    def before(name: str) -> Any:
        # A hook that returns a value replaces the module's input.
        def record(*_: Any) -> None:
            begins.setdefault(name, next(clock))

        return record

    def after(name: str) -> Any:
        def record(_module: nn.Module, _inputs: Any, output: Any) -> None:
            shape = tuple(output.shape) if isinstance(output, torch.Tensor) else None
            n_calls = calls[name].n_calls + 1 if name in calls else 1
            calls[name] = Call(begins[name], next(clock), shape, n_calls)

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


def _find_blocks(module: nn.Module, calls: Mapping[str, Call]) -> tuple[str, ...]:
    """Return the outermost modules that are blocks by class name, else the most repeated class."""
    parts = dict(module.named_modules())
    usable = [
        name
        for name, call in sorted(calls.items(), key=lambda item: item[1].end)
        if call.n_calls == 1 and call.shape is not None
    ]
    named = {n for n in usable if _BLOCK_CLASS.search(type(parts[n]).__name__) and _owns(parts[n])}
    outermost = tuple(name for name in usable if name in named and not named & set(_above(name)))
    if len(outermost) > 1:
        return outermost
    repeated = [name for name in usable if not isinstance(parts[name], _NEVER_BLOCKS)]
    counts = Counter(type(parts[name]) for name in repeated)
    if not counts or counts.most_common(1)[0][1] < 2:
        return ()
    most_common = counts.most_common(1)[0][0]
    return tuple(name for name in repeated if type(parts[name]) is most_common)


def _owns(part: nn.Module) -> bool:
    return next(part.parameters(), None) is not None


def _above(name: str) -> Iterator[str]:
    while "." in name:
        name = name.rpartition(".")[0]
        yield name


def _is_channels_last(shape: tuple[int, ...] | None) -> bool:
    return shape is not None and len(shape) == 4 and shape[1] == shape[2] != shape[3]


def _prefix_tokens(module: nn.Module) -> tuple[int, int]:
    """Return the number of class (and distillation) tokens and of register tokens."""
    registers = getattr(module, "reg_token", None)
    n_registers = registers.shape[1] if isinstance(registers, torch.Tensor) else 0
    n_class = 1 if hasattr(module, "class_token") else 0
    return int(
        getattr(module, "num_prefix_tokens", n_class + n_registers)
    ) - n_registers, n_registers


def _count_patches(module: nn.Module, last: tuple[int, ...] | None, n_prefix: int) -> int:
    if last is None or len(last) != 3:
        return 0
    n_patches = getattr(getattr(module, "patch_embed", None), "num_patches", None)
    return int(n_patches or last[1] - n_prefix)
