import hashlib
from dataclasses import replace
from functools import cache
from itertools import pairwise

import huggingface_hub.constants
import numpy as np
import pytest
import timm
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn
from transformers import ViTConfig, ViTForImageClassification

from gradenc_core.models.model import (
    from_module,
    layers_at,
    load_model,
    model_summary,
    resolve_layers,
)
from gradenc_core.models.preprocessing import Preprocessing
from gradenc_core.models.weights import weights_digest
from gradenc_core.signals.passes import Passes
from gradenc_core.signals.readout import Context
from gradenc_core.signals.stimulus import Stimuli

STEPS = Preprocessing(8, 8, False, "bilinear", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


@pytest.fixture(scope="module")
def resnet():
    return load_model("torchvision", "resnet18", "untrained", 0, 64)


@pytest.fixture
def photograph():
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
    return small.resize((400, 300), Image.Resampling.BICUBIC)


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


def test_untrained_weights_depend_on_the_seed_alone():
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    digests = [
        weights_digest(load_model("timm", "test_vit", "untrained", seed).module)
        for seed in (0, 0, 1)
    ]
    assert digests[0] == digests[1] != digests[2]
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_model_is_frozen_in_eval_mode(resnet):
    assert not resnet.module.training
    assert not any(p.requires_grad for p in resnet.module.parameters())
    assert not any(getattr(part, "inplace", False) for part in resnet.module.modules())


@pytest.mark.parametrize(
    ("library", "architecture", "size", "n_blocks", "first", "last"),
    [
        ("torchvision", "resnet18", 32, 8, "layer1.0", "layer4.1"),
        ("torchvision", "resnet50", 32, 16, "layer1.0", "layer4.2"),
        ("torchvision", "convnext_tiny", 32, 18, "features.1.0", "features.7.2"),
        ("torchvision", "vit_b_16", 32, 12, "encoder.layers.encoder_layer_0", None),
        ("torchvision", "swin_t", 64, 12, "features.1.0", "features.7.1"),
        ("torchvision", "regnet_y_400mf", 32, 16, "trunk_output.block1.block1-0", None),
        ("torchvision", "densenet121", 32, 4, "features.denseblock1", "features.denseblock4"),
        ("torchvision", "efficientnet_b0", 32, 16, "features.1.0", "features.7.0"),
        ("torchvision", "googlenet", 32, 9, "inception3a", "inception5b"),
        ("torchvision", "squeezenet1_0", 64, 8, "features.3", "features.12"),
        ("torchvision", "alexnet", 64, 7, "features.1", "classifier.5"),
        ("timm", "test_vit", 32, 6, "blocks.0", "blocks.5"),
        ("timm", "test_convnext", 64, 9, "stages.0.blocks.0", "stages.3.blocks.1"),
        ("timm", "test_nfnet", 64, 4, "stages.0.0", "stages.3.0"),
        ("timm", "mixer_s32_224", 64, 8, "blocks.0", "blocks.7"),
    ],
)
@pytest.mark.filterwarnings("ignore:The default weight initialization")
def test_blocks_are_found_in_order(library, architecture, size, n_blocks, first, last):
    model = load_model(library, architecture, "untrained", 0, size)
    assert len(model.blocks) == n_blocks
    assert model.blocks[0] == first
    assert last in (None, model.blocks[-1])
    depths = [layer.depth for layer in resolve_layers(model, "blocks")]
    np.testing.assert_allclose(depths, np.arange(1, n_blocks + 1) / n_blocks)


@pytest.mark.parametrize(
    ("architecture", "size", "counts"),
    [
        ("test_vit", 32, (1, 0, 4)),
        ("vit_small_patch14_reg4_dinov2", 28, (1, 4, 4)),
        ("vit_small_patch16_dinov3", 32, (1, 4, 4)),
        ("deit_tiny_distilled_patch16_224", 32, (2, 0, 4)),
        ("test_resnet", 32, (0, 0, 0)),
    ],
)
def test_tokens_are_counted(architecture, size, counts):
    model = load_model("timm", architecture, "untrained", 0, size)
    assert (model.n_class_tokens, model.n_register_tokens, model.n_patches) == counts
    assert model.n_prefix_tokens == sum(counts[:2])


@pytest.mark.parametrize(
    ("library", "architecture", "ending", "n_gammas"),
    [
        ("timm", "vit_small_patch14_reg4_dinov2", ".gamma", 24),
        ("timm", "vit_small_patch16_dinov3", ".gamma_1", 12),
        ("timm", "convnext_atto", ".gamma", 12),
        ("torchvision", "convnext_tiny", ".layer_scale", 18),
        ("timm", "poolformer_s12", "layer_scale1.scale", 12),
        ("timm", "resmlp_12_224", ".ls1", 12),
        ("timm", "edgenext_xx_small", ".gamma_xca", 3),
    ],
)
def test_untrained_layer_scales_are_one(library, architecture, ending, n_gammas):
    size = 28 if "dinov2" in architecture else 32
    module = load_model(library, architecture, "untrained", 0, size).module
    gammas = [p for name, p in module.named_parameters() if name.endswith(ending)]
    assert len(gammas) == n_gammas
    assert all(bool((gamma == 1).all()) for gamma in gammas)


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


def test_what_hides_layers_from_hooks_is_refused():
    network = timm.create_model("test_vit", img_size=32)
    with pytest.raises(ValueError, match=r"the network is compiled.*before torch\.compile"):
        from_module(torch.compile(network), STEPS)
    network.set_grad_checkpointing()
    with pytest.raises(ValueError, match="the network has gradient checkpointing on"):
        from_module(network, STEPS)
    network.set_grad_checkpointing(False)
    network.blocks[1].compile()
    with pytest.raises(ValueError, match=r"blocks\.1 is compiled"):
        from_module(network, STEPS)


def test_norms_over_the_batch_are_refused():
    norm = nn.BatchNorm2d(3, track_running_stats=False)
    with pytest.raises(ValueError, match=r"^1 is a BatchNorm2d without running statistics.*=True"):
        from_module(nn.Sequential(nn.Conv2d(3, 3, 1), norm), STEPS)
    one_by_one = nn.InstanceNorm2d(3)
    assert from_module(nn.Sequential(nn.Conv2d(3, 3, 1), one_by_one), STEPS).calls


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


@pytest.mark.parametrize("architecture", ["resnet18", "swin_t", "alexnet"])
def test_preprocessing_is_that_of_torchvision(architecture, photograph):
    model = load_model("torchvision", architecture, "untrained", 0)
    recipe = torchvision.models.get_model_weights(architecture).DEFAULT.transforms()
    assert torch.equal(model.preprocessing.apply(photograph), recipe(photograph))


@pytest.mark.parametrize("architecture", ["test_vit", "vit_small_patch14_reg4_dinov2"])
def test_preprocessing_is_that_of_timm(architecture, photograph):
    model = load_model("timm", architecture, "untrained", 0)
    config = timm.data.resolve_model_data_config(model.module)
    recipe = timm.data.create_transform(**config, is_training=False)
    assert torch.equal(model.preprocessing.apply(photograph), recipe(photograph))


def test_image_size_scales_crop_and_resize_together(resnet, photograph):
    assert model_summary(resnet)["preprocessing"] == {
        "image_size": 64,
        "resize_size": 73,
        "squash": False,
        "interpolation": "bilinear",
        "mean": resnet.mean,
        "std": resnet.std,
    }
    assert resnet.preprocessing.apply(photograph).shape == (3, 64, 64)
    assert resnet.preprocessing.apply(photograph.convert("L")).shape == (3, 64, 64)


def test_digest_is_over_sorted_name_dtype_shape_and_bytes():
    module = nn.BatchNorm1d(2)
    expected = hashlib.sha256()
    for name in ("bias", "num_batches_tracked", "running_mean", "running_var", "weight"):
        array = getattr(module, name).detach().numpy()
        expected.update(f"{name}\0torch.{array.dtype}\0{array.shape}\0".encode())
        expected.update(array.tobytes())
    assert weights_digest(module) == expected.hexdigest()


def test_digest_sees_a_single_bit_of_a_buffer():
    module = nn.BatchNorm1d(2)
    before = weights_digest(module)
    module.running_mean[1] = torch.finfo(torch.float32).smallest_normal
    assert weights_digest(module) != before


def test_pretrained_weights_are_loaded_from_the_cache(tmp_path, monkeypatch):
    source = load_model("torchvision", "squeezenet1_0", "untrained", 3, 64).module
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    url = torchvision.models.get_model_weights("squeezenet1_0").DEFAULT.url
    (tmp_path / "checkpoints").mkdir()
    torch.save(source.state_dict(), tmp_path / "checkpoints" / url.rpartition("/")[2])
    model = load_model("torchvision", "squeezenet1_0", "pretrained", 0, 64)
    assert weights_digest(model.module) == weights_digest(source)


def test_unreachable_torchvision_weights_say_what_to_save_where(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(FileNotFoundError, match=r"download https\S+resnet18\S+ and save it as"):
        load_model("torchvision", "resnet18", "pretrained", 0)


def test_unreachable_timm_weights_say_what_to_download(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"hf download timm/test_resnet"):
        load_model("timm", "test_resnet", "pretrained", 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("torchvision", "resnet81", "untrained", 0), "did you mean resnet18"),
        (("timm", "test_vitt", "untrained", 0), "did you mean test_vit"),
        (("keras", "resnet18", "untrained", 0), "library is 'keras'"),
        (("timm", "test_vit", "random", 0), "weights is 'random'"),
        (("torchvision", "vit_b_16", "pretrained", 0, 64), "takes 224 only"),
        (("timm", "regnetx_002_evos", "untrained", 0), "no architecture"),
    ],
)
def test_what_cannot_be_loaded_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        load_model(*arguments)


@pytest.mark.parametrize(
    ("architecture", "n_classes"),
    [
        ("vit_base_patch32_clip_224.openai", 0),
        ("vit_base_patch32_clip_224.laion2b_ft_in1k", 1000),
        ("vit_tiny_patch16_224", 1000),
        ("vit_pe_core_tiny_patch16_384", 0),
    ],
)
def test_a_projection_into_the_space_of_texts_is_no_classifier(architecture, n_classes):
    with torch.device("meta"):
        assert load_model("timm", architecture, "untrained", 0).n_classes == n_classes


def test_a_network_of_ones_own_with_an_output_class_has_its_logits():
    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=32,
        num_labels=7,
    )
    plain = Preprocessing(32, 32, False, "bilinear", (0.5,) * 3, (0.5,) * 3)
    model = from_module(ViTForImageClassification(config), plain)
    assert model.n_classes == 7
    losses = Passes(model, model.blocks, ["gradient:classification"], Context(0)).losses(
        Stimuli(torch.zeros(2, 3, 32, 32))
    )
    assert losses["gradient:classification"].shape == (2,)
