from dataclasses import replace
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import timm
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gradenc_core.models.layers import layers_at, resolve_layers
from gradenc_core.models.model import from_module, load_model
from gradenc_core.models.preprocessing import Preprocessing

STEPS = Preprocessing(8, 8, False, "bilinear", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


class Odd(nn.Module):
    """Runs one module twice, one never, one that returns a tuple and one that returns a mapping."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(*(nn.Conv2d(3, 3, 1) for _ in range(4)))
        self.twice, self.never = nn.ReLU(), nn.ReLU()
        self.attention = nn.MultiheadAttention(3, 1, batch_first=True)
        self.mapping = Mapping()

    def forward(self, x):
        x = self.twice(self.twice(self.blocks(x))).flatten(2).mT
        return self.mapping(self.attention(x, x, x)[0])["x"].mean(1)


class Mapping(nn.Module):
    """Returns a mapping."""

    def forward(self, x):
        return {"x": x}


def test_layers_between_two_blocks_divide_the_step_between_them_evenly(resnet):
    names = ["fc", "layer1", "layer2.0.conv2", "layer2.0", "conv1"]
    layers = resolve_layers(resnet, names)
    assert [layer.name for layer in layers] == ["conv1", "layer1", *names[2:4], "fc"]
    expected = [
        1 / 9 / 8,  # then bn1, relu, maxpool, and in the first block conv1, bn1, conv2, bn2
        2 / 8,
        (2 + 3 / 7) / 8,  # conv1, bn1, conv2, bn2, downsample.0, .1, and the block
        3 / 8,
        9 / 8,
    ]
    np.testing.assert_allclose([layer.depth for layer in layers], expected)


def test_layers_of_one_depth_return_the_same_tensor():
    """The last features of MobileNetV2 follow its last block."""
    model = load_model("torchvision", "mobilenet_v2", "untrained", 0, 64)
    features = resolve_layers(model, [f"features.{i}" for i in range(19)])
    depths = [layer.depth for layer in features]
    assert len(model.blocks) == 17
    np.testing.assert_allclose(depths[1:18], np.arange(1, 18) / 17)
    assert 0 < depths[0] < depths[1]
    assert 1 < depths[18] < 1 + 1 / 17
    assert (np.diff(depths) > 0).all()
    (whole,) = resolve_layers(model, ["features"])
    assert whole.depth == depths[18]
    below = resolve_layers(model, ["features.17.*", "features.18.*", "features.18"])
    for one, other in pairwise(below):
        shared = model.calls[one.name].ready == model.calls[other.name].ready
        assert (one.depth < other.depth) != shared


def test_globs_and_repeats_are_merged(resnet):
    layers = resolve_layers(resnet, ["layer?.1", "layer4.1", "blocks", "layer1.1"])
    assert layers == resolve_layers(resnet, "blocks")
    assert [name for name, _ in resolve_layers(resnet, ["layer[12].0"])] == ["layer1.0", "layer2.0"]


@cache
def chain(n_blocks):
    """Return a network of that many blocks."""
    return from_module(nn.Sequential(*(nn.Conv2d(3, 3, 1) for _ in range(n_blocks))), STEPS)


@settings(deadline=None)
@given(st.integers(2, 40), st.integers(1, 40) | st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_depths_take_the_nearest_blocks_each_once_in_order(n_blocks, depths):
    layers = layers_at(chain(n_blocks), depths)
    found = np.array([depth for _, depth in layers])
    wanted = np.linspace(0, 1, depths) if isinstance(depths, int) else np.array(depths)
    every = np.arange(1, n_blocks + 1) / n_blocks
    assert list(layers) == sorted(set(layers), key=lambda layer: layer.depth)
    assert set(found) <= set(every)
    distance = np.abs(found[:, None] - wanted)
    np.testing.assert_allclose(distance.min(0), np.abs(every[:, None] - wanted).min(0), atol=1e-12)
    np.testing.assert_array_less(distance.min(1), 1 / n_blocks + 1e-12)


def test_twenty_two_depths_of_common_networks():
    assert len(layers_at(chain(12), 22)) == 12
    assert len(layers_at(chain(24), 22)) == 21
    assert layers_at(chain(32), 22)[0].depth == 1 / 32
    assert layers_at(chain(32), 22)[-1].depth == 1
    assert [name for name, _ in layers_at(chain(4), [0.125, 0.4])] == ["0", "1"]


@pytest.mark.parametrize("depths", [0, [], [1.1], [-0.1, 1], [float("nan")]])
def test_depths_outside_the_network_are_refused(depths):
    with pytest.raises(ValueError, match=r"give numbers in \[0, 1\], or how many"):
        layers_at(chain(4), depths)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("layer1.O", r"no layer 'layer1.O'; did you mean .*layer1.0"),
        ("block", r"did you mean blocks"),
        ("zzz*", r"use 'blocks' or a module's name"),
    ],
)
def test_unknown_layers_are_refused(resnet, pattern, message):
    with pytest.raises(ValueError, match=message):
        resolve_layers(resnet, [pattern])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("twice", "runs 2 times"),
        ("never", "does not run"),
        ("mapping", "returns neither a tensor nor a tuple that begins with one"),
    ],
)
def test_modules_that_cannot_be_layers_are_refused(name, message):
    model = from_module(Odd(), STEPS)
    assert model.blocks == tuple(f"blocks.{i}" for i in range(4))
    with pytest.raises(ValueError, match=message):
        resolve_layers(model, [name])


def test_layers_whose_first_axis_is_not_the_images_are_refused():
    swin = timm.models.SwinTransformer(
        img_size=32, window_size=4, embed_dim=8, depths=(2, 2), num_heads=(2, 2), num_classes=0
    )
    model = from_module(swin, replace(STEPS, image_size=32, resize_size=32))
    blocks = ["layers.0.blocks.0", "layers.0.blocks.1", "layers.1.blocks.0", "layers.1.blocks.1"]
    assert [name for name, _ in resolve_layers(model, "blocks")] == blocks
    with pytest.raises(
        ValueError,
        match=r"layer 'layers\.0\.blocks\.0\.attn' .* shape \(4, 16, 8\) for one .*; name the mod",
    ):
        resolve_layers(model, ["layers.0.blocks.0.attn"])


def test_the_first_tensor_of_a_tuple_is_a_layer():
    model = from_module(Odd(), STEPS)
    assert [name for name, _ in resolve_layers(model, ["attention"])] == ["attention"]
    assert model.calls["attention"].shape == (1, 64, 3)


def test_a_network_without_repeats_asks_for_layers():
    model = from_module(nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.Flatten()), STEPS)
    assert model.blocks == ()
    with pytest.raises(ValueError, match="name its layers"):
        resolve_layers(model, "blocks")
