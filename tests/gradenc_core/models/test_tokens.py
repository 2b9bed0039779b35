import pytest
import torch

from gradenc_core.models.layers import resolve_layers
from gradenc_core.models.model import load_model
from gradenc_core.models.tokens import TokenLayout, layer_layout, pool

RANDOM = torch.Generator().manual_seed(0)


@pytest.fixture(scope="module")
def registers():
    return load_model("timm", "vit_small_patch14_reg4_dinov2", "untrained", 0, 28)


@pytest.fixture(scope="module")
def conv():
    return load_model("torchvision", "resnet18", "untrained", 0, 64)


@pytest.fixture(scope="module")
def swin():
    return load_model("torchvision", "swin_t", "untrained", 0, 64)


def test_class_register_and_patch_tokens_are_kept_apart(registers):
    layout = layer_layout(registers, "blocks.3", "mean")
    output = torch.randn(2, 1 + 4 + 4, 384, generator=RANDOM)
    assert torch.equal(pool(output, layout, "cls"), output[:, 0])
    torch.testing.assert_close(pool(output, layout, "registers"), output[:, 1:5].mean(1))
    torch.testing.assert_close(pool(output, layout, "mean"), output[:, 5:].mean(1))
    assert torch.equal(pool(output, layout, "patches"), output[:, 5:].reshape(2, -1))
    assert torch.equal(pool(output, layout, "all"), output.reshape(2, -1))


def test_a_layer_before_the_prefix_tokens_has_patches_only(registers):
    layout = layer_layout(registers, "patch_embed", "mean")
    assert (layout.n_class, layout.n_registers) == (0, 0)
    with pytest.raises(ValueError, match=r"'cls', but layer 'patch_embed'.*has none"):
        layer_layout(registers, "patch_embed", "cls")


@pytest.mark.parametrize("tokens", ["cls", "registers"])
def test_maps_have_no_tokens_but_positions(conv, tokens):
    with pytest.raises(ValueError, match=f"tokens is '{tokens}'.*resnet18 has none; use 'mean'"):
        layer_layout(conv, "layer1.0", tokens)


def test_maps_are_averaged_over_positions(conv):
    layout = layer_layout(conv, "layer2.0", "mean")
    output = torch.randn(3, *layout.shape, generator=RANDOM)
    torch.testing.assert_close(pool(output, layout, "mean"), output.mean((2, 3)))
    flattened = pool(output, layout, "patches")
    assert torch.equal(flattened[:, :128], output[:, :, 0, 0])
    assert torch.equal(pool(output, layout, "all"), flattened)


def test_channels_last_maps_are_found(swin):
    for name, _ in resolve_layers(swin, "blocks"):
        layout = layer_layout(swin, name, "mean")
        output = torch.randn(2, *layout.shape, generator=RANDOM)
        assert layout.kind == "map_last"
        torch.testing.assert_close(pool(output, layout, "mean"), output.mean((1, 2)))


def test_an_ambiguous_cube_follows_the_model(conv):
    deep = load_model("torchvision", "resnet18", "untrained", 0, 128)
    assert deep.calls["bn1"].shape == (1, 64, 64, 64)
    assert layer_layout(deep, "bn1", "mean").kind == "map"


def test_vectors_are_their_own_mean(conv):
    layout = layer_layout(conv, "fc", "mean")
    output = torch.randn(3, 1000, generator=RANDOM)
    assert torch.equal(pool(output, layout, "mean"), output)


@pytest.mark.parametrize("tokens", ["mean", "patches", "all", "cls", "registers"])
@pytest.mark.parametrize("kind", ["map", "map_last", "tokens", "vector"])
def test_number_of_features_is_that_of_the_pooled_output(kind, tokens):
    shape = {"map": (5, 3, 2), "map_last": (3, 2, 5), "tokens": (9, 5), "vector": (5,)}[kind]
    prefix = (1, 2) if kind == "tokens" else (0, 0)
    if tokens in ("cls", "registers") and kind != "tokens":
        return
    layout = TokenLayout(kind, *prefix, shape)
    assert pool(torch.zeros(4, *shape), layout, tokens).shape == (4, layout.n_features(tokens))


def test_unknown_tokens_are_refused(conv):
    with pytest.raises(ValueError, match="tokens is 'CLS': use one of cls, registers"):
        layer_layout(conv, "layer1.0", "CLS")


def test_a_sequence_of_unknown_tokens_is_refused():
    cait = load_model("timm", "cait_xxs24_224", "untrained", 0, 32)
    with pytest.raises(ValueError, match=r"neither a map, a vector, nor 4 patches"):
        layer_layout(cait, "blocks_token_only.1", "mean")
