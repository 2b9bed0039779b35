import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gradenc_core.models.model import VisionModel, from_module, load_model
from gradenc_core.models.preprocessing import Preprocessing
from gradenc_core.signals.classify import classify_signals
from gradenc_core.signals.extractor import ExtractionOptions, SignalExtractor
from gradenc_core.signals.stimulus import Stimuli

SIZE = 16
STEPS = Preprocessing(SIZE, SIZE, False, "bilinear", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
ALL = ["forward", "gradient:classification", "gradient:energy", "gradient:random.0"]


class AddBlock(nn.Module):
    """A residual block with two in-place operations."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.act = nn.SiLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.act(self.conv(x))
        out += x
        return out


class SmallNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 4, stride=4)
        self.first, self.second, self.third = (AddBlock(6) for _ in range(3))
        self.norm, self.head = nn.BatchNorm2d(6), nn.Linear(6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(self.stem(x))
        x *= 0.5  # overwrites the block's output
        x = self.third(self.second(x))
        return self.head(self.norm(x).mean((2, 3)))


def small_model(dtype: torch.dtype = torch.float64) -> VisionModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = SmallNet().to(dtype)
    nn.init.constant_(module.norm.running_mean, 0.3)
    return from_module(module, STEPS)


def extractor(model, sources=ALL, layers=None, **options):
    settings = {"projection": 16, "micro_batch": 4} | options
    return SignalExtractor(model, sources, ExtractionOptions(layers, **settings))


def images(n, size=SIZE, seed=0):
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def resnet():
    return load_model("torchvision", "resnet18", "untrained", 0, 64)


@pytest.fixture(scope="module")
def vit():
    return load_model("timm", "test_vit", "untrained", 0, 64)


@pytest.fixture(scope="module", params=["resnet18", "test_vit"])
def network(request, resnet, vit):
    return {"resnet18": resnet, "test_vit": vit}[request.param]


# --- what the signals are -------------------------------------------------------------------------


def energy_after(module, name, x, replacement):
    """Energy of the network when the output of `name` is replaced."""
    seen = {}
    hooks = [
        module.get_submodule(name).register_forward_hook(lambda *_: replacement.clone()),
    ]
    last = "third" if isinstance(module, SmallNet) else "layer4.1"
    hooks.append(
        module.get_submodule(last).register_forward_hook(
            lambda _m, _i, output: seen.update(z=output.clone())
        )
    )
    with torch.no_grad():
        module(x)
    for hook in hooks:
        hook.remove()
    return float(seen["z"].mean((2, 3)).square().sum() / 2)


def output_of(module, name, x):
    seen = {}
    hook = module.get_submodule(name).register_forward_hook(
        lambda _m, _i, output: seen.update(z=output.clone())
    )
    with torch.no_grad():
        module(x)
    hook.remove()
    return seen["z"]


def check_finite_differences(model, names, size, step):
    x = images(1, size).double()
    pooled = extractor(model, ["gradient:energy"], names, tokens="patches", micro_batch=1).pooled(x)
    rng = np.random.default_rng(0)
    for name, gradient in zip(names, pooled["gradient:energy"], strict=True):
        output = output_of(model.module, name, x)
        direction = torch.from_numpy(rng.standard_normal(tuple(output.shape)))
        up, down = (
            energy_after(model.module, name, x, output + sign * step * direction)
            for sign in (1, -1)
        )
        expected = float((gradient * direction.permute(0, 2, 3, 1).flatten(1)).sum())
        assert (up - down) / (2 * step) == pytest.approx(expected, rel=1e-5)


def test_gradients_equal_finite_differences():
    check_finite_differences(small_model(), ["stem", "first", "second", "third"], SIZE, 1e-5)


def test_gradients_of_resnet18_equal_finite_differences():
    model = load_model("torchvision", "resnet18", "untrained", 0, 32)
    model.module.double()
    check_finite_differences(model, ["layer1.0", "layer2.1", "layer4.0", "layer4.1"], 32, 1e-7)


def test_classification_gradients_equal_autograd_on_single_stimuli(resnet):
    x, labels = images(3, 64), torch.tensor([1, 2, 3])
    signals = extractor(resnet, ALL, ["layer2.0"]).pooled(Stimuli(x, labels))
    for row in range(3):
        stem = nn.Sequential(*list(resnet.module.children())[:5], resnet.module.layer2[0])
        output = stem(x[row : row + 1]).detach().requires_grad_()
        rest = nn.Sequential(
            resnet.module.layer2[1], resnet.module.layer3, resnet.module.layer4, nn.Flatten(2)
        )
        logits = resnet.module.fc(rest(output).mean(2))
        loss = nn.functional.cross_entropy(logits, labels[row : row + 1])
        (gradient,) = torch.autograd.grad(loss, output)
        expected = gradient.mean((2, 3))[0]
        error = signals["gradient:classification"][0][row] - expected
        assert error.norm() <= 1e-5 * expected.norm()
        torch.testing.assert_close(signals["forward"][0][row], output.detach().mean((2, 3))[0])


def test_in_place_operations_do_not_reach_what_was_captured():
    model, x = small_model(), images(2).double()
    names = ["stem", "first", "first.conv", "second", "third"]
    signals = extractor(model, ["forward"], names).pooled(x)
    module = model.module
    stem = module.stem(x)
    convolved = module.first.conv(stem)
    first = nn.functional.silu(convolved) + stem
    second = nn.functional.silu(module.second.conv(first / 2)) + first / 2
    third = nn.functional.silu(module.third.conv(second)) + second
    truth = [stem, first, convolved, second, third]
    for signal, expected in zip(signals["forward"], truth, strict=True):
        torch.testing.assert_close(signal, expected.mean((2, 3)))
    np.testing.assert_allclose(
        extractor(model, ALL, names).pooled(x)["forward"][1], signals["forward"][1]
    )


def test_gradient_of_the_readout_layer_is_that_of_the_formula(resnet):
    signals = extractor(resnet, ["gradient:energy"], ["layer4.1"]).pooled(images(5, 64))
    torch.testing.assert_close(signals["gradient:energy"][0], signals["forward"][0] / 4)


def test_a_batch_equals_its_singles(network):
    x = images(6, 64)
    together = extractor(network, micro_batch=6).pooled(x)
    for source in ALL:
        singles = extractor(network, micro_batch=1).pooled(x)[source]
        for batched, single in zip(together[source], singles, strict=True):
            error = torch.linalg.vector_norm(batched - single, dim=1)
            norm = torch.linalg.vector_norm(single, dim=1)
            assert bool((error <= 1e-5 * norm).all())


def test_a_stimulus_gradient_depends_on_no_other_stimulus(network):
    x, y = images(4, 64), images(4, 64, seed=1)
    y[2] = x[2]
    first, second = extractor(network)(x), extractor(network)(y)
    for source in ALL:
        assert first[source][:, 2].tobytes() == second[source][:, 2].tobytes()
        assert source == "gradient:random.0" or not np.array_equal(
            first[source][:, 1], second[source][:, 1]
        )


def test_layers_after_the_readout_have_no_gradient(resnet):
    pooled = extractor(resnet, ["gradient:energy"], ["fc"]).pooled(images(2, 64))
    assert not pooled["gradient:energy"][0].any()
    assert extractor(resnet, ["gradient:energy"], ["fc"])(images(2, 64))


# --- same bytes -----------------------------------------------------------------------------------


def test_a_gradient_that_is_not_finite_has_no_class(resnet):
    x = images(3, 64)
    x[0] = torch.inf
    with pytest.raises(ValueError, match=r"gradient:\w+ is not finite"):
        classify_signals(extractor(resnet, micro_batch=4), x)


@pytest.fixture(scope="module")
def reference(network):
    x = images(14, 64)
    extract = extractor(network, micro_batch=4)
    return extract, x, extract(x)


@settings(max_examples=12, deadline=None)
@given(order=st.permutations(range(14)), cuts=st.sets(st.integers(1, 13), min_size=1, max_size=3))
def test_bytes_do_not_depend_on_the_partition(reference, order, cuts):
    extract, x, whole = reference
    for part in np.split(np.array(order), sorted(cuts)):
        for source, features in extract(x[part]).items():
            assert features.tobytes() == whole[source][:, part].tobytes()


@pytest.mark.parametrize("architecture", ["resnet18", "vit_b_16"])
def test_bytes_do_not_depend_on_the_other_sources_and_layers(architecture):
    model = load_model("torchvision", architecture, "untrained", 0, 32)
    x = images(3, 32)
    together = extractor(model)(x)
    for source in ALL:
        alone = extractor(model, [source], model.blocks[1::3])(x)[source]
        assert alone.tobytes() == together[source][1::3].tobytes()


def test_extraction_leaves_the_network_and_the_flags_as_they_were(resnet):
    fused, deterministic = (
        torch.backends.mha.get_fastpath_enabled(),
        torch.backends.cudnn.deterministic,
    )
    x = images(2, 64)
    with torch.no_grad():
        before = resnet.module(x)
        extractor(resnet)(x)
        assert torch.equal(resnet.module(x), before)
    assert not any(part._forward_hooks for part in resnet.module.modules())
    assert torch.backends.mha.get_fastpath_enabled() == fused
    assert torch.backends.cudnn.deterministic == deterministic


# --- scale and shapes -----------------------------------------------------------------------------


@pytest.mark.parametrize(("scale", "width"), [("unit", 17), ("raw", 16), ("norm_only", 1)])
def test_shapes(scale, width):
    extract = extractor(small_model(torch.float32), scale=scale)
    features = extract(images(5))
    assert features["forward"].shape == (3, 5, 16)
    assert features["forward"].dtype == np.float32
    for source in ALL[1:]:
        assert extract.n_features(source) == [width] * 3
        assert features[source].shape == (3, 5, width)
    assert extract(images(0))["gradient:energy"].shape == (3, 0, width)


def test_unit_scale_divides_by_the_norm_and_appends_its_log():
    model, x = small_model(torch.float32), images(5)
    pooled = extractor(model).pooled(x)["gradient:energy"]
    unit, raw, norm_only = (
        extractor(model, scale=scale)(x)["gradient:energy"]
        for scale in ("unit", "raw", "norm_only")
    )
    norms = np.stack([np.linalg.norm(layer.numpy(), axis=1) for layer in pooled])
    np.testing.assert_allclose(unit[..., -1], np.log(norms), rtol=1e-5)
    np.testing.assert_allclose(unit[..., :-1] * norms[..., None], raw, rtol=1e-4, atol=1e-7)
    np.testing.assert_array_equal(norm_only[..., 0], unit[..., -1])


def test_zero_and_tiny_gradients_stay_finite():
    model, x = small_model(torch.float32), images(4)
    for factor, log_norm in ((0.0, math.log(torch.finfo(torch.float32).tiny)), (1e-15, None)):
        scaled = small_model(torch.float32)
        nn.init.zeros_(scaled.module.head.bias)
        scaled.module.head.weight.mul_(factor)
        unit = extractor(scaled, ["gradient:classification"])(x)["gradient:classification"]
        assert np.isfinite(unit).all()
        if log_norm is not None:
            assert not unit[..., :-1].any()
            np.testing.assert_allclose(unit[..., -1], log_norm)
        else:
            norms = np.linalg.norm(unit[..., :-1], axis=2)
            assert ((norms > 0.3) & (norms < 2)).all()
    assert np.isfinite(extractor(model)(x)["gradient:energy"]).all()


def test_both_signals_pass_through_the_same_projection(resnet):
    options = {"layers": ["layer4.1"], "scale": "raw"}
    features = extractor(resnet, ["forward", "gradient:energy"], **options)(images(3, 64))
    np.testing.assert_allclose(features["gradient:energy"], features["forward"] / 4, rtol=1e-5)


def test_class_tokens_and_patches_differ(vit):
    x = images(2, 64)
    cls, patches = (extractor(vit, ["forward"], tokens=t).pooled(x) for t in ("cls", "patches"))
    assert cls["forward"][0].shape == (2, 64)
    assert patches["forward"][0].shape == (2, 16 * 64)


# --- classes --------------------------------------------------------------------------------------


def test_gradients_without_a_signal_of_their_own_are_named(resnet, vit):
    for model in (resnet, vit):
        classes = classify_signals(extractor(model, micro_batch=16), images(16, 64))
        assert set(classes) == set(ALL[1:])
        for source, last in (("energy", "identical_to_forward"), ("random.0", "constant")):
            layers = classes[f"gradient:{source}"]
            assert layers == ["ok"] * (len(model.blocks) - 1) + [last]
    # the head reads the class token alone: the last block's patches get no gradient
    assert classes["gradient:classification"] == ["ok"] * 5 + ["zero"]


def test_classes_hold_for_all_patches_and_raw_scale(vit):
    extract = extractor(vit, tokens="patches", scale="raw", micro_batch=16)
    classes = classify_signals(extract, images(16, 64))
    assert classes["gradient:energy"] == ["ok"] * 6
    assert classes["gradient:random.0"] == ["ok"] * 5 + ["constant"]


def test_small_but_varying_gradients_are_ok():
    model = small_model(torch.float32)
    model.module.head.weight.mul_(1e-12)
    nn.init.zeros_(model.module.head.bias)
    classes = classify_signals(extractor(model, ["gradient:classification"]), images(8))
    assert classes["gradient:classification"] != ["zero"] * 3


def test_everything_zero_is_zero():
    model = small_model(torch.float32)
    nn.init.zeros_(model.module.head.weight)
    classes = classify_signals(extractor(model, ["gradient:classification"]), images(8))
    assert classes == {"gradient:classification": ["zero"] * 3}


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": "z"}, "scale is 'z'"),
        ({"micro_batch": 0}, "micro_batch is 0"),
        ({"sources": ["gradient:masked"]}, "'gradient:masked' is not one of"),
        ({"layers": ["layer9"]}, "no layer 'layer9'"),
        ({"tokens": "cls"}, "has none; use 'mean'"),
        ({"projection": 0}, "projection is 0"),
        ({"precision": "fp8"}, "precision is 'fp8'"),
    ],
)
def test_wrong_options_are_refused(resnet, options, message):
    with pytest.raises(ValueError, match=message):
        extractor(resnet, **options)


def test_features_that_are_not_finite_are_refused():
    model, x = small_model(torch.float32), images(4)
    x[1, 0, 0, 0] = math.inf
    with pytest.raises(ValueError, match=r"forward of layer 'first'.*not finite for 1 stimuli"):
        extractor(model, ["forward"])(x)


def test_classes_need_some_images(resnet):
    with pytest.raises(ValueError, match="2 images cannot class"):
        classify_signals(extractor(resnet), images(2, 64))


# --- precision ------------------------------------------------------------------------------------


def test_bf16_is_near_float32_in_every_layer(network):
    x = images(6, 64)
    exact, half = (extractor(network, precision=p).pooled(x) for p in ("float32", "bf16"))
    for source in ALL:
        errors = [
            float((b - a).norm() / a.norm())
            for a, b in zip(exact[source], half[source], strict=True)
            if a.any()  # the head of a transformer gives its last patches no gradient
        ]
        # 2^-8 of rounding, grown by ReLUs that switch in 8 blocks
        assert max(errors) < 0.2, source
        assert min(errors[:-1]) > 1e-5, source


def test_bf16_is_autocast_with_a_loss_in_float32():
    model, x = small_model(torch.float32), images(4)
    found = extractor(model, precision="bf16").pooled(x)["gradient:energy"][0]
    module = model.module
    with torch.autocast("cpu", torch.bfloat16):
        first = module.first(module.stem(x)).detach().requires_grad_()
        third = module.third(module.second(first * 0.5))
    (gradient,) = torch.autograd.grad(third.float().mean((2, 3)).square().sum() / 2, first)
    assert gradient.dtype == torch.bfloat16
    assert torch.equal(found, gradient.float().mean((2, 3)))


def test_bf16_features_are_float32_and_of_the_same_bytes_in_any_partition(resnet):
    x = images(7, 64)
    extract = extractor(resnet, precision="bf16")
    whole = extract(x)
    for part in (slice(0, 3), slice(3, 7)):
        for source, features in extract(x[part]).items():
            assert features.dtype == np.float32
            assert features.tobytes() == whole[source][:, part].tobytes()


def test_tiny_gradients_do_not_underflow_in_bf16():
    model, source = small_model(torch.float32), "gradient:classification"
    nn.init.zeros_(model.module.head.bias)
    model.module.head.weight.mul_(1e-36)
    exact, half = (
        extractor(model, [source], precision=p).pooled(images(4))[source]
        for p in ("float32", "bf16")
    )
    for a, b in zip(exact, half, strict=True):
        assert b.dtype == torch.float32
        scale = float(a.abs().max())
        assert (b / scale).norm() == pytest.approx(float((a / scale).norm()), rel=0.05)


# --- without projection ---------------------------------------------------------------------------


@pytest.mark.parametrize("scale", ["unit", "raw", "norm_only"])
def test_without_projection_features_are_what_was_pooled(scale):
    extract = extractor(small_model(torch.float32), projection=None, scale=scale)
    x = images(5)
    features, pooled = extract(x), extract.pooled(x)
    for layer, expected in zip(features["forward"], pooled["forward"], strict=True):
        np.testing.assert_array_equal(layer, expected.numpy())
    for source in ALL[1:]:
        widths = [layer.shape[1] for layer in features[source]]
        assert widths == extract.n_features(source)
        for layer, signal in zip(features[source], pooled[source], strict=True):
            expected = signal.numpy()
            norm = np.linalg.norm(expected, axis=1, keepdims=True)
            whole = {"unit": np.hstack([expected / norm, np.log(norm)]), "raw": expected}
            np.testing.assert_allclose(layer, whole.get(scale, np.log(norm)), rtol=1e-4, atol=1e-6)
