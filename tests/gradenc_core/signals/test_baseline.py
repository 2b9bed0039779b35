"""The complete forward baseline: what it holds of every layer and of the readout."""

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from transformers import ViTConfig, ViTForImageClassification

from gradenc_core.models.model import VisionModel, from_module, load_model
from gradenc_core.models.preprocessing import Preprocessing
from gradenc_core.models.tokens import layer_layout, pool
from gradenc_core.signals.extractor import ExtractionOptions, SignalExtractor
from gradenc_core.signals.passes import Passes
from gradenc_core.signals.readout import Bank, Context
from gradenc_core.signals.scales import as_tensors, channel_scales
from gradenc_core.signals.stimulus import Stimuli

SIZE, N = 32, 7
STEPS = Preprocessing(SIZE, SIZE, False, "bilinear", (0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
LOSSES = ["gradient:classification", "gradient:energy"]


def registered() -> VisionModel:
    """Return a vision transformer with a class token, three registers and a head."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = VisionTransformer(
            SIZE, 8, num_classes=5, embed_dim=24, depth=2, num_heads=2, reg_tokens=3
        )
    return from_module(module, STEPS)


def transformers() -> VisionModel:
    """Return a vision transformer of another library, with a class token and a head."""
    config = ViTConfig(
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        image_size=SIZE,
        patch_size=8,
        num_labels=5,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = ViTForImageClassification(config)
    return from_module(module, STEPS)


def convolutional() -> VisionModel:
    """Return a network of maps."""
    return load_model("torchvision", "resnet18", "untrained", image_size=SIZE)


MODELS = {"timm": registered, "transformers": transformers, "torchvision": convolutional}
N_TOKENS = {"timm": 1 + 1 + 1, "transformers": 1 + 1, "torchvision": 1}
"""Class tokens, the mean of registers, the mean of patches."""


@pytest.fixture(params=MODELS)
def library(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def model(library: str) -> VisionModel:
    return MODELS[library]()


def images(n: int = N, size: int = SIZE) -> torch.Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(0))


def extracted(model: VisionModel, x: torch.Tensor, sources=("baseline",), **options):
    settings = {"projection": 8, "micro_batch": 4, "losses": LOSSES} | options
    return SignalExtractor(model, sources, ExtractionOptions(**settings))(x)


def test_every_layer_gives_all_its_tokens_and_its_log_norm(model, library) -> None:
    x, found = images(4), extracted(model, images(4))["baseline"]
    outputs = Passes(model, model.blocks, [], Context(0)).run(Stimuli(x)).signals["forward"]
    assert len(found) == len(model.blocks) + 1
    for name, output, columns in zip(model.blocks, outputs, found[:-1], strict=True):
        layout = layer_layout(model, name, "mean")
        n = layout.n_channels
        n_patterns = 4 if layout.n_patches > 1 else 0
        assert columns.shape == (4, n * (N_TOKENS[library] + n_patterns) + 1)
        tokens = ["cls"] * bool(layout.n_class) + ["registers"] * bool(layout.n_registers)
        for i, token in enumerate([*tokens, "mean"]):
            own = pool(output, layout, token).numpy()
            np.testing.assert_array_equal(columns[:, i * n : (i + 1) * n], own)
        norms = output.double().flatten(1).norm(dim=1).log()
        np.testing.assert_allclose(columns[:, -1], norms, rtol=1e-6)


def test_spatial_patterns_weigh_the_patches_alike_in_every_channel(model, library) -> None:
    x, name = images(4), model.blocks[0]
    columns = extracted(model, x, layers=[name])["baseline"][0]
    output = Passes(model, [name], [], Context(0)).run(Stimuli(x)).signals["forward"][0]
    layout = layer_layout(model, name, "mean")
    n, start = layout.n_channels, layout.n_channels * N_TOKENS[library]
    patches = pool(output, layout, "patches").reshape(4, -1, n).double().numpy()
    for pattern in range(4):
        first = start + pattern * n
        seen = columns[:, first : first + n].T.reshape(-1)
        design = np.concatenate([patches[:, :, c] for c in range(n)])
        weights, *_ = np.linalg.lstsq(design, seen, rcond=None)
        np.testing.assert_allclose(design @ weights, seen, atol=1e-5 * np.abs(seen).max())
        assert 0.2 < np.linalg.norm(weights) < 3


def test_what_the_losses_read_is_in_the_baseline(model) -> None:
    x = images()
    last = extracted(model, x)["baseline"][-1].astype(float)
    with torch.no_grad():
        output = model.module(x)
    logits = (output if isinstance(output, torch.Tensor) else output.logits).numpy()
    c = model.n_classes
    np.testing.assert_allclose(last[:, :c], logits, rtol=1e-4, atol=1e-5)
    softmax = torch.from_numpy(logits).softmax(dim=1).numpy()
    np.testing.assert_allclose(last[:, c : 2 * c], softmax, rtol=1e-4, atol=1e-6)
    losses = Passes(model, model.blocks, LOSSES, Context(0)).losses(Stimuli(x))
    for i, source in enumerate(LOSSES):
        np.testing.assert_allclose(last[:, 2 * c + i], losses[source], rtol=1e-4)
    np.testing.assert_allclose(last[:, -2], softmax.max(axis=1), rtol=1e-4)
    pixels = x.double() * torch.tensor(model.std)[:, None, None]
    pixels = pixels + torch.tensor(model.mean)[:, None, None]
    luminance = (pixels * torch.tensor([0.2126, 0.7152, 0.0722])[:, None, None]).sum(dim=1)
    np.testing.assert_allclose(last[:, -1], luminance.flatten(1).std(dim=1), rtol=1e-6)
    assert last.shape[1] == 2 * c + len(LOSSES) + 2


def test_logits_are_linear_in_the_baseline_of_a_network_whose_head_reads_a_layer() -> None:
    """Without a norm between them, the head is a linear map of the last block's class token."""
    model = registered()
    model.module.norm = nn.Identity()
    x = images(60)
    found = extracted(from_module(model.module, STEPS), x)["baseline"]
    with torch.no_grad():
        logits = model.module(x).numpy()
    cls = np.column_stack([found[-2][:, :24], np.ones(60)]).astype(float)
    fitted = cls @ np.linalg.lstsq(cls, logits, rcond=None)[0]
    np.testing.assert_allclose(fitted, logits, atol=1e-4 * np.abs(logits).max())


def test_assignments_to_prototypes_are_there_where_a_bank_is() -> None:
    model, x = registered(), images()
    rng = torch.Generator().manual_seed(1)
    prototypes = nn.functional.normalize(torch.randn(6, 24, generator=rng), dim=1)
    items = torch.randn(4, 24, generator=rng)
    bank = Bank(tuple("abcd"), items, items, items.mean(dim=0), prototypes)
    context = Context(0, bank, head=lambda embedding: embedding[:, :9])
    stimuli = Stimuli(x, digests=[str(i) for i in range(len(x))])
    settings = ExtractionOptions(projection=8, micro_batch=N, context=context, losses=LOSSES)
    extractor = SignalExtractor(model, ["baseline"], settings)
    last = extractor(stimuli)["baseline"][-1]
    assert last.shape[1] == 5 + 5 + 6 + 9 + 2 + 2 == extractor.n_features("baseline")[-1]
    readout = extractor.passes.run(stimuli).readout
    expected = (bank.logits(readout.pooled) / 0.1).softmax(dim=1)
    np.testing.assert_allclose(last[:, 10:16], expected, rtol=1e-4)
    expected = (readout.embedding[:, :9] / 0.1).softmax(dim=1)
    np.testing.assert_allclose(last[:, 16:25], expected, rtol=1e-4)


def test_its_bytes_depend_on_no_other_source_or_stimulus(model) -> None:
    x = images()
    sources = ["forward", *LOSSES, "baseline"]
    beside = extracted(model, x, sources, baseline_width=40)
    alone = extracted(model, x, baseline_width=40)["baseline"]
    moved = extracted(model, x[3:], baseline_width=40)["baseline"]
    for with_others, by_itself, later in zip(beside["baseline"], alone, moved, strict=True):
        assert with_others.tobytes() == by_itself.tobytes()
        assert later.tobytes() == by_itself[3:].tobytes()
    without = extracted(model, x, ["forward", *LOSSES])
    for source, values in without.items():
        assert values.tobytes() == beside[source].tobytes()


def test_parts_wider_than_its_width_are_projected_and_scalars_are_kept() -> None:
    model, x = registered(), images(12)
    whole, narrow = (extracted(model, x, baseline_width=w)["baseline"] for w in (None, 20))
    assert [layer.shape[1] for layer in narrow] == [20 + 1, 20 + 1, 5 + 5 + 2 + 2]
    for layer, kept in zip(whole, narrow, strict=True):
        assert layer[:, -1].tobytes() == kept[:, -1].tobytes()
    assert whole[-1].tobytes() == narrow[-1].tobytes()
    assert whole[0].shape[1] > 21


def test_masked_objectives_give_their_loss_without_a_gradient() -> None:
    model, x = registered(), images(4)
    rng = torch.Generator().manual_seed(1)
    prototypes = nn.functional.normalize(torch.randn(6, 24, generator=rng), dim=1)
    items = torch.randn(4, 24, generator=rng)
    bank = Bank(tuple("abcd"), items, items, items.mean(dim=0), prototypes)
    stimuli = Stimuli(x, digests=["1", "2", "3", "4"])
    context = Context(0, bank)
    wanted = Passes(model, model.blocks, ["gradient:masked"], context).run(stimuli)
    valued = Passes(model, model.blocks, [], context, losses=["gradient:masked"]).run(stimuli)
    assert torch.equal(wanted.losses["gradient:masked"], valued.losses["gradient:masked"])
    assert list(valued.signals) == ["forward"]


def test_the_baseline_alone_runs_forward_once_and_never_back(monkeypatch) -> None:
    model = registered()
    n_passes = []
    forward = Passes._forward
    monkeypatch.setattr(Passes, "_forward", lambda *a, **k: n_passes.append(1) or forward(*a, **k))
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: pytest.fail("went back"))
    extracted(model, images(4), ["forward", "baseline"])
    assert len(n_passes) == 1


def test_scales_are_standard_deviations_over_the_bank() -> None:
    model, x = registered(), images(10)
    sources = ["forward", *LOSSES, "baseline"]
    settings = ExtractionOptions(projection=None, micro_batch=4, losses=LOSSES)
    extractor = SignalExtractor(model, sources, settings)
    batches = [Stimuli(x[i : i + 4]) for i in range(0, 10, 4)]
    scales = channel_scales(extractor, batches, sources)
    whole = extractor(x)
    for source in sources:
        for scale, values in zip(scales[source], whole[source], strict=True):
            expected = values[:, : len(scale)].astype(float).std(axis=0)
            varies = expected > 1e-5 * expected.max()
            np.testing.assert_allclose(scale[varies], expected[varies], rtol=1e-4)
    scaled = ExtractionOptions(
        projection=None, micro_batch=4, losses=LOSSES, scales=as_tensors(scales)
    )
    for values in SignalExtractor(model, ["baseline"], scaled)(x)["baseline"]:
        sd = values.astype(float).std(axis=0)
        assert ((np.abs(sd - 1) < 1e-3) | (sd < 1e-4)).all()
