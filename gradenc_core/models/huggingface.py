"""Networks as transformers builds them, and the preprocessing that goes with them.

transformers keeps the sizes of a published network beside its weights. The published sizes of the
networks in `PUBLISHED` stand here too, so that their untrained copies need no network.
"""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from torch import nn
from transformers import AutoConfig, AutoImageProcessor, ViTMAEModel
from transformers.utils import logging

from gradenc_core.models.preprocessing import Preprocessing

_Scale = tuple[tuple[float, ...], tuple[float, ...]]

IMAGENET: _Scale = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF: _Scale = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
CLIP: _Scale = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

MAX_DIFFERENCE = 0.02
"""Tolerated mean difference of preprocessed pixels: libraries round a resize differently, by about
one grey level."""

INTERPOLATIONS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
"""Name by Pillow's number, which image processors record."""

_NEEDED = ("size", "resample", "image_mean", "image_std")
"""Settings that an image processor must have for its steps to be known."""


_VISION_PART = {
    "CLIPModel": transformers.CLIPVisionModel,
    "SiglipModel": transformers.SiglipVisionModel,
    "OwlViTForObjectDetection": transformers.OwlViTVisionModel,
    "ViTMAEForPreTraining": ViTMAEModel,
}
"""The part that sees images, by the class that was published."""


Setting = int | float | str | list[int]
"""A value of a network's configuration."""


@dataclass(frozen=True)
class _Published:
    """The class of a published network, what its configuration sets, and its preprocessing."""

    architecture: str
    settings: Mapping[str, Setting]
    preprocessing: Preprocessing


def build(
    architecture: str, pretrained: bool, image_size: int | None
) -> tuple[nn.Module, Preprocessing]:
    """Build a network of transformers; for one that also reads text, the part that sees images.

    Parameters
    ----------
    architecture : str
        Name of a repository of the Hugging Face hub, or the absolute path of a folder that
        `save_pretrained` wrote.

    Raises
    ------
    ValueError
        A relative path, a size that the weights cannot take, weights that do not fill the network,
        or preprocessing that gives no square images.
    FileNotFoundError
        Weights or configuration that are neither here nor reachable.
    """
    if Path(architecture).is_dir() and not Path(architecture).is_absolute():
        raise ValueError(f"architecture is the folder {architecture}; give its absolute path")
    try:
        network, config, native = _described(architecture, pretrained)
        steps = native.resized(image_size)
        if _has_own_size(network) and steps.image_size != config.image_size:
            if pretrained:
                raise ValueError(
                    f"image_size is {steps.image_size}, but the pretrained {architecture} takes "
                    f"{config.image_size} only; leave image_size out, or use the library timm"
                )
            config.image_size = steps.image_size
        module = _load(network, architecture) if pretrained else network(config)
    except OSError as error:
        close = get_close_matches(architecture, PUBLISHED, n=1)
        hint = f"; did you mean {close[0]}?" if close and close != [architecture] else ""
        raise FileNotFoundError(
            f"{architecture} of transformers is neither here nor reachable{hint}; where there is a "
            f"network, run `hf download {architecture}` (some ask to accept a licence and `hf auth "
            "login` first) and copy the Hugging Face cache (HF_HOME) here"
        ) from error
    module.register_forward_hook(_only_logits)
    if isinstance(module, ViTMAEModel):
        _unmask(module)
    return module, steps


def _described(architecture: str, pretrained: bool) -> tuple[Any, Any, Preprocessing]:
    """Return the class of a network, its configuration and its preprocessing.

    With pretrained weights come the configuration and image processor beside them, from the cache,
    a folder or the hub; without, those in `PUBLISHED` do.
    """
    if architecture in PUBLISHED and not pretrained:
        published = PUBLISHED[architecture]
        network = _network(published.architecture)
        return network, network.config_class(**published.settings), published.preprocessing
    config: Any = AutoConfig.from_pretrained(architecture)
    network = _network((config.architectures or [type(config).__name__])[0])
    processor = AutoImageProcessor.from_pretrained(architecture)
    steps = _steps(architecture, processor)
    _check_steps(architecture, processor, steps)
    return network, getattr(config, "vision_config", config), steps


def _network(name: str) -> Any:
    """Return the class that sees images of a published class."""
    network: Any = _VISION_PART.get(name) or getattr(transformers, name, None)
    if network is None or network.main_input_name != "pixel_values":
        raise ValueError(
            f"architecture is a {name} of transformers, of which no part that takes images alone is"
            " known; use one of docs/models.md"
        )
    return network


def _load(network: Any, architecture: str) -> nn.Module:
    """Load pretrained weights as float32, refusing those that leave parts of a network random."""
    with _quiet():  # transformers lists the tensors of the part that reads text
        module, report = network.from_pretrained(
            architecture, dtype=torch.float32, output_loading_info=True
        )
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise ValueError(
            f"the pretrained weights of {architecture} lack {len(missing)} tensors of "
            f"{network.__name__}, such as {missing[0]}; load another architecture"
        )
    return module


@contextmanager
def _quiet() -> Iterator[None]:
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _unmask(module: ViTMAEModel) -> None:
    """Let the encoder of a masked autoencoder see every patch, in order.

    The published one drops three quarters of them, drawn anew in every pass, and shuffles the rest.
    """
    module.config.mask_ratio = 0.0
    module.embeddings.position_embeddings.requires_grad_(False)  # fixed, which loading forgets
    n_patches = module.embeddings.patch_embeddings.num_patches

    def in_order(
        _module: nn.Module, inputs: tuple[torch.Tensor], options: dict[str, object]
    ) -> tuple[tuple[torch.Tensor], dict[str, object]]:
        order = torch.arange(n_patches, dtype=torch.float32, device=inputs[0].device)
        return inputs, options | {"noise": order.expand(len(inputs[0]), n_patches)}

    module.register_forward_pre_hook(in_order, with_kwargs=True)


def _has_own_size(network: Any) -> bool:
    """Whether position embeddings are learned for one image size and not resized unasked."""
    return "interpolate_pos_encoding" in inspect.signature(network.forward).parameters


def _only_logits(_module: nn.Module, _inputs: Any, output: Any) -> Any:
    """Return the logits of a network with a head, and any other output as it is."""
    return getattr(output, "logits", output)


def _steps(architecture: str, processor: Any) -> Preprocessing:
    """Read the steps off an image processor."""
    lacks = [name for name in _NEEDED if getattr(processor, name, None) is None]
    if lacks:
        raise ValueError(
            f"the {type(processor).__name__} of {architecture} has no {' and no '.join(lacks)}; "
            "use a model whose images are resized and normalised"
        )
    size = processor.size
    side = size.get("shortest_edge") or size.get("height")
    squash = not size.get("shortest_edge")
    if hasattr(processor, "crop_pct"):  # ConvNextImageProcessor
        squash = side >= 384
        image_size, side = side, side if squash else int(side / (processor.crop_pct or 224 / 256))
    elif getattr(processor, "do_center_crop", False):
        image_size = processor.crop_size["height"]
    elif squash and size["height"] == size["width"]:
        image_size = side
    else:
        raise ValueError(
            f"the image processor of {architecture} gives no square images (size {dict(size)}); "
            "use a model of square images"
        )
    return Preprocessing(
        image_size=image_size,
        resize_size=side,
        squash=squash,
        interpolation=INTERPOLATIONS[int(processor.resample)],
        mean=tuple(processor.image_mean),
        std=tuple(processor.image_std),
    )


def _check_steps(architecture: str, processor: Any, steps: Preprocessing) -> None:
    """Refuse an image processor that does anything but the steps read off it."""
    image = _probe_image()
    with torch.device("cpu"):  # whatever device the network is built on
        theirs = torch.as_tensor(processor(image, return_tensors="pt")["pixel_values"][0])
        ours = steps.apply(image)
    if theirs.shape != ours.shape:
        differs = f"shape {tuple(theirs.shape)} instead of {tuple(ours.shape)}"
    elif (difference := float((theirs - ours).abs().mean())) > MAX_DIFFERENCE:
        differs = f"by {difference:.2f} on average"
    else:
        return
    raise ValueError(
        f"the {type(processor).__name__} of {architecture} gives another input ({differs}) than "
        "resize, centre crop, scale to [0, 1] and normalisation, which is all that gradenc does; "
        "see do_resize, do_rescale, rescale_factor, do_normalize and do_flip_channel_order in its "
        "preprocessor_config.json, or use a network of timm or torchvision"
    )


def _probe_image() -> Image.Image:
    """Return an image of smooth colours, in which every step shows, larger than most inputs."""
    pixels = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((640, 480), Image.Resampling.BICUBIC)


def _squashed(size: int, interpolation: str, scale: _Scale) -> Preprocessing:
    return Preprocessing(size, size, True, interpolation, *scale)


def _cropped(size: int, resize: int, scale: _Scale) -> Preprocessing:
    return Preprocessing(size, resize, False, "bicubic", *scale)


def _vit(width: int, depth: int, heads: int, **others: Setting) -> dict[str, Setting]:
    sizes = {"hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": heads}
    return {**sizes, "intermediate_size": 4 * width, **others}


def _dinov3_vit(width: int, depth: int, heads: int, **others: Setting) -> _Published:
    sizes = _vit(width, depth, heads, num_register_tokens=4, **others)
    return _Published("DINOv3ViTModel", sizes, _squashed(224, "bilinear", IMAGENET))


def _dinov3_convnext(widths: list[int], depths: list[int]) -> _Published:
    sizes = {"hidden_sizes": widths, "depths": depths}
    return _Published("DINOv3ConvNextModel", sizes, _squashed(224, "bilinear", IMAGENET))


def _dinov2(width: int, depth: int, heads: int) -> _Published:
    sizes = {"hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": heads}
    sizes |= {"patch_size": 14, "image_size": 518}
    return _Published("Dinov2WithRegistersModel", sizes, _cropped(224, 256, IMAGENET))


def _mae(width: int, depth: int, heads: int, patch_size: int = 16) -> _Published:
    sizes = _vit(width, depth, heads, patch_size=patch_size)
    return _Published("ViTMAEForPreTraining", sizes, _squashed(224, "bilinear", IMAGENET))


def _clip(width: int, depth: int, heads: int, patch_size: int) -> _Published:
    sizes = _vit(width, depth, heads, patch_size=patch_size)
    return _Published("CLIPModel", sizes, _cropped(224, 224, CLIP))


def _siglip2(size: int, width: int, depth: int, heads: int, **others: Setting) -> _Published:
    sizes = _vit(width, depth, heads, image_size=size, **others)
    return _Published("SiglipModel", sizes, _squashed(size, "bilinear", HALF))


def _owlvit(size: int, width: int, depth: int, heads: int, patch_size: int) -> _Published:
    sizes = _vit(width, depth, heads, image_size=size, patch_size=patch_size)
    return _Published("OwlViTForObjectDetection", sizes, _squashed(size, "bicubic", CLIP))


_GATED: dict[str, Setting] = {"use_gated_mlp": True, "hidden_act": "silu"}

PUBLISHED: Mapping[str, _Published] = {
    "facebook/dinov3-vits16-pretrain-lvd1689m": _dinov3_vit(384, 12, 6),
    "facebook/dinov3-vitb16-pretrain-lvd1689m": _dinov3_vit(768, 12, 12),
    "facebook/dinov3-vitl16-pretrain-lvd1689m": _dinov3_vit(1024, 24, 16),
    "facebook/dinov3-vith16plus-pretrain-lvd1689m": _dinov3_vit(1280, 32, 20, **_GATED),
    "facebook/dinov3-convnext-tiny-pretrain-lvd1689m": _dinov3_convnext(
        [96, 192, 384, 768], [3, 3, 9, 3]
    ),
    "facebook/dinov3-convnext-small-pretrain-lvd1689m": _dinov3_convnext(
        [96, 192, 384, 768], [3, 3, 27, 3]
    ),
    "facebook/dinov3-convnext-base-pretrain-lvd1689m": _dinov3_convnext(
        [128, 256, 512, 1024], [3, 3, 27, 3]
    ),
    "facebook/dinov3-convnext-large-pretrain-lvd1689m": _dinov3_convnext(
        [192, 384, 768, 1536], [3, 3, 27, 3]
    ),
    "google/vit-large-patch16-224": _Published(
        "ViTForImageClassification",
        _vit(1024, 24, 16, num_labels=1000),
        _squashed(224, "bilinear", HALF),
    ),
    "microsoft/resnet-50": _Published(
        "ResNetForImageClassification", {"num_labels": 1000}, _cropped(224, 256, IMAGENET)
    ),
    "facebook/convnext-large-224": _Published(
        "ConvNextForImageClassification",
        {
            "hidden_sizes": [192, 384, 768, 1536],
            "depths": [3, 3, 27, 3],
            "num_labels": 1000,
        },
        _cropped(224, 256, IMAGENET),
    ),
    "facebook/vit-mae-base": _mae(768, 12, 12),
    "facebook/vit-mae-large": _mae(1024, 24, 16),
    "facebook/vit-mae-huge": _mae(1280, 32, 16, patch_size=14),
    "openai/clip-vit-base-patch32": _clip(768, 12, 12, 32),
    "openai/clip-vit-base-patch16": _clip(768, 12, 12, 16),
    "openai/clip-vit-large-patch14": _clip(1024, 24, 16, 14),
    "google/siglip2-base-patch16-224": _siglip2(224, 768, 12, 12),
    "google/siglip2-large-patch16-256": _siglip2(256, 1024, 24, 16),
    "google/siglip2-so400m-patch14-224": _siglip2(
        224, 1152, 27, 16, patch_size=14, intermediate_size=4304
    ),
    "google/owlvit-base-patch32": _owlvit(768, 768, 12, 12, 32),
    "google/owlvit-base-patch16": _owlvit(768, 768, 12, 12, 16),
    "google/owlvit-large-patch14": _owlvit(840, 1024, 24, 16, 14),
    "facebook/dinov2-with-registers-small": _dinov2(384, 12, 6),
    "facebook/dinov2-with-registers-base": _dinov2(768, 12, 12),
    "facebook/dinov2-with-registers-large": _dinov2(1024, 24, 16),
}
"""Configuration and preprocessing of networks as their repositories publish them, by name."""
