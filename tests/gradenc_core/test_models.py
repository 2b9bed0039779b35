import numpy as np
import pytest
import torch
from PIL import Image

from gradenc_core.models import load_model, preprocess, resolve_layers, weights_digest


def test_untrained_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = load_model("torchvision", "resnet18", "untrained", 0)
    assert torch.equal(torch.rand(3), expected)
    again = load_model("torchvision", "resnet18", "untrained", 0)
    other = load_model("torchvision", "resnet18", "untrained", 1)
    assert weights_digest(first.module) == weights_digest(again.module)
    assert weights_digest(first.module) != weights_digest(other.module)


def test_one_changed_weight_changes_the_digest() -> None:
    model = load_model("torchvision", "resnet18", "untrained", 0)
    before = weights_digest(model.module)
    with torch.no_grad():
        model.module.fc.bias[7] += 1e-6
    assert weights_digest(model.module) != before


def test_layer_scale_of_untrained_models_is_one() -> None:
    model = load_model("timm", "vit_small_patch16_dinov3", "untrained", 0, image_size=32)
    gammas = [p for name, p in model.module.named_parameters() if "gamma" in name]
    assert gammas
    assert all((gamma == 1).all() for gamma in gammas)


def test_blocks_and_depths_of_a_resnet() -> None:
    model = load_model("torchvision", "resnet18", "untrained", 0, image_size=64)
    layers = resolve_layers(model, "blocks")
    assert [layer.name for layer in layers] == [
        f"layer{i}.{j}" for i in (1, 2, 3, 4) for j in (0, 1)
    ]
    assert [layer.depth for layer in layers] == pytest.approx(np.arange(1, 9) / 8)
    assert resolve_layers(model, ["layer?.1", "layer1.0"])[0].name == "layer1.0"


@pytest.mark.parametrize(
    ("library", "architecture", "n_blocks"),
    [
        ("torchvision", "vit_b_16", 12),
        ("torchvision", "convnext_tiny", 18),
        ("timm", "vit_small_patch16_dinov3", 12),
        ("timm", "resnet50", 16),
        ("timm", "convnext_tiny", 18),
    ],
)
def test_blocks_of_other_families(library: str, architecture: str, n_blocks: int) -> None:
    with torch.device("meta"):
        model = load_model(library, architecture, "untrained", 0)
    assert len(model.blocks) == n_blocks


def test_unknown_names_are_refused_with_a_suggestion() -> None:
    with pytest.raises(ValueError, match="did you mean resnet18"):
        load_model("torchvision", "resnet_18", "untrained", 0)
    model = load_model("torchvision", "resnet18", "untrained", 0)
    with pytest.raises(ValueError, match=r"did you mean layer4\.1"):
        resolve_layers(model, ["layer4.l"])


def test_preprocessing_is_resize_crop_and_normalise() -> None:
    model = load_model("torchvision", "resnet18", "untrained", 0, image_size=64)
    image = Image.new("RGB", (100, 80), (255, 0, 127))
    pixels = preprocess(model, image)
    assert pixels.shape == (3, 64, 64)
    expected = (np.array([1.0, 0.0, 127 / 255]) - model.mean) / model.std
    assert pixels.mean(dim=(1, 2)).numpy() == pytest.approx(expected, abs=1e-5)
