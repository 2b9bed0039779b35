import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional

from gradenc_core.models.heads import load_dino_head
from gradenc_core.signals.bank import build_bank, spherical_kmeans
from gradenc_core.signals.conformance import tiny_model
from gradenc_core.signals.passes import Passes
from gradenc_core.signals.readout import Context
from gradenc_core.signals.views import N_VIEWS, teacher_views
from gradenc_core.stimuli.generated import dead_leaves


@pytest.fixture(scope="module")
def vit():
    return tiny_model()


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


# Prototypes


def test_prototypes_find_planted_directions():
    rng = np.random.default_rng(0)
    truth = unit(rng.standard_normal((4, 12)))
    points = np.repeat(truth, 25, axis=0) * rng.uniform(0.1, 9, (100, 1))
    points += 1e-3 * rng.standard_normal(points.shape)
    found = max(
        (spherical_kmeans(points, 4, seed) for seed in range(8)),
        key=lambda centres: (unit(points) @ centres.T).max(1).sum(),
    )
    assert (truth @ found.T).max(1).min() > 0.999


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(3, 30), k=st.integers(1, 3), repeats=st.integers(1, 5), seed=st.integers(0, 99)
)
def test_prototypes_are_means_of_the_points_nearest_to_them(n, k, repeats, seed):
    points = np.random.default_rng(seed).standard_normal((n, 5))
    points = np.repeat(points, repeats, axis=0)
    centres = spherical_kmeans(points, k, seed)
    np.testing.assert_allclose(np.linalg.norm(centres, axis=1), 1)
    assert np.array_equal(centres, spherical_kmeans(points, k, seed))
    labels = (unit(points) @ centres.T).argmax(1)
    for cluster in range(k):
        mean = unit(points)[labels == cluster].sum(0, keepdims=True)
        np.testing.assert_allclose(centres[cluster], unit(mean)[0], atol=1e-7)


def test_no_prototype_is_left_empty():
    points = np.repeat(np.eye(3), [10, 1, 1], axis=0)
    for seed in range(5):
        centres = spherical_kmeans(points, 3, seed)
        assert np.isfinite(centres).all()
        np.testing.assert_allclose(np.linalg.norm(centres, axis=1), 1)


def test_a_bank_smaller_than_its_prototypes_is_refused():
    with pytest.raises(ValueError, match="the reference bank has 3 images; give at least 4"):
        spherical_kmeans(np.eye(3), 4, 0)


def test_a_bank_keeps_readings_mean_and_prototypes(vit):
    images = torch.randn(7, 3, 16, 16, generator=torch.Generator().manual_seed(0)).double()
    items = [(str(i), image) for i, image in enumerate(images)]
    bank = build_bank(vit, iter(items), 0, 3, 2)
    readout = Passes(vit, (), (), Context(0)).read(images)
    torch.testing.assert_close(bank.pooled, readout.pooled)
    torch.testing.assert_close(bank.embedding, readout.embedding)
    torch.testing.assert_close(bank.mean, bank.pooled.mean(0))
    assert bank.prototypes.shape == (2, 16)
    assert bank.has(("3", "x")).tolist() == [[i == 3 for i in range(7)], [False] * 7]
    for first, second in zip(
        build_bank(vit, items[:5], 0, 3, 2).pooled, bank.pooled[:5], strict=True
    ):
        assert torch.equal(first, second)  # an item's bytes do not depend on the others


# Views


@pytest.fixture(scope="module")
def image():
    return Image.fromarray(dead_leaves(np.random.default_rng(0), 48)[:, :40])


def test_views_are_keyed_by_content_seed_and_number(vit, image):
    views = teacher_views(vit, image, "a", 0)
    assert views.shape == (N_VIEWS, 3, 16, 16)
    assert views.dtype == torch.float32
    assert len({view.numpy().tobytes() for view in views}) == N_VIEWS
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    assert torch.equal(teacher_views(vit, image, "a", 0, 3), views[:3])
    assert torch.equal(torch.random.get_rng_state(), state)
    for other in (("b", 0), ("a", 1)):
        assert not torch.equal(teacher_views(vit, image, *other, 1)[0], views[0])


def test_views_stay_in_the_range_of_images(vit, image):
    views = teacher_views(vit, image, "a", 0) * 0.5 + 0.5
    assert views.min() >= -1e-6
    assert views.max() <= 1 + 1e-6
    assert views.std() > 0.02


def test_half_of_the_views_are_flipped(vit):
    ramp = Image.fromarray(np.tile(np.linspace(0, 255, 40).astype(np.uint8), (40, 1)))
    views = torch.cat([teacher_views(vit, ramp, str(i), 0) for i in range(25)])
    rising = (views[..., -1].mean((1, 2)) > views[..., 0].mean((1, 2))).float().mean()
    assert 0.38 < float(rising) < 0.62  # 200 views: 3.4 standard deviations


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (200, 3)])
def test_views_of_extreme_images(vit, size):
    assert teacher_views(vit, Image.new("L", size, 9), "a", 0).isfinite().all()


# Heads


def head_state(normed):
    draw = torch.Generator().manual_seed(0)
    shapes = {"mlp.0": (8, 6), "mlp.2": (5, 8)}
    state = {f"{n}.weight": torch.randn(shape, generator=draw) for n, shape in shapes.items()}
    state |= {f"{n}.bias": torch.randn(shape[0], generator=draw) for n, shape in shapes.items()}
    last = torch.randn(9, 5, generator=draw)
    if normed:
        length = torch.rand(9, 1, generator=draw)
        return state | {"last_layer.weight_v": last, "last_layer.weight_g": length}
    return state | {"last_layer.weight": last}


@pytest.mark.parametrize("normed", [False, True])
def test_a_dino_head_is_read_from_its_state(tmp_path, normed):
    state = head_state(normed)
    save_file({f"student.dino_head.{n}": t for n, t in state.items()}, tmp_path / "h.safetensors")
    head, x = load_dino_head(tmp_path / "h.safetensors"), torch.randn(3, 6).double()
    hidden = functional.gelu(x @ state["mlp.0.weight"].double().T + state["mlp.0.bias"])
    hidden = functional.normalize(hidden @ state["mlp.2.weight"].double().T + state["mlp.2.bias"])
    last = state["last_layer.weight_v" if normed else "last_layer.weight"].double()
    if normed:
        last = state["last_layer.weight_g"] * last / last.norm(dim=1, keepdim=True)
    torch.testing.assert_close(head(x), hidden @ last.T)


def test_what_is_no_head_is_refused(tmp_path):
    state = head_state(False)
    del state["mlp.2.bias"]
    save_file(state, tmp_path / "h.safetensors")
    with pytest.raises(ValueError, match=r"lacks the tensor 'mlp.2.bias'"):
        load_dino_head(tmp_path / "h.safetensors")
    with pytest.raises(ValueError, match="no safetensors file"):
        load_dino_head(tmp_path / "head.pth")


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ([f"ibot_head.{n}" for n in head_state(False)], "both dino_head.* one head alone"),
        (["backbone.blocks.0.mlp.fc1.weight"], "holds backbone.blocks.0.mlp.fc1.weight, which is"),
        (["dino_head.mlp.1.running_mean"], "no tensor of a DINO head; save the head alone"),
        (["dino_head.last_layer.bias"], "no tensor of a DINO head; save the head alone"),
    ],
)
def test_a_head_beside_other_tensors_is_refused(tmp_path, others, message):
    state = {f"dino_head.{name}": tensor for name, tensor in head_state(False).items()}
    save_file(state | {name: torch.ones(3) for name in others}, tmp_path / "h.safetensors")
    with pytest.raises(ValueError, match=message):
        load_dino_head(tmp_path / "h.safetensors")


def test_a_damaged_head_is_refused(tmp_path):
    (tmp_path / "h.safetensors").write_bytes(b"xx")
    with pytest.raises(ValueError, match=r"the head \S+h.safetensors .* damaged; copy it again"):
        load_dino_head(tmp_path / "h.safetensors")
