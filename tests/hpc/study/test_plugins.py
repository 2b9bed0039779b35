"""Objectives with a bank, heads and modules of a lab's own: refused, planned and extracted."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
import zarr
from safetensors.torch import save_file

from gradenc_core.signals.objectives import OBJECTIVES
from gradenc_core.stimuli.generated import write_images
from hpc.plan.extract import extract_plans
from hpc.plan.prepare import prepare_plans
from hpc.plan.store_plan import StorePlan
from hpc.plan.subjects import Targets
from hpc.study.plugins import find_losses
from hpc.study.resolve import resolve
from hpc.study.study import Study, StudyError, load_study
from jobs.runner import run_items
from jobs.spec import Reference
from storage_schemas.protocol.commit import is_committed
from storage_schemas.protocol.seal import seal
from storage_schemas.protocol.store import Store

LOSSES = """
import torch
from gradenc_core.signals.objectives import needs, signal

def sparsity(readout, context, draw):
    return readout.pooled.abs().sum(dim=1)

@needs("bank")
def novelty(readout, context, draw):
    return -context.bank.logits(readout.pooled).logsumexp(dim=1)

def coupled(readout, context, draw):
    return (readout.pooled - readout.pooled.mean(dim=0)).square().sum(dim=1)

def head(embeddings):
    return embeddings[:, :5] * 3

def flat_head(embeddings):
    return embeddings.sum(dim=1)

def changing_head(embeddings):
    return embeddings.mul_(2)

def coupled_head(embeddings):
    return embeddings - embeddings.mean(dim=0)

@signal(of="energy")
def same(activations, gradients):
    return gradients

@signal(of="novelty")
def relevance(activations, gradients):
    return [h.mul_(g) for h, g in zip(activations, gradients, strict=True)]

@signal(of="energy")
def coupled_rule(activations, gradients):
    return [g - g.mean(dim=0) for g in gradients]

@signal(of="energy")
def narrow(activations, gradients):
    return [g[:, :1] for g in gradients]

@signal(of="nothing")
def lost(activations, gradients):
    return gradients
"""
GRADIENTS = "signals=[forward, gradient]"
OBJECTIVE_SET = ["dino", "contrastive", "masked", "energy", "losses:novelty"]


@pytest.fixture(scope="module")
def folder(small_data: dict, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plugins")
    (folder / "losses.py").write_text(LOSSES)
    write_images(folder / "bank", 256, 16, 5)
    vit = {
        "name": "vit",
        "library": "timm",
        "architecture": "test_vit",
        "weights": "untrained",
        "image_size": 32,
    }
    data = small_data | {
        "models": [vit],
        "layers": ["blocks.0", "blocks.5"],
        "objectives": OBJECTIVE_SET,
        "signals": ["forward", "gradient", "losses:same", "losses:relevance"],
        "bank": "bank",
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(data))
    return folder


def load(folder: Path, *overrides: str) -> Study:
    return load_study(folder / "study.yaml", overrides)


def run_all(plans: list[StorePlan], root: Path, micro_batch: int = 16) -> dict[str, Store]:
    """Make every unit of the planned stores, in this process, and seal them."""
    stores = {f"{p.stage}/{p.label}": p.create(root) for p in plans}
    items = [
        [(store.path.relative_to(root).as_posix(), unit.index)]
        for store in stores.values()
        for unit in store.units
    ]
    run_items(items, root=root, job="test", round_=0, micro_batch=micro_batch, threads=1)
    for store in stores.values():
        assert all(is_committed(store, unit) for unit in store.units), store.label
        seal(store)
    return stores


@pytest.fixture(scope="module")
def made(folder: Path) -> dict[str, Store]:
    """Return the stores of prepare and extract of a study with every kind of need."""
    study = load(folder)
    resolved, subjects = resolve(study)
    targets = [Targets.of_subject(subject) for subject in subjects]
    prepared = run_all(list(prepare_plans(study, resolved)), folder)
    references = {name: Reference.of(store) for name, store in prepared.items()}
    extracted = [
        p
        for p in extract_plans(study, resolved, targets, references)
        if p.label.startswith(("vit", "stability-vit-gradient-masked", "stability-vit-gradient-en"))
        and "set" not in p.label
    ]
    return prepared | run_all(extracted, folder)


def test_every_objective_is_extracted(made: dict[str, Store]) -> None:
    bank = made["prepare/vit-bank"].dataset()
    assert dict(bank.sizes) == {"byte": 32, "item": 256, "channel": 64, "prototype": 256}
    np.testing.assert_allclose(bank["pooled_mean"], bank["pooled"].mean("item"))
    np.testing.assert_allclose(np.linalg.norm(bank["prototypes"], axis=1), 1)
    features = {}
    for name in ("dino", "contrastive", "masked", "energy", "novelty"):
        classes = made[f"prepare/vit-gradient-{name}"].dataset()["signal_class"].values
        assert classes[0] == 0, name
        features[name] = made[f"extract/vit-gradient-{name}"].dataset()["features"].values
        assert np.isfinite(features[name]).all()
    assert len({f[0].tobytes() for f in features.values()}) == len(features)


def test_a_signal_gets_the_true_gradients(made: dict[str, Store]) -> None:
    features = {
        name: made[f"extract/vit-{name}"].dataset()["features"].values
        for name in ("gradient-energy", "signal-same", "signal-relevance")
    }
    assert features["signal-same"].tobytes() == features["gradient-energy"].tobytes()
    assert np.isfinite(features["signal-relevance"]).all()
    assert not np.allclose(features["signal-relevance"], features["gradient-energy"])
    classes = made["prepare/vit-signal-relevance"].dataset()["signal_class"].values
    assert (classes == 0).all()


def test_bytes_do_not_depend_on_the_shard_or_the_other_sources(
    made: dict[str, Store], folder: Path
) -> None:
    study = load(folder, "extraction.stimuli_per_shard=8", "objectives=[dino, masked]", GRADIENTS)
    resolved, subjects = resolve(study)
    references = {n: Reference.of(s) for n, s in made.items() if n.startswith("prepare/")}
    targets = [Targets.of_subject(subject) for subject in subjects]
    plans = list(extract_plans(study, resolved, targets, references))
    stores = [p.create(folder) for p in plans if p.spec.source != "forward"]
    second = [(store.path.relative_to(folder).as_posix(), 1) for store in stores[:2]]
    run_items([second], root=folder, job="test", round_=0, micro_batch=16, threads=1)
    for store in stores[:2]:
        whole = made[f"extract/{store.label}"]
        part, same = (zarr.open_array(s.data / "features")[:, 8:16] for s in (store, whole))
        assert np.isfinite(part).all()
        assert part.tobytes() == same.tobytes()


def test_energy_alone_needs_no_bank(folder: Path) -> None:
    study = load(folder, "objectives=[energy]", GRADIENTS)
    resolved, _ = resolve(study)
    kinds = [plan.kind for plan in prepare_plans(study, resolved)]
    assert kinds == ["prepared", *["scales"] * 3, "classes"]


def test_reliability_is_over_what_is_drawn(made: dict[str, Store]) -> None:
    found = {
        store.attrs["source"]: store.dataset()["reliability"].values
        for store in made.values()
        if store.kind == "stability"
    }
    assert (found["gradient:energy"] == 1).all()
    assert ((found["gradient:masked"] > 0) & (found["gradient:masked"] < 1)).all()


def identities(study: Study, tmp_path: Path) -> dict[str, str]:
    resolved, subjects = resolve(study)
    plans = list(prepare_plans(study, resolved))
    reference = Reference(stage="planned", identity="planned", seal="planned")
    references = {f"{p.stage}/{p.label}": reference for p in plans}
    targets = [Targets.of_subject(subject) for subject in subjects]
    plans += extract_plans(study, resolved, targets, references)
    return {f"{p.stage}/{p.label}": p.create(tmp_path).identity for p in plans}


def test_what_an_objective_is_made_of_is_in_its_identity(folder: Path, tmp_path: Path) -> None:
    before = identities(load(folder), tmp_path)
    assert identities(load(folder), tmp_path) == before
    (folder / "losses.py").write_text(LOSSES + "\n# changed\n")
    save_file(
        {
            "mlp.0.weight": torch.eye(64),
            "mlp.0.bias": torch.zeros(64),
            "last_layer.weight": torch.ones(3, 64),
        },
        folder / "head.safetensors",
    )
    write_images(folder / "other", 257, 16, 6)
    try:
        changed = {
            override: {
                k
                for k, v in identities(load(folder, *override), tmp_path).items()
                if before[k] != v
            }
            for override in ((), ("dino_head=head.safetensors",), ("bank=other",))
        }
    finally:
        (folder / "losses.py").write_text(LOSSES)

    def labels(name: str) -> set[str]:
        label = f"vit-{name}"
        scales = f"prepare/{label}-scales"
        return {f"prepare/{label}", scales, f"extract/{label}", f"extract/stability-{label}"}

    own = labels("gradient-novelty") | labels("signal-same") | labels("signal-relevance")
    own |= {"prepare/vit-baseline-scales", "extract/vit-baseline"}  # it has their losses
    assert changed[()] == own
    assert changed["dino_head=head.safetensors",] == own | labels("gradient-dino")
    on_images = {
        label
        for label in before
        if label.startswith(("prepare/vit-gradient", "prepare/vit-signal", "extract/stability-vit"))
    }
    on_images |= {"prepare/vit-bank", "prepare/vit-forward-scales"}
    assert changed["bank=other",] == own | on_images


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["objectives=['losses:coupled']"],
            r'objectives\[0\]: given "losses:coupled"; the objective'
            " coupled gives a stimulus another gradient beside other stimuli",
        ),
        (
            ["signals=[forward, 'losses:coupled_rule']", "objectives=[]"],
            r'signals\[1\]: given "losses:coupled_rule"; the signal coupled_rule gives a stimulus',
        ),
        (["signals=[forward, gradient, 'losses:narrow']"], r"signal:narrow has shapes .* return"),
        (["signals=[forward, gradient, 'losses:lost']"], r"takes the gradients of 'nothing'; decl"),
        (["objectives=['losses:nothing']"], "has no function 'nothing'; give module:function"),
        (["objectives=['losses:forward']"], "forward is what the results call activations; give"),
        (["objectives=['nowhere:loss']"], "there is no module 'nowhere' in .*, and none is inst"),
        (["dino_head=nowhere.safetensors"], 'dino_head: given "nowhere.safetensors"; there is no '),
        (["bank=nowhere"], 'bank: given "nowhere"; accepted: a folder of images; there is none'),
        (
            ["dino_head='losses:coupled_head'"],
            "depend on nothing else in the batch; take",
        ),
        (["dino_head='losses:changing_head'"], "does not work in place on the embeddings; copy"),
        (["dino_head='losses:flat_head'"], r"maps embeddings \(n, 64\) to logits .* made \(3,\)"),
    ],
)
def test_what_cannot_run_is_refused(folder: Path, overrides: list[str], message: str) -> None:
    study = load(folder, *overrides)
    with pytest.raises(StudyError, match=message):
        resolve(study)


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("import no_such_library", "ModuleNotFoundError: No module named 'no_such_library'"),
        ("def loss(:", "SyntaxError: invalid syntax"),
        ("SCALE = 1 / 0", "ZeroDivisionError: division by zero"),
    ],
)
@pytest.mark.parametrize(
    "override",
    ["objectives=['broken:x']", "signals=[forward, gradient, 'broken:x']", "dino_head='broken:x'"],
)
def test_a_module_that_cannot_be_imported_is_refused(
    folder: Path, source: str, error: str, override: str
) -> None:
    (folder / "broken.py").write_text(source)
    study = load(folder, override)
    with pytest.raises(StudyError, match=rf"broken.py cannot be imported \({error}.*\); correct"):
        resolve(study)


def test_a_module_of_a_package_that_cannot_be_imported_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_lab").mkdir()
    (tmp_path / "broken_lab" / "__init__.py").write_text("SCALE = 1 / 0")
    (tmp_path / "broken_lab" / "losses.py").write_text(LOSSES)
    monkeypatch.syspath_prepend(tmp_path)
    study = load(folder, "objectives=['broken_lab.losses:sparsity']")
    with pytest.raises(StudyError, match=r"installed \(ZeroDivisionError: .*; put its file"):
        resolve(study)


def test_a_small_bank_is_refused(folder: Path, tmp_path: Path) -> None:
    write_images(tmp_path / "few", 3, 16, 0)
    with pytest.raises(StudyError, match=r"bank: .*at least 256 distinct images.*it holds 3"):
        resolve(load(folder, f"bank={tmp_path / 'few'}"))


def test_a_head_of_a_module_is_used(folder: Path) -> None:
    study = load(folder, "dino_head='losses:head'")
    source = resolve(study)[0].gradients["gradient:dino"]
    assert source.head is not None
    assert source.head.entry == "losses:head"


def test_an_installed_package_offers_objectives(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "their_lab-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-lab\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[gradenc.objectives]\nquiet = their_lab:sparsity\n")
    (tmp_path / "their_lab.py").write_text(LOSSES)
    monkeypatch.syspath_prepend(tmp_path)
    study = load(folder, "objectives=[energy, quiet]", GRADIENTS)
    problems: list[str] = []
    found = find_losses(study, problems).found["quiet"]
    assert not problems
    assert found.path == (tmp_path / "their_lab.py").resolve()
    assert found.objective.sources == ("gradient:quiet",)
    assert "quiet" not in OBJECTIVES
