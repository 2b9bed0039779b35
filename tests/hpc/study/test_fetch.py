"""Fetching weights: what is there is found, what is not is named with what to do."""

import huggingface_hub
import pytest
import timm
import torch
import torchvision
import transformers
from safetensors.torch import save_file

from hpc.study.fetch import fetch
from hpc.study.study import load_study

STUDY = """
name: weights
stimuli: images
models:
  - {name: here, library: torchvision, architecture: squeezenet1_1}
  - {name: hub, library: timm, architecture: test_resnet.r160_in1k}
  - {name: mixed, library: transformers, architecture: lab/small-vit, weights: shuffled}
  - {name: drawn, library: torchvision, architecture: resnet18, weights: untrained}
  - {name: own, library: timm, architecture: test_vit, weights: shuffled, checkpoint: own.pt}
responses:
  - {reader: bids, path: bids}
"""


@pytest.fixture
def caches(tmp_path, monkeypatch):
    """Caches of both libraries that hold one network each, and no network."""
    checkpoints = tmp_path / "torch" / "checkpoints"
    snapshot = tmp_path / "hf" / "models--timm--test_resnet.r160_in1k" / "snapshots" / "0123"
    checkpoints.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    refs = snapshot.parents[1] / "refs"
    refs.mkdir()
    (refs / "main").write_text("0123")
    url = torchvision.models.get_model_weights("squeezenet1_1").DEFAULT.url
    weights = torchvision.models.squeezenet1_1(weights=None).state_dict()
    torch.save(weights, checkpoints / url.rpartition("/")[2])
    save_file(timm.create_model("test_resnet").state_dict(), snapshot / "model.safetensors")
    vit = tmp_path / "hf" / "models--lab--small-vit" / "snapshots" / "4567"
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2, "image_size": 32}
    config = transformers.ViTConfig(**sizes, num_attention_heads=1, num_labels=3)
    transformers.ViTForImageClassification(config).save_pretrained(vit)
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(vit)
    (vit.parents[1] / "refs").mkdir()
    (vit.parents[1] / "refs" / "main").write_text("4567")
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "torch"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    return tmp_path


def study(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(STUDY)
    return load_study(path)


def test_weights_that_are_there_are_found(caches):
    found = list(fetch(study(caches)))
    assert [(f.model, f.path.name) for f in found] == [
        ("here", "squeezenet1_1-b8a52dc0.pth"),
        ("hub", "models--timm--test_resnet.r160_in1k"),
        ("mixed", "models--lab--small-vit"),
    ]
    assert all(f.path.exists() for f in found)
    assert found[0].n_bytes == found[0].path.stat().st_size
    assert (
        found[1].n_bytes == (found[1].path / "snapshots/0123/model.safetensors").stat().st_size + 4
    )


def test_weights_that_are_nowhere_are_named(caches):
    (caches / "torch/checkpoints/squeezenet1_1-b8a52dc0.pth").unlink()
    with pytest.raises(FileNotFoundError, match=r"download https\S+ and save it as \S+checkpoints"):
        list(fetch(study(caches)))
