"""Files of a lab's own: hashed and run once, refused once they change, named when they fail."""

import pickle
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from gradenc_core.signals.objectives import OBJECTIVES
from jobs import plugins
from jobs.plugins import CHECKPOINT, Modules, require_unchanged
from jobs.spec import ObjectiveSpec, PluginSpec
from storage_schemas.files import file_digest

LOSSES = """
from dataclasses import dataclass
from pathlib import Path

from gradenc_core.signals.objectives import signal

with (Path(__file__).parent / "ran").open("a") as file:
    file.write("once ")

NOT_A_FUNCTION = 3


@dataclass
class Weights:
    scale: float = 2.0


def sparsity(readout, context, draw):
    return Weights().scale * readout.pooled.abs().sum(dim=1)


@signal(of="sparsity")
def relevance(activations, gradients):
    return gradients


def head(embeddings):
    return embeddings[:, :2]
"""


@pytest.fixture
def losses(tmp_path: Path) -> Path:
    path = tmp_path / "the_labs_losses.py"
    path.write_text(LOSSES)
    return path


def spec(path: Path, function: str) -> PluginSpec:
    entry = f"{path.stem}:{function}"
    return PluginSpec(name=function, entry=entry, digest=file_digest(path))


def test_a_file_is_run_once_whatever_is_taken_from_it(losses: Path) -> None:
    parts = [
        ObjectiveSpec(plugin=spec(losses, "sparsity"), head=spec(losses, "head")),
        ObjectiveSpec(plugin=spec(losses, "sparsity"), signal=spec(losses, "relevance")),
    ]
    locations = dict.fromkeys(("objective", "signal", "head"), str(losses))
    objectives, head = plugins.load([(part, locations) for part in parts])
    assert (losses.parent / "ran").read_text() == "once "
    assert set(objectives) == {*OBJECTIVES, "sparsity", "relevance"}
    assert objectives["sparsity"].sources == ("gradient:sparsity",)
    assert objectives["relevance"].loss is objectives["sparsity"].loss
    assert head is not None
    assert head(torch.ones(3, 5)).shape == (3, 2)


def test_parts_without_a_file_of_the_labs_are_the_shipped_objectives() -> None:
    assert plugins.load([(ObjectiveSpec(), {})]) == (OBJECTIVES, None)


def test_a_file_is_hashed_once(losses: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[Path] = []

    def counted(path: Path) -> str:
        hashed.append(path)
        return file_digest(path)

    monkeypatch.setattr(plugins, "file_digest", counted)
    modules = Modules()
    digest = modules.digest(losses)
    for function in ("sparsity", "head"):
        named = PluginSpec(name=function, entry=f"x:{function}", digest=digest)
        modules.objective(named, losses)
    assert hashed == [losses]


def test_a_class_of_the_labs_can_be_pickled_where_its_module_is_not_installed(
    losses: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, losses.stem, raising=False)
    Modules().objective(spec(losses, "sparsity"), losses)
    weights = sys.modules[losses.stem].Weights(3.0)
    assert pickle.loads(pickle.dumps(weights)) == weights
    monkeypatch.delitem(sys.modules, losses.stem)


def test_an_installed_module_of_the_same_name_keeps_its_place(tmp_path: Path) -> None:
    path = tmp_path / "json.py"
    path.write_text("def loss(readout, context, draw):\n    return 'the own'\n")
    before = sys.modules["json"]
    objective = Modules().objective(spec(path, "loss"), path)
    assert objective.loss(None, None, 0) == "the own"
    assert sys.modules["json"] is before


@pytest.mark.parametrize("name", ["nothing", "NOT_A_FUNCTION"])
def test_what_is_no_function_of_the_file_is_refused(losses: Path, name: str) -> None:
    with pytest.raises(ValueError, match=rf"losses.py has no function '{name}'; give module:"):
        Modules().objective(spec(losses, name), losses)


def test_a_file_that_is_no_python_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "losses.txt"
    path.write_text(LOSSES)
    with pytest.raises(ValueError, match=r"losses.txt is no Python module; give module:function"):
        Modules().objective(spec(path, "sparsity"), path)


def test_a_file_that_changed_after_planning_is_never_run(losses: Path) -> None:
    planned = spec(losses, "sparsity")
    losses.write_text(LOSSES + "\n# another\n")
    with pytest.raises(ValueError, match=r"losses.py has changed .* with sparsity; put the old"):
        Modules().objective(planned, losses)
    assert not (losses.parent / "ran").exists()


def test_a_checkpoint_is_read_as_a_head_and_refused_once_it_changed(tmp_path: Path) -> None:
    path = tmp_path / "head.safetensors"
    tensors = {
        "mlp.0.weight": torch.eye(4),
        "mlp.0.bias": torch.zeros(4),
        "last_layer.weight": torch.ones(3, 4),
    }
    save_file(tensors, path)
    planned = PluginSpec(name="dino", entry=CHECKPOINT, digest=file_digest(path))
    assert Modules().head(planned, path)(torch.ones(2, 4)).shape == (2, 3)
    save_file(tensors | {"mlp.0.bias": torch.ones(4)}, path)
    with pytest.raises(ValueError, match=r"head.safetensors has changed"):
        Modules().head(planned, path)


def test_a_file_that_is_gone_or_changed_is_named_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("stimulus,label\n")
    digest = file_digest(path)
    require_unchanged(path, digest, "these labels")
    path.write_text("stimulus,label\na,1\n")
    with pytest.raises(ValueError, match=r"labels.csv has changed .* put the old file back"):
        require_unchanged(path, digest, "these labels")
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"labels.csv, .* is gone; put it back"):
        require_unchanged(path, digest, "these labels")
