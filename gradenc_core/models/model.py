"""Vision models of torchvision, timm and transformers: loading, blocks, layers and depths.

A model is frozen and in eval mode, so that a stimulus's output depends on no other stimulus.
"""

import fnmatch
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from timm.data.imagenet_info import infer_imagenet_subset
from torch import nn

from gradenc_core.models.library import Library, build
from gradenc_core.models.preprocessing import Preprocessing
from gradenc_core.models.tracing import Call, find_blocks, trace
from gradenc_core.models.weights import constant_tensors, load_checkpoint, shuffle

Weights = Literal["pretrained", "checkpoint", "untrained", "shuffled"]

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)

_CLASS_TOKENS = {"cls_token", "class_embedding", "distillation_token"}
"""Names that transformers gives to class tokens."""


class Layer(NamedTuple):
    """A module whose output is read, and its relative depth: i/N for block i of N."""

    name: str
    depth: float


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
    weights: Weights = "pretrained",
    seed: int = 0,
    image_size: int | None = None,
    checkpoint: str | Path | None = None,
) -> VisionModel:
    """Load a vision model of torchvision, timm or transformers, and find its blocks.

    Parameters
    ----------
    library : {"torchvision", "timm", "transformers"}
        Library that builds the network: any classification model of torchvision, any model of timm,
        any of transformers that takes images alone.
    architecture : str
        The library's own name, such as "resnet18" or "vit_small_patch16_dinov3".
    weights : {"pretrained", "checkpoint", "untrained", "shuffled"}
        `pretrained`: the library's, from its cache or the internet. `checkpoint`: those of a file.
        `untrained`: the published initialisation drawn with `seed`, with every LayerScale gamma set
        to 1 (docs/models.md). `shuffled`: those of the file if given, else the library's, permuted
        with `seed` within each tensor. The global random state is left alone.
    seed : int
        Seed of untrained and shuffled weights.
    image_size : int, optional
        Side of the input in pixels, instead of the one that the weights were trained with.
    checkpoint : str or Path, optional
        The file of weights, .safetensors, .pt or .pth.

    Returns
    -------
    VisionModel
        On the CPU, in eval mode, its parameters frozen.

    Raises
    ------
    ValueError
        Unknown library or architecture, a size that the architecture cannot take, or weights that
        do not exist or do not fit.
    FileNotFoundError
        Weights that are neither here nor reachable.

    Examples
    --------
    >>> model = load_model("torchvision", "resnet18", "untrained", image_size=64)
    >>> len(model.blocks), model.blocks[-1], model.image_size
    (8, 'layer4.1', 64)
    """
    checkpoint = None if checkpoint is None else Path(checkpoint)
    if weights not in get_args(Weights):
        raise ValueError(f"weights is {weights!r}: use one of {', '.join(get_args(Weights))}")
    if weights != "shuffled" and (checkpoint is not None) != (weights == "checkpoint"):
        raise ValueError(
            f"weights is {weights!r} and checkpoint is {checkpoint}: a checkpoint goes with "
            "'checkpoint', which needs one, or with 'shuffled'"
        )
    from_library = weights != "untrained" and checkpoint is None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module, preprocessing = build(library, architecture, from_library, image_size)
    if checkpoint is not None:
        load_checkpoint(module, checkpoint)
    if weights == "shuffled":
        shuffle(module, seed)
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

    Raises
    ------
    ValueError
        The network is compiled or checkpoints its activations, which hides its layers from hooks
        (unless it does so inside a forward, which is not seen); or it normalises by the batch.
    """
    _require_plain(module)
    module.eval().requires_grad_(False)
    for part in module.modules():
        if getattr(part, "inplace", False):
            part.inplace = False  # type: ignore[assignment]
    calls, output = trace(module, preprocessing.image_size)
    blocks = find_blocks(module, calls)
    shapes = [calls[name].shape or () for name in blocks]
    n_class_tokens, n_register_tokens = _prefix_tokens(module)
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
        n_patches=_count_patches(module, shapes, n_class_tokens + n_register_tokens),
        channels_last=any(len(s) == 4 and s[1] == s[2] != s[3] for s in shapes),
        n_classes=_n_classes(module, output),
    )


def _n_classes(module: nn.Module, output: Any) -> int:
    """Return the number of classes of a network's own classifier, 0 without one.

    A CLIP tower of timm ends in a projection into the space of texts, which is no classifier,
    unless it was fine-tuned to classes.
    """
    logits = output if isinstance(output, torch.Tensor) else getattr(output, "logits", None)
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2:
        return 0
    weights = getattr(module, "pretrained_cfg", None) or {}
    name = f"{weights.get('architecture', '')} {weights.get('tag', '')}"
    sees_text = "clip" in name or "_pe_" in name
    is_classifier = infer_imagenet_subset(module) is not None or "inat" in name
    if (sees_text and not is_classifier) or getattr(module, "num_classes", None) == 0:
        return 0
    return logits.shape[1]


def model_summary(model: VisionModel) -> dict[str, Any]:
    """Return a description of the model as plain JSON, without weights."""
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
        "constant_tensors": constant_tensors(model.module) if model.weights == "shuffled" else [],
    }


def layers_at(model: VisionModel, depths: int | Sequence[float]) -> tuple[Layer, ...]:
    """Return the blocks nearest to relative depths, in the order of execution, each once.

    Block i of N has depth i/N. A depth between two blocks takes the nearer one, the deeper where
    both are as near; depth 0, before the first block, takes the first.

    Parameters
    ----------
    depths : int or sequence of float
        Depths in [0, 1], or how many to space evenly from 0 to 1.

    Raises
    ------
    ValueError
        No depth, or one outside [0, 1].
    """
    requested = np.linspace(0, 1, depths) if isinstance(depths, int) else np.asarray(depths)
    if not (requested.size and (requested >= 0).all() and (requested <= 1).all()):
        raise ValueError(f"depths is {depths}: give numbers in [0, 1], or how many")
    blocks = require_blocks(model)
    numbers = np.floor(requested * len(blocks) + 0.5).astype(int).clip(min=1)
    return resolve_layers(model, [blocks[number - 1] for number in np.unique(numbers)])


def resolve_layers(model: VisionModel, patterns: str | Sequence[str]) -> tuple[Layer, ...]:
    """Return the layers that `patterns` name, in the order of execution, each once.

    Block i of N has depth i/N. Modules whose outputs come between those of two blocks divide the
    step between them evenly, in the order of their outputs: those of a stem and of the first block
    lie between 0 and 1/N, those after the last block between 1 and 1 + 1/N. Two layers have the
    same depth only where they return the same tensor, as a container and its last module do. A
    depth does not depend on which other layers are named.

    Parameters
    ----------
    patterns : "blocks" or sequence of str
        Names of modules, globs over them (`layer?.0`), or "blocks".

    Raises
    ------
    ValueError
        A pattern matches no module, or a module runs never, repeatedly, or returns no tensor whose
        first axis is the images.
    """
    requested = [patterns] if isinstance(patterns, str) else patterns
    names = {name for pattern in requested for name in _matches(model, pattern)}
    for name in names:
        output_shape(model, name)
    ordered = sorted(names, key=lambda name: model.calls[name].end)
    return tuple(Layer(name, _depth(model, name)) for name in ordered)


def output_shape(model: VisionModel, name: str) -> tuple[int, ...]:
    """Return the shape of a layer's output for one image, or refuse a module that is no layer."""
    call = model.calls.get(name)
    if call is None:
        _matches(model, name)  # refuses an unknown name
        reason = "does not run in a forward pass"
    elif call.n_calls > 1:
        reason = f"runs {call.n_calls} times in a forward pass"
    elif call.shape is None:
        reason = "returns neither a tensor nor a tuple that begins with one"
    elif call.shape[:1] != (1,):
        reason = (
            f"returns shape {call.shape} for one image, so that its first axis is not the images "
            "(such as windows folded into the batch, or tokens first)"
        )
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
    """Return the names of the model's blocks, refusing a model without any."""
    if not model.blocks:
        raise ValueError(
            f"no repeated blocks were found in {model.architecture}; name its layers instead of "
            "'blocks'"
        )
    return model.blocks


def _depth(model: VisionModel, name: str) -> float:
    blocks = require_blocks(model)
    ready = model.calls[name].ready
    ends = [-1, *(model.calls[block].ready for block in blocks), 2**62]
    n_before = bisect_left(ends, ready) - 1
    usable = {c.ready for c in model.calls.values() if c.n_calls == 1 and c.shape is not None}
    step = sorted(t for t in usable if ends[n_before] < t <= ends[n_before + 1])
    return (n_before + (step.index(ready) + 1) / len(step)) / len(blocks)


def _require_plain(module: nn.Module) -> None:
    """Refuse a network whose hooks would not see each layer's output once, image by image."""
    for name, part in module.named_modules():
        compiled = type(part).__name__ == "OptimizedModule" or part._compiled_call_impl is not None
        if compiled:
            raise ValueError(
                f"{name or 'the network'} is compiled, so that hooks do not see its layers; give "
                "the network as it was before torch.compile"
            )
        if getattr(part, "gradient_checkpointing", False) or getattr(
            part, "grad_checkpointing", False
        ):
            raise ValueError(
                f"{name or 'the network'} has gradient checkpointing on, so that its layers run "
                "again in the backward pass; switch it off"
            )
        if isinstance(part, _BATCH_NORMS) and part.running_mean is None:
            raise ValueError(
                f"{name or 'the network'} is a {type(part).__name__} without running statistics, "
                "so that the images of a batch change each other's features; give a network with "
                "track_running_stats=True"
            )


def _prefix_tokens(module: nn.Module) -> tuple[int, int]:
    """Return the number of class (and distillation) tokens and of register tokens."""
    config = getattr(module, "config", None)
    if config is not None:  # transformers
        names = {name.rpartition(".")[2] for name, _ in module.named_parameters()}
        return len(names & _CLASS_TOKENS), getattr(config, "num_register_tokens", 0)
    registers = getattr(module, "reg_token", None)
    n_registers = registers.shape[1] if isinstance(registers, torch.Tensor) else 0
    n_class = 1 if hasattr(module, "class_token") else 0
    return int(
        getattr(module, "num_prefix_tokens", n_class + n_registers)
    ) - n_registers, n_registers


def _count_patches(module: nn.Module, shapes: list[tuple[int, ...]], n_prefix: int) -> int:
    if not shapes or len(shapes[-1]) != 3:
        return 0
    n_patches = getattr(getattr(module, "patch_embed", None), "num_patches", None)
    return int(n_patches or shapes[-1][1] - n_prefix)
