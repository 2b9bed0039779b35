"""What makes a study's stores new, and what never does; who shares them; what nobody uses."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
import yaml
from PIL import Image

from gradenc_core.models.model import VisionModel, load_model
from hpc.plan.stages import all_plans
from hpc.run.start import start
from hpc.study.resolve import resolve
from hpc.study.resolved import Resolved
from hpc.study.study import load_study
from jobs import models
from jobs.spec import PreparedSpec
from storage_schemas.identity import digest
from storage_schemas.kinds.registry import KINDS
from storage_schemas.protocol.store import Store

GRADENC = str(Path(sys.executable).with_name("gradenc"))
Identities = dict[str, str]


def gradenc(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([GRADENC, *map(str, arguments)], capture_output=True, text=True)


@pytest.fixture
def data(small_data: dict, small_files: Path, tmp_path: Path) -> dict[str, Any]:
    """The small study with stimuli of its own, which a test may change."""
    shutil.copytree(small_files / "stimuli", tmp_path / "stimuli")
    return small_data | {"stimuli": str(tmp_path / "stimuli")}


def identities(data: dict[str, Any], folder: Path) -> Identities:
    """Return the identity of every store that the study would need, by stage and label."""
    path = folder / "any.yaml"
    path.write_text(yaml.safe_dump(data))
    study = load_study(path)
    resolved, subjects = resolve(study)
    return {
        f"{p.stage}/{p.label}": digest(
            {
                "kind": p.kind,
                "schema_version": KINDS[p.kind].schema_version,
                "algorithm_version": KINDS[p.kind].algorithm_version,
                "spec": p.spec.canonical(),
            }
        )
        for p in all_plans(study, resolved, subjects)
    }


def changed(before: Identities, after: Identities) -> set[str]:
    return {label.partition("/")[0] for label in before if after.get(label) != before[label]}


def model(**changes: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda data: data | {"models": [data["models"][0] | changes]}


def study(**changes: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda data: data | changes


def repaint(data: dict[str, Any]) -> dict[str, Any]:
    """Change one pixel of one stimulus."""
    path = sorted(Path(data["stimuli"]).glob("*.png"))[3]
    image = Image.open(path).convert("RGB")
    image.putpixel((0, 0), (1, 2, 3))
    image.save(path)
    return data


NEW = {
    "weights": (model(seed=7), {"prepare", "extract"}),
    "architecture": (model(architecture="resnet34"), {"prepare", "extract"}),
    "image size": (model(image_size=32), {"prepare", "extract"}),
    "stimulus bytes": (repaint, {"extract", "ingest", "encode"}),
    "projection": (study(projection=8), {"extract"}),
    "layers": (study(layers=["layer1.0", "layer2.0"]), {"extract", "encode"}),
    "gradient scale": (study(gradient_scale="raw"), {"extract"}),
    "seed": (study(seed=5), {"extract", "encode", "compare"}),
    "objective": (study(objectives=["energy"]), {"prepare", "extract", "encode"}),
}


@pytest.mark.parametrize("change", NEW)
def test_what_changes_results_never_reuses_them(
    data: dict[str, Any], tmp_path: Path, change: str
) -> None:
    """Seals are placeholders in a plan, so this shows each stage's own part of the identity."""
    before = identities(data, tmp_path)
    apply, stages = NEW[change]
    assert stages <= changed(before, identities(apply(data), tmp_path))


def pretrained(seed: int, folder: Path) -> None:
    """Save what passes for ResNet-18's published weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        state = torchvision.models.resnet18().state_dict()
    path = folder / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path)


def test_other_weights_under_the_same_name_are_a_new_store(
    data: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    data = model(weights="pretrained")(data)
    pretrained(0, tmp_path)
    before = identities(data, tmp_path)
    assert identities(data, tmp_path) == before
    pretrained(1, tmp_path)
    assert {"prepare", "extract"} <= changed(before, identities(data, tmp_path))


def test_weights_that_changed_since_planning_are_refused(
    data: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    pretrained(0, tmp_path)
    path = tmp_path / "any.yaml"
    path.write_text(yaml.safe_dump(model(weights="pretrained")(data)))
    (resolved,) = resolve(load_study(path))[0].models
    models.load.cache_clear()
    assert models.load(resolved.spec)[1] == resolved.spec.weights_digest
    models.load.cache_clear()
    pretrained(1, tmp_path)
    with pytest.raises(ValueError, match="resnet18 here differ from those that the study was plan"):
        models.load(resolved.spec)


def test_a_checkpoint_is_its_tensors_wherever_it_lies(data: dict[str, Any], tmp_path: Path) -> None:
    pretrained(0, tmp_path)
    path = tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    before = identities(model(weights="checkpoint", checkpoint=str(path))(data), tmp_path)
    path.rename(tmp_path / "moved.pth")
    moved = model(weights="checkpoint", checkpoint="moved.pth")(data)
    assert identities(moved, tmp_path) == before
    shuffled = model(weights="shuffled", checkpoint="moved.pth")(data)
    assert {"prepare", "extract"} <= changed(before, identities(shuffled, tmp_path))
    pretrained(1, tmp_path)
    path.replace(tmp_path / "moved.pth")
    assert {"prepare", "extract"} <= changed(before, identities(moved, tmp_path))


def test_jobs_find_the_checkpoint_of_the_study(data: dict[str, Any], tmp_path: Path) -> None:
    pretrained(0, tmp_path)
    path = tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    run = submit_plan(model(weights="shuffled", checkpoint=str(path))(data), tmp_path, "run")
    (store,) = (Store.open(p) for p in (tmp_path / "root" / "prepare").glob("*-planted"))
    spec = PreparedSpec.model_validate(store.spec)
    assert store.locations == {"checkpoint": str(path)}
    assert models.load(spec.model, str(path))[1] == spec.model.weights_digest
    assert Resolved.read(run / "resolved.json").models[0].checkpoint == str(path)


def test_other_preprocessing_of_a_library_is_a_new_store(
    data: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A library's next version may resize or normalise otherwise under the same names."""
    before = identities(data, tmp_path)

    def load_other(*arguments: Any, **options: Any) -> VisionModel:
        loaded = load_model(*arguments, **options)
        return replace(loaded, preprocessing=replace(loaded.preprocessing, mean=(0.5, 0.5, 0.5)))

    monkeypatch.setattr("jobs.models.load_model", load_other)
    assert {"prepare", "extract"} <= changed(before, identities(data, tmp_path))


def test_a_new_algorithm_is_a_new_store(
    data: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = identities(data, tmp_path)
    monkeypatch.setitem(KINDS, "features", replace(KINDS["features"], algorithm_version=99))
    assert changed(before, identities(data, tmp_path)) == {"extract"}


@pytest.mark.parametrize(
    "apply",
    [
        study(name="other"),
        model(name="another-name"),
        lambda data: (
            data | {"stimuli": os.path.relpath(data["stimuli"], Path(data["stimuli"]).parent)}
        ),
    ],
    ids=["name of the study", "name of the model", "way to the stimuli"],
)
def test_what_does_not_change_results_reuses_them(
    data: dict[str, Any], tmp_path: Path, apply: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    before = set(identities(data, tmp_path).values())
    assert set(identities(apply(data), tmp_path).values()) == before


def test_a_study_resolved_by_another_version_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "resolved.json").write_text('{"study": {}}')
    with pytest.raises(ValueError, match=r"resolved\.json is damaged or another version's; submit"):
        Resolved.read(tmp_path / "resolved.json")


def submit_plan(data: dict[str, Any], folder: Path, name: str) -> Path:
    """Plan the first stages of a study without running anything."""
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(data | {"name": name, "store_root": str(folder / "root")}))
    return start(load_study(path), folder / name).path


@pytest.fixture
def two_runs(data: dict[str, Any], tmp_path: Path) -> tuple[Path, Path]:
    first = submit_plan(data, tmp_path, "first")
    return first, submit_plan(model(seed=7)(data), tmp_path, "second")


def test_explain_names_what_differs(two_runs: tuple[Path, Path]) -> None:
    result = gradenc("explain", *two_runs)
    assert result.returncode == 0, result.stderr
    assert "prepare/planted: " in result.stdout
    assert "model.seed: 0 -> 7" in result.stdout
    assert "ingest/sub-01-fmri: the same identity" in result.stdout
    stores = sorted((two_runs[0].parent / "root" / "prepare").glob("*-planted"))
    assert "model.seed" in gradenc("explain", stores[0], stores[1] / "data.zarr").stdout


def test_du_and_gc(two_runs: tuple[Path, Path], tmp_path: Path) -> None:
    root = tmp_path / "root"
    used = {e["store"]: e for e in json.loads(gradenc("du", root, "--json").stdout)}
    shared = [e for e in used.values() if len(e["runs"]) == 2]
    assert {e["store"].partition("/")[0] for e in shared} == {"ingest"}
    assert all(e["bytes"] > 0 and e["files"] >= 2 for e in used.values())
    assert "is used" in gradenc("gc", two_runs[0]).stdout

    shutil.rmtree(two_runs[1])
    refused = gradenc("gc", root, "--delete")
    assert refused.returncode == 1
    assert f"--forget {two_runs[1]}" in " ".join(refused.stderr.split())
    listed = gradenc("gc", root, "--forget", two_runs[1])
    assert "can be freed" in listed.stdout
    assert {e["store"] for e in json.loads(gradenc("du", root, "--json").stdout)} == set(used)

    alone = {e["store"] for e in used.values() if e["runs"] == [str(two_runs[1])]}
    assert alone
    assert f"removed {len(alone)} store(s)" in gradenc("gc", root, "--delete").stdout
    kept = {e["store"] for e in json.loads(gradenc("du", two_runs[0], "--json").stdout)}
    assert kept == set(used) - alone
    assert gradenc("verify", two_runs[0]).returncode == 0


def test_a_folder_without_stores_is_refused(tmp_path: Path) -> None:
    result = gradenc("gc", tmp_path, "--delete")
    assert result.returncode == 1
    assert "nor a store root" in result.stderr
