from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from gradenc_core.models import VisionModel, load_model
from gradenc_core.objectives import supported_objectives
from gradenc_core.signals import SignalExtractor, classify_signals

OBJECTIVES = ["gradient:classification", "gradient:energy", "gradient:random.3"]


@pytest.fixture(scope="module")
def resnet() -> VisionModel:
    return load_model("torchvision", "resnet18", "untrained", 0, image_size=64)


@pytest.fixture(scope="module")
def vit() -> VisionModel:
    return load_model("timm", "test_vit", "untrained", 0, image_size=64)


def images(n: int, size: int = 64, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 3, size, size, generator=generator)


def extractor(model: VisionModel, sources: list[str], **options: object) -> SignalExtractor:
    settings: dict = {
        "layers": list(model.blocks),
        "sources": sources,
        "tokens": "mean",
        "projection": 24,
        "seed": 0,
        "scale": "raw",
        "micro_batch": 4,
    }
    return SignalExtractor(model, **(settings | options))


def loss_of(source: str, model: VisionModel, batch: torch.Tensor) -> torch.Tensor:
    """Compute the summed loss from the definitions, apart from the code under test."""
    kept = {}
    block = dict(model.module.named_modules())[model.blocks[-1]]
    handle = block.register_forward_hook(lambda _m, _i, out: kept.update(last=out))
    logits = model.module(batch)
    handle.remove()
    pooled = kept["last"].mean(dim=(2, 3))
    if source == "gradient:energy":
        return (pooled**2).sum() / 2
    assert source == "gradient:classification"
    chosen = logits.argmax(dim=1)
    return -torch.log_softmax(logits, dim=1)[torch.arange(len(batch)), chosen].sum()


@pytest.mark.parametrize("source", ["gradient:energy", "gradient:classification"])
@pytest.mark.parametrize("layer", ["layer1.1", "layer3.0", "layer4.1"])
def test_gradients_equal_finite_differences(source: str, layer: str) -> None:
    model = load_model("torchvision", "resnet18", "untrained", 1, image_size=32)
    model.module.double()
    batch = images(2, 32).double()
    pooled = extractor(model, [source], layers=[layer]).pooled(batch)[source][0]
    # A shift of one channel at every position moves the loss by the channel's mean gradient x area.
    module = dict(model.module.named_modules())[layer]
    channels, area = pooled.shape[1], 1
    differences = []
    for channel in (0, channels // 2, channels - 1):
        values = []
        for step in (1e-5, -1e-5):

            def shift(
                _m: nn.Module, _i: object, out: torch.Tensor, step: float = step
            ) -> torch.Tensor:
                nonlocal area
                area = out.shape[2] * out.shape[3]
                moved = out.clone()
                moved[0, channel] += step  # noqa: B023
                return moved

            handle = module.register_forward_hook(shift)
            values.append(loss_of(source, model, batch))
            handle.remove()
        difference = (values[0] - values[1]) / 2e-5 / area
        differences.append((difference.item(), pooled[0, channel].item()))
    for numeric, captured in differences:
        assert captured == pytest.approx(numeric, rel=1e-5, abs=1e-10)


@pytest.mark.parametrize("name", ["resnet", "vit"])
def test_features_are_the_same_bytes_for_any_sharding(
    name: str, request: pytest.FixtureRequest
) -> None:
    model = request.getfixturevalue(name)
    batch = images(13)
    extract = extractor(model, ["forward", *OBJECTIVES], scale="unit")
    whole = extract(batch)
    rng = np.random.default_rng(0)
    for _ in range(4):
        cuts = [0, *sorted(rng.choice(np.arange(1, 13), 3, replace=False).tolist()), 13]
        parts = [extract(batch[a:b]) for a, b in pairwise(cuts)]
        for source, features in whole.items():
            joined = np.concatenate([part[source] for part in parts], axis=1)
            assert joined.tobytes() == features.tobytes(), (source, cuts)


@pytest.mark.parametrize("name", ["resnet", "vit"])
def test_a_batch_equals_single_stimuli(name: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(name)
    batch = images(5)
    together = extractor(model, ["forward", *OBJECTIVES], micro_batch=5)(batch)
    alone = extractor(model, ["forward", *OBJECTIVES], micro_batch=1)(batch)
    for source, features in together.items():
        scale = np.abs(alone[source]).max(axis=(1, 2), keepdims=True)
        assert (np.abs(features - alone[source]) <= 1e-5 * scale).all()


def test_no_parameter_gets_a_gradient(resnet: VisionModel) -> None:
    extractor(resnet, OBJECTIVES)(images(2))
    assert all(p.grad is None and not p.requires_grad for p in resnet.module.parameters())


def test_forward_does_not_depend_on_the_objectives(resnet: VisionModel) -> None:
    batch = images(3)
    alone = extractor(resnet, ["forward"])(batch)["forward"]
    beside = extractor(resnet, ["forward", *OBJECTIVES])(batch)["forward"]
    assert alone.tobytes() == beside.tobytes()


def test_unit_scale_keeps_direction_and_log_norm(resnet: VisionModel) -> None:
    batch = images(4)
    pooled = extractor(resnet, ["gradient:energy"]).pooled(batch)["gradient:energy"]
    unit = extractor(resnet, ["gradient:energy"], scale="unit")(batch)["gradient:energy"]
    only = extractor(resnet, ["gradient:energy"], scale="norm_only")(batch)["gradient:energy"]
    raw = extractor(resnet, ["gradient:energy"])(batch)["gradient:energy"]
    for layer, gradient in enumerate(pooled):
        norm = gradient.double().norm(dim=1).numpy()
        assert unit[layer, :, -1] == pytest.approx(np.log(norm), abs=1e-5)
        difference = unit[layer, :, :-1] * norm[:, None] - raw[layer]
        assert np.abs(difference).max() < 1e-5 * np.abs(raw[layer]).max()
    assert (only[..., 0] == unit[..., -1]).all()


def test_classes_of_gradients(resnet: VisionModel) -> None:
    sources = ["forward", *OBJECTIVES]
    classes = classify_signals(extractor(resnet, sources), images(8))
    assert classes["gradient:energy"][-1] == "identical_to_forward"
    assert classes["gradient:random.3"][-1] == "constant"
    assert set(classes["gradient:classification"]) == {"ok"}
    assert set(classes["gradient:energy"][:-1]) == {"ok"}


def test_a_layer_that_no_loss_reaches_is_classed_zero(vit: VisionModel) -> None:
    # The head reads the class token, which the last block's patches no longer influence.
    sources = ["forward", "gradient:classification"]
    classes = classify_signals(extractor(vit, sources), images(8))
    assert classes["gradient:classification"][-1] == "zero"


def test_captured_outputs_are_safe_from_inplace_activations() -> None:
    model = load_model("torchvision", "vgg11", "untrained", 0, image_size=32)
    batch = images(2, 32)
    # features.0 is a convolution whose output torchvision's ReLU(inplace=True) would overwrite.
    captured = extractor(model, ["forward", "gradient:energy"], layers=["features.0"]).pooled(batch)
    expected = model.module.features[0](batch).mean(dim=(2, 3))
    assert torch.equal(captured["forward"][0], expected)


def test_a_model_without_a_head_offers_no_classification() -> None:
    names = supported_objectives(load_model("timm", "test_vit", "untrained", 0))
    assert names == ("classification", "energy", "random")
    with pytest.raises(ValueError, match="not one of"):
        extractor(load_model("timm", "test_vit", "untrained", 0), ["gradient:dino"])


@pytest.mark.parametrize("tokens", ["cls", "registers", "patches", "mean"])
def test_tokens_of_a_transformer_with_registers(tokens: str) -> None:
    model = load_model("timm", "vit_small_patch16_dinov3", "untrained", 0, image_size=32)
    assert (model.n_class_tokens, model.n_register_tokens, model.n_patches) == (1, 4, 4)
    batch = images(2, 32)
    kept = {}
    module = dict(model.module.named_modules())[model.blocks[3]]
    handle = module.register_forward_hook(lambda _m, _i, out: kept.update(out=out))
    with torch.no_grad():
        model.module(batch)
    handle.remove()
    out = kept["out"]
    expected = {
        "cls": out[:, 0],
        "registers": out[:, 1:5].mean(dim=1),
        "patches": out[:, 5:].flatten(1),
        "mean": out[:, 5:].mean(dim=1),
    }[tokens]
    captured = extractor(
        model, ["forward"], layers=[model.blocks[3]], tokens=tokens, micro_batch=2
    ).pooled(batch)["forward"][0]
    assert torch.equal(captured, expected)


def test_tokens_that_a_conv_net_lacks_are_refused(resnet: VisionModel) -> None:
    with pytest.raises(ValueError, match="has none; use 'mean' or 'patches'"):
        extractor(resnet, ["forward"], tokens="cls")
