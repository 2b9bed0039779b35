"""Networks of transformers: every family small from its real class, and the published sizes."""

import json
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
import transformers as hf
from PIL import Image
from safetensors.torch import load_file, save_file

from gradenc_core.models.huggingface import PUBLISHED, _check_steps, _steps
from gradenc_core.models.layers import resolve_layers
from gradenc_core.models.library import FAMILIES, build, weights_cache
from gradenc_core.models.model import load_model
from gradenc_core.models.tokens import layer_layout
from gradenc_core.models.weights import weights_digest
from gradenc_core.signals.extractor import ExtractionOptions, SignalExtractor

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
}
VIT = SIZES | {"image_size": 32, "patch_size": 8}
TEXT = SIZES | {"vocab_size": 40, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
BOTH = {"vision_config": VIT, "text_config": TEXT}
MAPS = {"hidden_sizes": [8, 16], "depths": [2, 2]}
SQUARE = {"size": {"height": 32, "width": 32}}
SHORTEST = {"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 32}}

RAW = {"projection": 4, "scale": "raw", "micro_batch": 2}

SMALL = {
    "DINOv3 ViT": (
        lambda: hf.DINOv3ViTModel(hf.DINOv3ViTConfig(**VIT, num_register_tokens=4)),
        lambda: hf.DINOv3ViTImageProcessor(**SQUARE),
    ),
    "DINOv3 ConvNeXt": (
        lambda: hf.DINOv3ConvNextModel(hf.DINOv3ConvNextConfig(**MAPS)),
        lambda: hf.DINOv3ViTImageProcessor(**SQUARE),
    ),
    "supervised ViT-L/16": (
        lambda: hf.ViTForImageClassification(hf.ViTConfig(**VIT, num_labels=5)),
        lambda: hf.ViTImageProcessorPil(**SQUARE),
    ),
    "ResNet-50": (
        lambda: hf.ResNetForImageClassification(
            hf.ResNetConfig(**MAPS, embedding_size=8, num_labels=5)
        ),
        lambda: hf.ConvNextImageProcessorPil(size={"shortest_edge": 32}, crop_pct=0.875),
    ),
    "ConvNeXt-L": (
        lambda: hf.ConvNextForImageClassification(
            hf.ConvNextConfig(**MAPS, num_stages=2, num_labels=5)
        ),
        lambda: hf.ConvNextImageProcessorPil(size={"shortest_edge": 32}, crop_pct=0.875),
    ),
    "MAE": (
        lambda: hf.ViTMAEForPreTraining(
            hf.ViTMAEConfig(**VIT, decoder_hidden_size=16, decoder_num_hidden_layers=1)
        ),
        lambda: hf.ViTImageProcessorPil(**SQUARE),
    ),
    "CLIP": (
        lambda: hf.CLIPModel(hf.CLIPConfig(**BOTH)),
        lambda: hf.CLIPImageProcessorPil(**SHORTEST),
    ),
    "SigLIP 2": (
        lambda: hf.SiglipModel(hf.SiglipConfig(**BOTH)),
        lambda: hf.SiglipImageProcessorPil(**SQUARE, resample=2),
    ),
    "OWL-ViT": (
        lambda: hf.OwlViTForObjectDetection(hf.OwlViTConfig(**BOTH)),
        lambda: hf.OwlViTImageProcessorPil(**SQUARE),
    ),
    "DINOv2 with registers": (
        lambda: hf.Dinov2WithRegistersModel(
            hf.Dinov2WithRegistersConfig(**VIT | {"image_size": 64})
        ),
        lambda: hf.BitImageProcessorPil(**SHORTEST),
    ),
}
TOKENS = {
    "DINOv3 ViT": (1, 4, 16),
    "supervised ViT-L/16": (1, 0, 16),
    "MAE": (1, 0, 16),
    "CLIP": (1, 0, 16),
    "SigLIP 2": (0, 0, 16),
    "OWL-ViT": (1, 0, 16),
    "DINOv2 with registers": (1, 4, 16),
}
"""Class, register and patch tokens of the small transformers."""


CONTROLS = [("untrained", 5), ("untrained", 6), ("shuffled", 5), ("pretrained", 0)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders that `save_pretrained` wrote, by family, and the networks that they hold."""
    folder = tmp_path_factory.mktemp("hub")
    networks = {}
    for family, (network, processor) in SMALL.items():
        torch.manual_seed(1)
        networks[family] = network()
        with torch.no_grad():
            for parameter in networks[family].parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
        networks[family].save_pretrained(folder / family)
        processor().save_pretrained(folder / family)
    return folder, networks


@pytest.fixture
def load(folders):
    def load(family, weights="pretrained", seed=0, size=None):
        return load_model("transformers", str(folders[0] / family), weights, seed, size)

    return load


def images(n):
    return torch.randn(n, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_the_small_networks_are_those_of_the_table():
    assert list(SMALL) == list(FAMILIES)
    for models in FAMILIES.values():
        assert any(library == "transformers" for library, _ in models)


@pytest.mark.parametrize("family", SMALL)
def test_pretrained_weights_are_those_that_were_saved(family, folders, load):
    model, saved = load(family), folders[1][family].state_dict()
    loaded = model.module.state_dict()
    for name, tensor in loaded.items():
        ends = [k for k in saved if k.endswith(f".{name}") and "text" not in k]
        assert torch.equal(tensor, saved[name if name in saved else ends[0]]), name


@pytest.mark.parametrize("family", SMALL)
def test_blocks_tokens_and_gradients(family, load):
    model = load(family)
    assert len(model.blocks) == (2 if family in TOKENS else 4)
    depths = [depth for _, depth in resolve_layers(model, "blocks")]
    np.testing.assert_allclose(depths, np.arange(1, len(depths) + 1) / len(depths))
    counts = (model.n_class_tokens, model.n_register_tokens, model.n_patches)
    assert counts == TOKENS.get(family, (0, 0, 0))
    for tokens in ("cls", "registers", "patches", "mean", "all"):
        if not {"cls": counts[0], "registers": counts[1]}.get(tokens, 1):
            with pytest.raises(ValueError, match=f"tokens is '{tokens}', but .* has none; use 'me"):
                layer_layout(model, model.blocks[0], tokens)
            continue
        sources = ["forward", "gradient:energy"]
        extract = SignalExtractor(model, sources, ExtractionOptions(tokens=tokens, **RAW))
        both, first = extract(images(2)), extract(images(1))
        for source, features in both.items():
            assert features.shape == (len(model.blocks), 2, 4)
            np.testing.assert_allclose(features[:, :1], first[source], rtol=1e-4, atol=1e-6)
        reached = slice(-1) if tokens in ("cls", "registers") else slice(None)  # patches are read
        assert np.abs(both["gradient:energy"][reached]).sum(2).all()


@pytest.mark.parametrize("family", SMALL)
def test_controls_are_seeded_and_open_every_layer_scale(family, load):
    names = ("lambda1", "gamma", "layer_scale_parameter")
    untrained = load(family, "untrained", 5)
    scales = [p for n, p in untrained.module.named_parameters() if n.endswith(names)]
    assert len(scales) == {"DINOv3 ViT": 4, "DINOv2 with registers": 4, "DINOv3 ConvNeXt": 4}.get(
        family, 4 if family == "ConvNeXt-L" else 0
    )
    assert all(bool((scale == 1).all()) for scale in scales)
    digests = [weights_digest(load(family, *control).module) for control in CONTROLS]
    assert digests[0] == weights_digest(untrained.module)
    assert len(set(digests)) == 4


@pytest.mark.parametrize("name", ["Beit", "Data2VecVision"])
def test_layer_scales_outside_the_table_are_opened(name, tmp_path):
    config = getattr(hf, f"{name}Config")(**VIT)
    getattr(hf, f"{name}Model")(config).save_pretrained(tmp_path)
    hf.ViTImageProcessorPil(**SQUARE).save_pretrained(tmp_path)
    module = load_model("transformers", str(tmp_path), "untrained", 0).module
    scales = [p for n, p in module.named_parameters() if n.endswith(("lambda_1", "lambda_2"))]
    assert len(scales) == 4
    assert all(bool((scale == 1).all()) for scale in scales)


@pytest.mark.parametrize("family", [f for f in SMALL if "DINOv3" not in f])
def test_preprocessing_is_that_of_the_image_processor(family, load):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).resize((100, 80), Image.Resampling.BICUBIC)
    expected = SMALL[family][1]()(image, return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(load(family).preprocessing.apply(image), expected, rtol=0, atol=2e-6)


@pytest.fixture
def with_processor(folders, tmp_path):
    """Load a small vision transformer on the device meta with another image processor."""

    def load(processor):
        config = folders[0] / "supervised ViT-L/16" / "config.json"
        (tmp_path / "config.json").write_bytes(config.read_bytes())
        processor.save_pretrained(tmp_path)
        with torch.device("meta"):
            return load_model("transformers", str(tmp_path), "untrained", 0)

    return load


@pytest.mark.parametrize(
    ("processor", "differs"),
    [
        (lambda: hf.ViTImageProcessor(**SQUARE, do_resize=False), r"shape \(3, 480, 640\) inst"),
        (lambda: hf.ViTImageProcessor(**SQUARE, do_rescale=False), r"by \d+\.\d\d on average"),
        (lambda: hf.ViTImageProcessor(**SQUARE, rescale_factor=1 / 127.5), r"by 0\.9"),
        (lambda: hf.ViTImageProcessor(**SQUARE, do_normalize=False), r"by 0\.5"),
        (lambda: hf.MobileViTImageProcessor(), r"by 0\.6"),
        (lambda: hf.LevitImageProcessor(), r"by 0\.5"),
        (lambda: hf.EfficientNetImageProcessor(**SQUARE), r"by 0\.4"),
    ],
)
def test_other_preprocessing_is_refused(processor, differs, with_processor):
    with pytest.raises(ValueError, match=rf"ImageProcessor of .* another input \({differs}.*; see"):
        with_processor(processor())


def test_a_processor_without_steps_is_refused(with_processor):
    with pytest.raises(ValueError, match=r"the GLPNImageProcessor of .* has no size and no im"):
        with_processor(hf.GLPNImageProcessor())


def test_a_processor_outside_the_table_that_does_the_same_is_accepted(with_processor):
    steps = with_processor(hf.DeiTImageProcessor()).preprocessing
    assert (steps.image_size, steps.resize_size, steps.squash) == (224, 256, True)


@pytest.mark.parametrize("family", ["supervised ViT-L/16", "ResNet-50", "ConvNeXt-L"])
def test_a_head_gives_logits(family, load):
    model = load(family)
    assert model.n_classes == 5
    source = "gradient:classification"
    extract = SignalExtractor(model, [source], ExtractionOptions(**RAW))
    assert np.abs(extract(images(2))[source]).sum(2)[:-1].all()


def test_a_masked_autoencoder_sees_every_patch_in_order(load):
    model = load("MAE")
    embeddings = model.module.embeddings
    inside = []
    hook = model.module.layers[0].register_forward_pre_hook(lambda _, x: inside.append(x[0]))
    with torch.no_grad():
        model.module(images(2))
        expected = embeddings.patch_embeddings(images(2)) + embeddings.position_embeddings[:, 1:]
    hook.remove()
    torch.testing.assert_close(inside[0][:, 1:], expected)


def test_fixed_position_embeddings_are_not_shuffled(folders, load):
    shuffled = load("MAE", "shuffled").module.embeddings
    trained = load("MAE").module.embeddings
    assert torch.equal(shuffled.position_embeddings, trained.position_embeddings)
    assert not torch.equal(shuffled.cls_token, trained.cls_token)


def test_image_sizes_of_learned_positions(load):
    assert load("CLIP", "untrained", 0, 64).n_patches == 64
    assert load("DINOv2 with registers", size=64).n_patches == 64
    assert load("DINOv3 ViT", size=64).n_patches == 64
    with pytest.raises(
        ValueError, match=r"image_size is 64, but the pretrained \S+CLIP takes 32 o"
    ):
        load("CLIP", size=64)


def test_weights_that_leave_a_part_random_are_refused(folders, tmp_path):
    for file in (folders[0] / "CLIP").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    state = load_file(tmp_path / "model.safetensors")
    del state["vision_model.post_layernorm.bias"]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lack 1 tensors of CLIPVisionModel, such as post_layern"):
        load_model("transformers", str(tmp_path), "pretrained", 0)


def test_a_relative_folder_is_refused(folders, monkeypatch):
    monkeypatch.chdir(folders[0])
    with pytest.raises(ValueError, match="architecture is the folder CLIP; give its absolute path"):
        load_model("transformers", "CLIP", "pretrained", 0)


def test_an_attention_that_returns_a_tuple_is_a_layer(load):
    model = load("DINOv3 ViT")
    layer = "model.layer.0.attention"
    sources = ["forward", "gradient:energy"]
    extract = SignalExtractor(model, sources, ExtractionOptions([layer], tokens="all", **RAW))
    fused = extract(images(2))
    with torch.no_grad():
        seen = []
        hook = model.module.get_submodule(layer).register_forward_hook(lambda *a: seen.append(a[2]))
        model.module(images(2))
        hook.remove()
    pooled = extract.pooled(images(2))
    torch.testing.assert_close(pooled["forward"][0], seen[0][0].flatten(1), rtol=1e-5, atol=1e-6)
    assert pooled["gradient:energy"][0].norm(dim=1).min() > 0
    model.module.set_attn_implementation("eager")
    for source, features in extract(images(2)).items():
        np.testing.assert_allclose(features, fused[source], rtol=1e-3, atol=1e-5)


def test_a_network_of_text_is_refused(folders, tmp_path):
    for file in (folders[0] / "CLIP").glob("*.json"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": ["BertModel"]}))
    with pytest.raises(
        ValueError, match="architecture is a BertModel of transformers, of which no"
    ):
        load_model("transformers", str(tmp_path), "untrained", 0)


def test_what_is_nowhere_says_what_to_download(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"run `hf download facebook/vit-mae-base` \(some"):
        load_model("transformers", "facebook/vit-mae-base", "pretrained", 0)
    with pytest.raises(FileNotFoundError, match=r"reachable; did you mean facebook/vit-mae-base\?"):
        load_model("transformers", "facebook/vit-mea-base", "untrained", 0)
    cache = weights_cache("transformers", "facebook/vit-mae-base")
    assert cache == tmp_path / "models--facebook--vit-mae-base"
    assert weights_cache("transformers", str(tmp_path)) == tmp_path


TIMM = {
    "facebook/dinov3-vits16-pretrain-lvd1689m": "vit_small_patch16_dinov3",
    "facebook/dinov3-vitb16-pretrain-lvd1689m": "vit_base_patch16_dinov3",
    "facebook/dinov3-vitl16-pretrain-lvd1689m": "vit_large_patch16_dinov3",
    "facebook/dinov3-vith16plus-pretrain-lvd1689m": "vit_huge_plus_patch16_dinov3",
    "facebook/dinov3-convnext-tiny-pretrain-lvd1689m": "convnext_tiny",
    "facebook/dinov3-convnext-small-pretrain-lvd1689m": "convnext_small",
    "facebook/dinov3-convnext-base-pretrain-lvd1689m": "convnext_base",
    "facebook/dinov3-convnext-large-pretrain-lvd1689m": "convnext_large",
    "google/vit-large-patch16-224": "vit_large_patch16_224",
    "microsoft/resnet-50": "resnet50",
    "facebook/convnext-large-224": "convnext_large",
    "facebook/vit-mae-base": "vit_base_patch16_224",
    "facebook/vit-mae-large": "vit_large_patch16_224",
    "facebook/vit-mae-huge": "vit_huge_patch14_224",
    "openai/clip-vit-base-patch32": "vit_base_patch32_clip_224",
    "openai/clip-vit-base-patch16": "vit_base_patch16_clip_224",
    "openai/clip-vit-large-patch14": "vit_large_patch14_clip_224",
    "google/siglip2-base-patch16-224": "vit_base_patch16_siglip_224",
    "google/siglip2-large-patch16-256": "vit_large_patch16_siglip_256",
    "google/siglip2-so400m-patch14-224": "vit_so400m_patch14_siglip_224",
    "google/owlvit-base-patch32": "vit_base_patch32_clip_224",
    "google/owlvit-base-patch16": "vit_base_patch16_clip_224",
    "google/owlvit-large-patch14": "vit_large_patch14_clip_224",
    "facebook/dinov2-with-registers-small": "vit_small_patch14_reg4_dinov2",
    "facebook/dinov2-with-registers-base": "vit_base_patch14_reg4_dinov2",
    "facebook/dinov2-with-registers-large": "vit_large_patch14_reg4_dinov2",
}
"""The same network in timm, which holds the published sizes independently."""


def n_weights(module):
    """Count the entries of matrices and kernels but those of heads, tokens and positions."""
    return sum(
        parameter.numel()
        for name, parameter in module.named_parameters()
        if parameter.ndim >= 2
        and not any(part in name for part in ("token", "pos", "classifier", "probe"))
    )


@pytest.mark.parametrize("architecture", PUBLISHED)
def test_published_sizes_are_those_of_timm(architecture):
    with torch.device("meta"):
        module, _ = build("transformers", architecture, False, None)
        twin = timm.create_model(TIMM[architecture], num_classes=0)
    assert n_weights(module) == sum(
        n_weights(part) for name, part in twin.named_children()
    ) - _latents(twin)


def _latents(twin):
    pool = getattr(twin, "attn_pool", None)
    return pool.latent.numel() if pool is not None else 0


def test_published_preprocessing_is_that_of_the_processors():
    imagenet = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    processors = {
        "facebook/dinov3-vits16-pretrain-lvd1689m": hf.DINOv3ViTImageProcessor(),
        "google/vit-large-patch16-224": hf.ViTImageProcessor(),
        "microsoft/resnet-50": hf.ConvNextImageProcessor(
            size={"shortest_edge": 224}, crop_pct=0.875, **imagenet
        ),
        "facebook/vit-mae-base": hf.ViTImageProcessor(**imagenet),
        "openai/clip-vit-base-patch32": hf.CLIPImageProcessor(),
        "google/siglip2-base-patch16-224": hf.SiglipImageProcessor(resample=2),
        "google/owlvit-base-patch32": hf.OwlViTImageProcessor(),
        "facebook/dinov2-with-registers-small": hf.BitImageProcessor(
            size={"shortest_edge": 256}, **imagenet
        ),
    }
    for name, processor in processors.items():
        assert PUBLISHED[name].preprocessing == _steps(name, processor), name
        _check_steps(name, processor, PUBLISHED[name].preprocessing)


def test_the_table_of_families_names_what_the_libraries_have():
    for library, architecture in (model for models in FAMILIES.values() for model in models):
        if library == "timm":
            assert timm.get_pretrained_cfg(architecture).has_weights, architecture
        elif library == "torchvision":
            assert torchvision.models.get_model_weights(architecture).DEFAULT
        else:
            assert architecture in PUBLISHED


BLOCKS = dict(zip(FAMILIES, (12, 18, 24, 16, 36, 12, 12, 12, 12, 12), strict=True))
"""Of the first network of each family in each library."""


@pytest.mark.parametrize("family", FAMILIES)
def test_families_are_alike_in_every_library(family):
    firsts = {library: architecture for library, architecture in reversed(FAMILIES[family])}
    for library, architecture in firsts.items():
        with torch.device("meta"):
            model = load_model(library, architecture, "untrained", 0)
        assert len(model.blocks) == BLOCKS[family], architecture
        n_class, n_registers, n_patches = TOKENS.get(family, (0, 0, 0))
        assert (model.n_class_tokens, model.n_register_tokens) == (n_class, n_registers)
        assert bool(model.n_patches) == bool(n_patches)


def test_the_docs_list_every_network_of_the_table():
    documented = (Path(__file__).parents[3] / "docs" / "models.md").read_text()
    template = files("hpc.study").joinpath("template.yaml").read_text()
    for family, models in FAMILIES.items():
        (row,) = [line for line in documented.splitlines() if line.startswith(f"| {family} |")]
        assert all(f"`{architecture}`" in row for _, architecture in models)
        assert f"#   {family} " in template
