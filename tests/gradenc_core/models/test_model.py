import hashlib

import huggingface_hub.constants
import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from torch import nn
from transformers import ViTConfig, ViTForImageClassification

from gradenc_core.models.layers import resolve_layers
from gradenc_core.models.model import from_module, load_model, model_summary
from gradenc_core.models.preprocessing import Preprocessing
from gradenc_core.models.weights import weights_digest
from gradenc_core.signals.passes import Passes
from gradenc_core.signals.readout import Context
from gradenc_core.signals.stimulus import Stimuli

STEPS = Preprocessing(8, 8, False, "bilinear", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


@pytest.fixture
def photograph():
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
    return small.resize((400, 300), Image.Resampling.BICUBIC)


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
