import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from gradenc_core.models.model import load_model, model_summary
from gradenc_core.models.weights import constant_tensors, load_checkpoint, shuffle, weights_digest

VIT = ("timm", "test_vit")


@pytest.fixture(scope="module")
def trained():
    return load_model(*VIT, "untrained", 3, 32).module


def saved(module, path):
    state = module.state_dict()
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return path


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt", "w.pth"])
def test_a_checkpoint_is_loaded_to_the_last_bit(trained, tmp_path, name):
    model = load_model(*VIT, "checkpoint", 0, 32, checkpoint=saved(trained, tmp_path / name))
    assert weights_digest(model.module) == weights_digest(trained)
    assert model.weights == "checkpoint"


def test_half_precision_is_loaded_as_single(trained, tmp_path):
    save_file({k: v.half() for k, v in trained.state_dict().items()}, tmp_path / "h.safetensors")
    model = load_model(*VIT, "checkpoint", 0, 32, checkpoint=tmp_path / "h.safetensors")
    assert {p.dtype for p in model.module.parameters()} == {torch.float32}
    assert torch.equal(model.module.cls_token, trained.cls_token.half().float())


class Other(dict):
    """A class that no state dict holds."""


def without_class_token(state):
    return {name: tensor for name, tensor in state.items() if name != "cls_token"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_class_token, r"does not fit VisionTransformer \(missing: cls_token\); give the"),
        (lambda s: s | {"extra": s["cls_token"]}, r"\(unexpected: extra\)"),
        (lambda s: s | {"cls_token": torch.zeros(2)}, r"\(of another shape: cls_token\)"),
        (lambda s: {"state_dict": s, "epoch": 3}, r"no plain state dict \(it holds epoch, state_d"),
        (lambda s: list(s.values()), r"no plain state dict \(it holds list\)"),
        (lambda s: Other(s), "unpickling that could run any code; save the model's state_dict"),
    ],
)
def test_what_is_not_this_networks_state_dict_is_refused(trained, tmp_path, change, message):
    torch.save(change(trained.state_dict()), tmp_path / "w.pt")
    with pytest.raises(ValueError, match=message):
        load_checkpoint(trained, tmp_path / "w.pt")


def test_a_whole_pickled_module_is_refused(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"w.pth holds more than tensors"):
        load_checkpoint(nn.Linear(2, 2), tmp_path / "w.pth")


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt", "w.pth"])
def test_a_checkpoint_that_is_cut_short_or_garbage_is_refused_as_such(trained, tmp_path, name):
    path = saved(trained, tmp_path / name)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:3], b"", b"<html>404</html>", bytes(99)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"checkpoint \S+{name} .* damaged; copy it again"):
            load_checkpoint(trained, path)


def test_a_former_pickle_is_loaded_or_refused_for_what_it_holds(trained, tmp_path):
    path, former = tmp_path / "w.pt", {"_use_new_zipfile_serialization": False}
    torch.save(trained.state_dict(), path, **former)
    load_checkpoint(trained, path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match="damaged; copy it again"):
        load_checkpoint(trained, path)
    torch.save(nn.Linear(2, 2), path, **former)
    with pytest.raises(ValueError, match="holds more than tensors"):
        load_checkpoint(trained, path)


def test_files_that_are_missing_or_of_another_kind_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint \S+w.pt"):
        load_checkpoint(nn.Linear(2, 2), tmp_path / "w.pt")
    (tmp_path / "w.pkl").write_bytes(b"")
    with pytest.raises(ValueError, match=r"no \.safetensors, \.pt or \.pth file"):
        load_checkpoint(nn.Linear(2, 2), tmp_path / "w.pkl")


def test_a_checkpoint_goes_with_its_weights(tmp_path):
    path = tmp_path / "w.pt"
    for weights, checkpoint in [("checkpoint", None), ("untrained", path), ("pretrained", path)]:
        with pytest.raises(ValueError, match="a checkpoint goes with 'checkpoint'"):
            load_model(*VIT, weights, 0, 32, checkpoint=checkpoint)


def shuffled(path, seed):
    return load_model(*VIT, "shuffled", seed, 32, checkpoint=path).module


def test_shuffled_weights_keep_every_tensors_values(trained, tmp_path):
    path = saved(trained, tmp_path / "w.safetensors")
    module = shuffled(path, 0)
    constant = set(constant_tensors(trained))
    assert "blocks.0.norm1.weight" in constant
    for name, tensor in module.state_dict().items():
        before = trained.state_dict()[name]
        assert torch.equal(tensor.flatten().sort()[0], before.flatten().sort()[0])
        assert torch.equal(tensor, before) == (name in constant), name


def test_a_shuffle_depends_on_seed_and_name_alone(trained, tmp_path):
    path = saved(trained, tmp_path / "w.pt")
    digests = [weights_digest(shuffled(path, seed)) for seed in (0, 0, 1)]
    assert digests[0] == digests[1]
    assert len({*digests, weights_digest(trained)}) == 3
    module = nn.ModuleDict({name: nn.Linear(50, 1, bias=False) for name in "ab"})
    with torch.no_grad():
        for part in module.values():
            part.weight.copy_(torch.arange(50.0))
    shuffle(module, 0)
    assert not torch.equal(module["a"].weight, module["b"].weight)


def test_what_a_shuffle_cannot_change_is_recorded(trained, tmp_path):
    path = saved(trained, tmp_path / "w.pt")
    model = load_model(*VIT, "shuffled", 0, 32, checkpoint=path)
    recorded = model_summary(model)["constant_tensors"]
    assert recorded == constant_tensors(trained)
    assert {"blocks.0.norm1.weight", "blocks.5.mlp.fc2.bias"} <= set(recorded)
    assert model_summary(load_model(*VIT, "untrained", 0, 32))["constant_tensors"] == []
    with pytest.raises(ValueError, match="has one value only; use weights: untrained"):
        shuffle(nn.LayerNorm(4), 0)


def test_fixed_parameters_tables_and_counters_are_not_shuffled():
    module = nn.ModuleList([nn.BatchNorm1d(99), nn.Linear(9, 9)])
    module.register_buffer("relative_coords_table", torch.arange(9.0))  # as in Swin V2
    module[0].running_mean.copy_(torch.arange(99.0))
    module[1].weight.requires_grad_(False)
    weight = module[1].weight.clone()
    shuffle(module, 0)
    assert torch.equal(module[1].weight, weight)
    assert torch.equal(module.relative_coords_table, torch.arange(9.0))
    assert not torch.equal(module[0].running_mean, torch.arange(99.0))
    assert module[0].num_batches_tracked == 0


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=3), st.integers(0, 2**32))
def test_a_shuffle_is_a_permutation_of_any_shape(shape, seed):
    module = nn.Module()
    values = torch.arange(torch.Size(shape).numel(), dtype=torch.float32).reshape(shape)
    module.weight = nn.Parameter(torch.cat([values, values + 100]))
    shuffle(module, seed)
    assert sorted(module.weight.flatten().tolist()) == sorted(
        [*values.flatten().tolist(), *(values + 100).flatten().tolist()]
    )


def test_a_model_without_weights_has_none_to_shuffle():
    with pytest.raises(ValueError, match="no pretrained weights of test_vit4; use 'untrained'"):
        load_model("timm", "test_vit4", "shuffled", 0)
