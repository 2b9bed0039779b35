"""Networks as their libraries build them, with the preprocessing that belongs to the weights."""

import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

import huggingface_hub
import timm
import torch
import torchvision
from timm.data.config import resolve_model_data_config
from torch import nn

from gradenc_core.models.preprocessing import Preprocessing

Library = Literal["torchvision", "timm", "transformers"]

_LAYER_SCALE = re.compile(
    r"(^|\.)(gamma(_?\d|_xca)?|ls\d|lambda_?\d|layer_scale(_?\d)?(\.scale)?|layer_scale_parameter)$"
)


FAMILIES: dict[str, tuple[tuple[Library, str], ...]] = {
    "DINOv3 ViT": (
        ("timm", "vit_small_patch16_dinov3"),
        ("timm", "vit_base_patch16_dinov3"),
        ("timm", "vit_large_patch16_dinov3"),
        ("timm", "vit_huge_plus_patch16_dinov3"),
        ("transformers", "facebook/dinov3-vits16-pretrain-lvd1689m"),
        ("transformers", "facebook/dinov3-vitb16-pretrain-lvd1689m"),
        ("transformers", "facebook/dinov3-vitl16-pretrain-lvd1689m"),
        ("transformers", "facebook/dinov3-vith16plus-pretrain-lvd1689m"),
    ),
    "DINOv3 ConvNeXt": (
        ("timm", "convnext_tiny.dinov3_lvd1689m"),
        ("timm", "convnext_small.dinov3_lvd1689m"),
        ("timm", "convnext_base.dinov3_lvd1689m"),
        ("timm", "convnext_large.dinov3_lvd1689m"),
        ("transformers", "facebook/dinov3-convnext-tiny-pretrain-lvd1689m"),
        ("transformers", "facebook/dinov3-convnext-small-pretrain-lvd1689m"),
        ("transformers", "facebook/dinov3-convnext-base-pretrain-lvd1689m"),
        ("transformers", "facebook/dinov3-convnext-large-pretrain-lvd1689m"),
    ),
    "supervised ViT-L/16": (
        ("torchvision", "vit_l_16"),
        ("timm", "vit_large_patch16_224.augreg_in21k_ft_in1k"),
        ("transformers", "google/vit-large-patch16-224"),
    ),
    "ResNet-50": (
        ("torchvision", "resnet50"),
        ("timm", "resnet50.a1_in1k"),
        ("transformers", "microsoft/resnet-50"),
    ),
    "ConvNeXt-L": (
        ("torchvision", "convnext_large"),
        ("timm", "convnext_large.fb_in1k"),
        ("transformers", "facebook/convnext-large-224"),
    ),
    "MAE": (
        ("timm", "vit_base_patch16_224.mae"),
        ("timm", "vit_large_patch16_224.mae"),
        ("transformers", "facebook/vit-mae-base"),
        ("transformers", "facebook/vit-mae-large"),
        ("transformers", "facebook/vit-mae-huge"),
    ),
    "CLIP": (
        ("timm", "vit_base_patch32_clip_224.openai"),
        ("timm", "vit_large_patch14_clip_224.openai"),
        ("transformers", "openai/clip-vit-base-patch32"),
        ("transformers", "openai/clip-vit-base-patch16"),
        ("transformers", "openai/clip-vit-large-patch14"),
    ),
    "SigLIP 2": (
        ("timm", "vit_base_patch16_siglip_224.v2_webli"),
        ("timm", "vit_large_patch16_siglip_256.v2_webli"),
        ("transformers", "google/siglip2-base-patch16-224"),
        ("transformers", "google/siglip2-large-patch16-256"),
        ("transformers", "google/siglip2-so400m-patch14-224"),
    ),
    "OWL-ViT": (
        ("transformers", "google/owlvit-base-patch32"),
        ("transformers", "google/owlvit-base-patch16"),
        ("transformers", "google/owlvit-large-patch14"),
    ),
    "DINOv2 with registers": (
        ("timm", "vit_small_patch14_reg4_dinov2"),
        ("timm", "vit_base_patch14_reg4_dinov2"),
        ("timm", "vit_large_patch14_reg4_dinov2"),
        ("transformers", "facebook/dinov2-with-registers-small"),
        ("transformers", "facebook/dinov2-with-registers-base"),
        ("transformers", "facebook/dinov2-with-registers-large"),
    ),
}
"""Library and architecture of well-known networks, by family (docs/models.md)."""


def build(
    library: Library, architecture: str, pretrained: bool, image_size: int | None
) -> tuple[nn.Module, Preprocessing]:
    """Build a network; an untrained one has the published initialisation, LayerScale gammas of 1.

    Raises
    ------
    ValueError
        Unknown library or architecture, no pretrained weights, or a size that it cannot take.
    FileNotFoundError
        Pretrained weights that are neither here nor reachable.
    """
    builders = {
        "torchvision": _build_torchvision,
        "timm": _build_timm,
        "transformers": _build_transformers,
    }
    if library not in builders:
        raise ValueError(f"library is {library!r}: use one of {', '.join(builders)}")
    module, preprocessing = builders[library](architecture, pretrained, image_size)
    if not pretrained:
        _open_layer_scale(module)
    return module, preprocessing


def weights_cache(library: Library, architecture: str) -> Path:
    """Return where a network's pretrained weights are kept on this machine.

    A file below TORCH_HOME, or (transformers', and most of timm's) a folder below HF_HOME.
    """
    if library == "transformers":
        return folder if (folder := Path(architecture)).is_dir() else _hub_cache(architecture)
    if library == "torchvision":
        url = str(torchvision.models.get_model_weights(architecture).DEFAULT.url)
    else:
        published = timm.get_pretrained_cfg(architecture, allow_unregistered=False)
        assert published is not None
        if published.hf_hub_id:
            return _hub_cache(published.hf_hub_id)
        url = str(published.url)
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]


def _hub_cache(repository: str) -> Path:
    name = "--".join(("models", *repository.split("/")))
    return Path(huggingface_hub.constants.HF_HUB_CACHE) / name


def _open_layer_scale(module: nn.Module) -> None:
    """Set every LayerScale gamma to 1 (1e-5 or 1e-6 would make an untrained block the identity)."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if _LAYER_SCALE.search(name):
                parameter.fill_(1.0)


def _build_torchvision(
    architecture: str, pretrained: bool, image_size: int | None
) -> tuple[nn.Module, Preprocessing]:
    known = torchvision.models.list_models(module=torchvision.models)
    _check_known(architecture, known, "torchvision")
    weights = torchvision.models.get_model_weights(architecture).DEFAULT
    recipe = weights.transforms()
    native = Preprocessing(
        image_size=recipe.crop_size[0],
        resize_size=recipe.resize_size[0],
        squash=False,
        interpolation=recipe.interpolation.value,
        mean=tuple(recipe.mean),
        std=tuple(recipe.std),
    )
    steps = native.resized(image_size)
    options: dict[str, int] = {}
    if architecture.startswith("vit_") and steps != native:
        if pretrained:
            raise ValueError(
                f"image_size is {image_size}, but torchvision's pretrained {architecture} takes "
                f"{native.image_size} only; leave image_size out, or use the library timm"
            )
        options["image_size"] = steps.image_size
    try:
        module = torchvision.models.get_model(
            architecture, weights=weights if pretrained else None, **options
        )
    except OSError as error:
        target = weights_cache("torchvision", architecture)
        raise FileNotFoundError(
            f"the pretrained weights of torchvision's {architecture} could not be downloaded; "
            f"download {weights.url} and save it as {target}"
        ) from error
    return module, steps


def _build_timm(
    architecture: str, pretrained: bool, image_size: int | None
) -> tuple[nn.Module, Preprocessing]:
    _check_known(architecture.partition(".")[0], timm.list_models(), "timm")
    published = timm.get_pretrained_cfg(architecture)
    if pretrained and (published is None or not published.has_weights):
        raise ValueError(f"timm has no pretrained weights of {architecture}; use 'untrained'")
    try:
        module = _create_timm(architecture, pretrained, image_size)
    except OSError as error:
        repository = published.hf_hub_id if published else architecture
        raise FileNotFoundError(
            f"the pretrained weights of timm's {architecture} could not be downloaded; where there "
            f"is a network, run `hf download {repository}` and copy the Hugging Face cache "
            "(HF_HOME) here"
        ) from error
    config = resolve_model_data_config(module)
    _, height, size = config["input_size"]
    if height != size or config["crop_mode"] not in ("center", "squash"):
        raise ValueError(
            f"timm's {architecture} takes {height} x {size} images cropped by "
            f"{config['crop_mode']!r}; use a model of square images with a centre crop"
        )
    native = Preprocessing(
        image_size=size,
        resize_size=int(size / config["crop_pct"]),
        squash=config["crop_mode"] == "squash",
        interpolation=config["interpolation"],
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )
    return module, native.resized(image_size)


def _create_timm(architecture: str, pretrained: bool, image_size: int | None) -> nn.Module:
    """Build with a fixed input size where the architecture has one (transformers)."""
    if image_size is not None:
        try:
            return timm.create_model(architecture, pretrained=pretrained, img_size=image_size)
        except TypeError as error:
            if "img_size" not in str(error):
                raise
    return timm.create_model(architecture, pretrained=pretrained)


def _build_transformers(
    architecture: str, pretrained: bool, image_size: int | None
) -> tuple[nn.Module, Preprocessing]:
    from gradenc_core.models import (
        huggingface,  # a second of imports that most processes do not need
    )

    return huggingface.build(architecture, pretrained, image_size)


def _check_known(architecture: str, known: Sequence[str], library: str) -> None:
    if architecture not in known:
        close = get_close_matches(architecture, known, n=3)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        raise ValueError(f"{library} has no architecture {architecture!r}{hint}")
