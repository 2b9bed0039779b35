"""Vision models of torchvision, timm and transformers: loading, blocks and tokens.

A model is frozen and in eval mode, so that a stimulus's output depends on no other stimulus.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypedDict, get_args

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


class ModelSummary(TypedDict):
    """A model as plain JSON, without its weights."""

    library: str
    architecture: str
    weights: str
    seed: int
    preprocessing: dict[str, Any]
    blocks: list[str]
    n_class_tokens: int
    n_register_tokens: int
    n_patches: int
    n_classes: int
    constant_tensors: list[str]


def model_summary(model: VisionModel) -> ModelSummary:
    """Return the description of a model that its commit record keeps."""
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
