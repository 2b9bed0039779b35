"""Extraction against the bare network; prints one JSON line last.

Four ways take the same JPEGs through the same network in micro-batches, one after another in each
round, in turning order; ratios are of one round, reported as median and quartiles over rounds.

ours
    Stage extract as a task runs it (`jobs.runner`): decode, forward, gradients of `energy`, mean of
    patches, projection, committed Zarr shards; forward and gradient features of every block.
bare
    A loop of decode + forward + `torch.autograd.grad` of the same loss for the same layers,
    batches, dtype and threads. Nothing is pooled but for the loss, nothing kept or written.
obvious
    What most would write: parameters require grad, `loss.backward()`, a hook for each layer's
    output and one for its gradient, each `.detach().cpu()`, features kept as whole tensors.
forward
    The bare loop without gradients.

overhead_ratio (<= 1.15)           ours / bare
vs_parameter_gradients (>= 1.25)   obvious / ours; 1.5 is the limit in FLOPs
bare_over_forward (<= 2.3)         bare / forward
bare_over_bare                     the bare loop against itself: what a ratio of 1 looks like here
images_per_second                  of ours; loader_images_per_second: its decoding alone
peak_rss_mb                        of a fresh process that extracts these images once
fraction_of_bare                   on a GPU: 1 / overhead_ratio

Defaults: 96 JPEGs of 425 px, ViT-S/16 at 224 px, batch 16, 2 threads, projection to 512, float32,
5 rounds: less than ten minutes on 2 cores.

Usage: python benchmarks/extract.py [--images N] [--rounds N] [--threads N] [--batch N]
    [--architecture NAME] [--toy]

`--toy` runs the same steps once on four images and timm's test_vit; its figures mean nothing.
"""

import argparse
import multiprocessing
import os
import resource
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mne
import numpy as np
import pandas as pd
import torch
import yaml
from _timing import Line, print_json, print_lines, seconds
from PIL import Image

from gradenc_core.arrays import device
from gradenc_core.models.model import VisionModel
from gradenc_core.stimuli.generated import dead_leaves
from hpc.plan.extract import extract_plans
from hpc.plan.prepare import prepare_plans
from hpc.plan.store_plan import StorePlan
from hpc.plan.subjects import Targets
from hpc.study.resolve import resolve
from hpc.study.study import load_study
from jobs import extract, models
from jobs.runner import Item, run_items
from jobs.spec import FeaturesSpec, Reference
from storage_schemas.protocol.commit import committed_units
from storage_schemas.protocol.seal import seal
from storage_schemas.protocol.store import Store

IMAGE_SIZE, PROJECTION, SHARD = 425, 512, 64
LINES = (
    Line("overhead_ratio", "ours / bare", 1.15),
    Line("bare_over_forward", "bare / forward", 2.3),
    Line("vs_parameter_gradients", "obvious / ours (at least 1.25)"),
    Line("bare_over_bare", "bare / bare"),
    Line("images_per_second", "images per second"),
    Line("loader_images_per_second", "images per second, decoding alone"),
    Line("peak_rss_mb", "peak memory (MB)"),
)


@dataclass(frozen=True)
class Setting:
    """The images and how they are run; a study's plan of stage extract."""

    root: Path
    plans: tuple[StorePlan, ...]
    images: tuple[Path, ...]
    batch: int
    threads: int

    def model(self) -> VisionModel:
        """Return the network, loaded once per process."""
        return models.load(FeaturesSpec.model_validate(self.plans[0].spec.canonical()).model)[0]

    def fresh(self) -> list[Store]:
        """Return the stores with no unit made."""
        shutil.rmtree(self.root / "extract", ignore_errors=True)
        return [plan.create(self.root) for plan in self.plans]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--architecture", default="vit_small_patch16_224")
    parser.add_argument("--toy", action="store_true", help="tiny sizes: does it still run?")
    options = parser.parse_args()
    if options.toy:
        options.images, options.rounds, options.batch = 4, 1, 2
        options.architecture = "test_vit"
    with tempfile.TemporaryDirectory(prefix="extract-") as folder:
        setting = set_up(Path(folder), options)
        found = {"peak_rss_mb": in_a_fresh_process(setting)} | measure(setting, options.rounds)
    print_lines("extraction", LINES, found)
    print_json(
        found
        | vars(options)
        | {"device": device().type, "load_1min": os.getloadavg()[0], "torch": torch.__version__}
    )


def measure(setting: Setting, rounds: int) -> dict[str, Any]:
    """Time all ways in turn and return the ratios."""
    torch.set_num_threads(setting.threads)
    model = setting.model()
    model.module.to(device())
    ways: dict[str, Callable[[], Any]] = {
        "bare": lambda: bare(model, setting, gradients=True),
        "ours": lambda: ours(setting),
        "obvious": lambda: obvious(model, setting),
        "forward": lambda: bare(model, setting, gradients=False),
        "again": lambda: bare(model, setting, gradients=True),
    }
    for way in ways.values():  # a warm-up
        way()
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        for name in list(ways)[:: -1 if number % 2 else 1]:
            times[name].append(seconds(ways[name]))
    n_images = len(setting.images)
    found = {
        **quartiles("overhead_ratio", times["ours"], times["bare"]),
        **quartiles("vs_parameter_gradients", times["obvious"], times["ours"]),
        **quartiles("bare_over_forward", times["bare"], times["forward"]),
        **quartiles("bare_over_bare", times["again"], times["bare"]),
        "images_per_second": n_images / float(np.median(times["ours"])),
        "loader_images_per_second": n_images / seconds(lambda: load(model, setting)),
    }
    if device().type == "cuda":
        found["fraction_of_bare"] = 1 / found["overhead_ratio"]
    return found


def quartiles(name: str, first: list[float], second: list[float]) -> dict[str, float]:
    """Return median and quartiles of the rounds' ratios."""
    values = np.quantile(np.array(first) / np.array(second), [0.25, 0.5, 0.75])
    return dict(zip((f"{name}_q1", name, f"{name}_q3"), map(float, values), strict=True))


def ours(setting: Setting) -> None:
    """Extract and commit, as a task does."""
    stores = setting.fresh()
    items: list[Item] = [
        [(store.reference, unit.index) for store in stores] for unit in stores[0].units
    ]
    run_all(setting, items)
    assert all(len(committed_units(store)) == len(store.units) for store in stores)


def bare(model: VisionModel, setting: Setting, gradients: bool) -> None:
    """Decode, forward, and the gradients of the same loss with respect to the same layers."""
    outputs: list[torch.Tensor] = []
    hooks = [
        model.module.get_submodule(name).register_forward_hook(lambda *a: outputs.append(a[2]))
        for name in model.blocks
    ]
    for images in batches(model, setting):
        outputs.clear()
        with torch.set_grad_enabled(gradients):
            model.module(images.requires_grad_(gradients))
            loss = energy(model, outputs[-1])
        if gradients:
            torch.autograd.grad(loss, outputs)
    if device().type == "cuda":
        torch.cuda.synchronize()
    for hook in hooks:
        hook.remove()


def obvious(model: VisionModel, setting: Setting) -> None:
    """Backpropagate into the parameters, and keep every layer's output and gradient whole."""
    kept: list[torch.Tensor] = []
    last: list[torch.Tensor] = []

    def keep(_module: Any, _inputs: Any, output: torch.Tensor) -> None:
        kept.append(output.detach().cpu())
        output.register_hook(lambda gradient: kept.append(gradient.detach().cpu()))
        last[:] = [output]

    hooks = [model.module.get_submodule(name).register_forward_hook(keep) for name in model.blocks]
    model.module.requires_grad_(True)
    for images in batches(model, setting):
        model.module.zero_grad()
        model.module(images)
        energy(model, last[0]).backward()
    model.module.zero_grad()
    model.module.requires_grad_(False)
    for hook in hooks:
        hook.remove()


def energy(model: VisionModel, output: torch.Tensor) -> torch.Tensor:
    """Half the squared norm of the mean patch, summed over the batch."""
    return output[:, model.n_prefix_tokens :].mean(dim=1).square().sum() / 2


def batches(model: VisionModel, setting: Setting) -> Iterator[torch.Tensor]:
    """Decode in the loop, as a plain script does."""
    for start in range(0, len(setting.images), setting.batch):
        paths = setting.images[start : start + setting.batch]
        yield torch.stack([model.preprocessing.apply(Image.open(path)) for path in paths]).to(
            device()
        )


def load(model: VisionModel, setting: Setting) -> None:
    """Decode as ours does, with nothing else to do."""
    store = setting.fresh()[0]
    signal = FeaturesSpec.model_validate(store.spec).signal
    extractor = extract.build_extractor(model, ["forward"], signal, setting.batch)
    for unit in store.units:
        for _ in extract.load(extractor, store, unit, setting.threads):
            pass


def in_a_fresh_process(setting: Setting) -> float:
    """Return the peak memory of a process that extracts once (MB)."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(extract_once, setting).result()


def extract_once(setting: Setting) -> float:
    """Extract, and return this process's peak memory (MB)."""
    ours(setting)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def set_up(folder: Path, options: argparse.Namespace) -> Setting:
    """Write images, a recording that names them and a study; prepare its network."""
    images = write_images(folder / "stimuli", options.images)
    write_recording(folder / "meg", images)
    study_file = folder / "study.yaml"
    study_file.write_text(yaml.safe_dump(study(options.architecture)))
    chosen = load_study(study_file)
    resolved, subjects = resolve(chosen)
    targets = [Targets.of_subject(subject) for subject in subjects]
    root = folder / "stores"
    setting = Setting(root, (), tuple(images), options.batch, options.threads)
    few = resolved.model_copy(update={"scale_images": resolved.class_images})  # they are not timed
    needed = [p for p in prepare_plans(chosen, few) if p.kind in ("prepared", "scales")]
    prepared = [plan.create(root) for plan in needed]
    run_all(setting, [[(s.reference, 0)] for s in prepared if s.kind == "prepared"])
    run_all(setting, [[(s.reference, 0) for s in prepared if s.kind == "scales"]])
    references = {}
    for store in prepared:
        seal(store)
        reference = Reference.of(store)
        assert reference is not None
        references[f"prepare/{store.label}"] = reference
    plans = extract_plans(chosen, resolved, targets, references)
    # The other ways make no baseline.
    sources = ("forward", "gradient:energy")
    chosen_plans = tuple(p for p in plans if p.kind == "features" and p.attrs["source"] in sources)
    return Setting(root, chosen_plans, tuple(images), options.batch, options.threads)


def run_all(setting: Setting, items: list[Item]) -> None:
    """Run items in this process."""
    run_items(
        items,
        root=setting.root,
        job="benchmark",
        round_=1,
        micro_batch=setting.batch,
        threads=setting.threads,
    )


def study(architecture: str) -> dict[str, Any]:
    model = {"name": "model", "library": "timm", "architecture": architecture}
    return {
        "name": "extract",
        "stimuli": "stimuli",
        "models": [model | {"weights": "untrained"}],
        "objectives": ["energy"],
        "projection": PROJECTION,
        "extraction": {"stimuli_per_shard": SHARD},
        "responses": [{"reader": "epochs", "path": "meg"}],
    }


def write_images(folder: Path, n_images: int) -> list[Path]:
    folder.mkdir()
    rng = np.random.default_rng(0)
    paths = [folder / f"{number:04d}.jpg" for number in range(n_images)]
    for path in paths:
        Image.fromarray(dead_leaves(rng, IMAGE_SIZE)).save(path, quality=90)
    return paths


def write_recording(folder: Path, images: list[Path]) -> None:
    """Write epochs of one sensor that name every image; extraction never reads them."""
    folder.mkdir()
    info = mne.create_info(["MEG 001"], 10.0, "mag", verbose="error")
    metadata = pd.DataFrame({"stim_file": [path.name for path in images], "session": "1"})
    epochs = mne.EpochsArray(
        np.zeros((len(images), 1, 4)), info, tmin=0.0, metadata=metadata, verbose="error"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        epochs.save(folder / "sub-01-epo.fif", overwrite=True, verbose="error")


if __name__ == "__main__":
    main()
