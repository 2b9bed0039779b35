"""Resolving a study: one pass that checks it; what it builds, hashes and runs, counted."""

import gc
import hashlib
import os
import shutil
import subprocess
import sys
import weakref
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

import gradenc_core.models.model
import gradenc_core.stimuli.images
import jobs.models
from gradenc_core.stimuli.generated import write_images
from hpc.cli.app import app
from hpc.run.start import start
from hpc.study.resolve import NetworkTurn, resolve
from hpc.study.resolved import Resolved
from hpc.study.study import StudyError, load_study

LOSSES = """
import os
from pathlib import Path
from gradenc_core.signals.objectives import signal

with (Path(__file__).parent / f"ran-{os.getpid()}").open("a") as file:
    file.write("once ")

def sparsity(readout, context, draw):
    return readout.pooled.abs().sum(dim=1)

def energy_like(readout, context, draw):
    return readout.pooled.square().sum(dim=1)

@signal(of="sparsity")
def same(activations, gradients):
    return gradients
"""

N_STIMULI = 96


@pytest.fixture
def study(small_data: dict, tmp_path: Path) -> Path:
    """Write a study with two networks and a module of the lab's own beside it."""
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "losses.py").write_text(LOSSES)
    brick = np.random.default_rng(0).integers(0, 255, (256, 16, 16, 3), dtype=np.uint8)
    (tmp_path / "lab" / "bank").mkdir()
    with h5py.File(tmp_path / "lab" / "bank" / "images.hdf5", "w") as file:
        file["images"] = brick
    (network,) = small_data["models"]
    data = small_data | {
        "models": [network, network | {"name": "other", "seed": 1}],
        "objectives": ["contrastive", "losses:sparsity", "losses:energy_like"],
        "signals": ["forward", "gradient", "losses:same"],
        "bank": "bank",
    }
    path = tmp_path / "lab" / "study.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


class Counted:
    """Networks built, and files read for their digests, in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.built: Counter[tuple[str, int]] = Counter()
        self.hashed: Counter[Path] = Counter()
        describe = gradenc_core.models.model.from_module
        read_images, digest = gradenc_core.stimuli.images._digests, hashlib.file_digest

        def from_module(*arguments: Any, **keys: Any) -> Any:
            if "architecture" in keys:  # not those of the conformance test
                self.built[keys["architecture"], keys["seed"]] += 1
            return describe(*arguments, **keys)

        def digests(path: Path) -> Iterator[str]:
            self.hashed[path] += 1
            return read_images(path)

        def file_digest(file: Any, name: str) -> Any:
            self.hashed[Path(file.name)] += 1
            return digest(file, name)

        monkeypatch.setattr("gradenc_core.models.model.from_module", from_module)
        monkeypatch.setattr("gradenc_core.stimuli.images._digests", digests)
        monkeypatch.setattr("hashlib.file_digest", file_digest)

    def are_once(self, study: Path) -> None:
        """Check that two networks, every file and the module were there, each once."""
        assert self.built == {("resnet18", 0): 1, ("resnet18", 1): 1}
        assert (study.parent / f"ran-{os.getpid()}").read_text() == "once "
        assert set(self.hashed.values()) == {1}
        suffixes = Counter(path.suffix for path in self.hashed)
        assert suffixes[".png"] == N_STIMULI
        assert {".py", ".hdf5", ".fif", ".gz", ".tsv"} < set(suffixes)


def invoke(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


def test_submit_builds_hashes_and_runs_everything_once(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted, run = Counted(monkeypatch), tmp_path / "run"
    invoke("submit", study, "--run", run, "--no-wait")
    invoke("cancel", run)
    counted.are_once(study)


def test_plan_builds_hashes_and_runs_everything_once(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Counted(monkeypatch)
    invoke("plan", study)
    counted.are_once(study)


def test_a_network_is_let_go_before_the_next_is_built(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: list[weakref.ref[Any]] = []
    load = jobs.models.load_model

    def load_model(*arguments: Any, **keys: Any) -> Any:
        gc.collect()
        assert not [module for module in alive if module() is not None]
        network = load(*arguments, **keys)
        alive.append(weakref.ref(network.module))
        return network

    monkeypatch.setattr("jobs.models.load_model", load_model)
    names: list[str] = []

    def visit(turn: NetworkTurn) -> None:
        names.append(turn.built.described.name)
        assert [model.name for model in turn.resolved.models] == names[-1:]

    resolve(load_study(study), visit)
    assert names == ["planted", "other"]
    assert len(alive) == 2


def test_one_refusal_names_the_problems_of_every_part(study: Path) -> None:
    overrides = [
        "stimuli=nowhere",
        "labels=nothing.csv",
        "objectives=[energy, 'losses:nothing']",
        "layers=[layer9]",
        "models[1].architecture=resnet81",
    ]
    with pytest.raises(StudyError) as caught:
        resolve(load_study(study, overrides))
    keys = [line.removeprefix(f"{study}: ").split(":")[0] for line in str(caught.value).split("\n")]
    assert keys[:3] == ["stimuli", "labels", "objectives[1]"]
    assert keys[-2:] == ["layers[0]", "models[1].architecture"]


def test_problems_of_images_recordings_and_networks_are_named_together(
    study: Path, small_files: Path, tmp_path: Path
) -> None:
    shutil.copytree(small_files / "bids", tmp_path / "bids")
    events = sorted((tmp_path / "bids").rglob("*_events.tsv"))[0]
    events.write_text(events.read_text().replace("000", "999"))
    overrides = [f"responses[0].path={tmp_path / 'bids'}", "layers=[layer9]", "bank=few"]
    write_images(study.parent / "few", 3, 16, 0)
    with pytest.raises(StudyError) as caught:
        resolve(load_study(study, overrides))
    message = str(caught.value)
    assert "it holds 3" in message
    assert "is no image of the stimulus folder" in message
    assert 'layers[0]: given "layer9"; model other' in message


def test_images_are_not_read_for_a_study_whose_names_are_wrong(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Counted(monkeypatch)
    with pytest.raises(StudyError, match="nowhere"):
        resolve(load_study(study, ["responses[1].path=nowhere"]))
    assert {path.suffix for path in counted.hashed} == {".py"}


@pytest.mark.parametrize("command", ["plan", "submit"])
def test_a_missing_study_is_refused_before_slow_imports(command: str, tmp_path: Path) -> None:
    code = (
        "import sys; from hpc.cli.app import main\n"
        "try: main()\n"
        "finally: print(sorted({'torch', 'mne', 'timm'} & set(sys.modules)))"
    )
    arguments = [sys.executable, "-c", code, command, str(tmp_path / "study.yaml")]
    refused = subprocess.run(arguments, capture_output=True, text=True)
    assert refused.returncode == 1
    assert "no such file" in refused.stderr
    assert refused.stdout.strip() == "[]"


@pytest.fixture
def relative(study: Path, small_files: Path) -> Path:
    """Write a study whose paths count from its folder, which holds its module and its data."""
    data = yaml.safe_load(study.read_text())
    for name in ("stimuli", "bids", "meg"):
        (study.parent / name).symlink_to(small_files / name)
    data["stimuli"] = "stimuli"
    for responses, name in zip(data["responses"], ("bids", "meg"), strict=True):
        responses["path"] = name
    study.write_text(yaml.safe_dump(data | {"store_root": "root"}))
    return study


def test_the_copy_in_a_run_can_be_submitted_again(relative: Path, tmp_path: Path) -> None:
    run = start(load_study(relative), tmp_path / "run")
    copy = run.path / "study.yaml"
    before = run.resolved.read_bytes()
    again = start(load_study(copy), run.path)
    assert again.resolved.read_bytes() == before
    assert again.root == run.root == relative.parent / "root"
    new = start(load_study(copy), tmp_path / "new")
    assert Resolved.read(new.resolved) == Resolved.read(run.resolved)
    for stage in ("prepare", "ingest"):
        assert {s.identity for s in new.stores(stage)} == {s.identity for s in run.stores(stage)}
