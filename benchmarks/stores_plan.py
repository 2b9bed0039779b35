"""How long it takes to plan many units.

    python benchmarks/stores_plan.py [--folder DIR] [--toy]

plan_100k_units_s
    From a validated and resolved study (images and recordings are hashed once, before) through the
    planner, the ownership check and the fsynced plans of its stores to `run.json`: one model with
    as many shards of one stimulus; `_many_stores` is the same number of units in 100 models.
"""

from pathlib import Path

import numpy as np
import xarray as xr
from _stores import (
    Sizes,
    Values,
    layers_of,
    names,
    run_benchmark,
)
from _timing import (
    Line,
    seconds,
)

from gradenc_core.models.preprocessing import Preprocessing
from gradenc_core.signals.sizes import Parts
from hpc.plan.extract import extract_plans
from hpc.plan.subjects import Targets
from hpc.run.advance import create_stores
from hpc.run.folder import RunFolder
from hpc.study.resolved import Resolved, ResolvedModel
from hpc.study.study import Model, Study
from jobs.spec import BankImages, ModelSpec, Reference

LINES = [
    Line("plan_100k_units_s", "plan of one store, many units (s)", 10),
    Line("plan_100k_units_many_stores_s", "plan of as many units in many stores (s)", 10),
]


def measure_planning(folder: Path, sizes: Sizes) -> Values:
    """Time the planning of extraction, in one large store and in many small ones."""
    n, n_stores = sizes.plan_units, sizes.plan_stores
    return {
        "plan_100k_units_s": _time_planning(folder / "one", 1, n),
        "plan_100k_units_many_stores_s": _time_planning(folder / "many", n_stores, n // n_stores),
        "plan_units": n,
    }


def _time_planning(folder: Path, n_models: int, n_units: int) -> float:
    """Return the time from a validated and resolved study to its stores, recorded in the run."""
    stimuli = names("images/stimulus", n_units)
    study = _study(n_models)
    resolved = Resolved(
        study=study.model_dump(mode="json"),
        stimuli=str(folder),
        stimulus_ids=tuple(stimuli),
        stimulus_digests=tuple(f"{i:064x}" for i in range(n_units)),
        models=tuple(_resolved_model(model) for model in study.models),
        gradients={},
        bank=BankImages(n_images=16),
        class_images=BankImages(n_images=16),
        scale_images=BankImages(n_images=16),
    )
    sessions = ("",) * n_units
    seen = Targets("sub-01", "fmri", tuple(stimuli), np.ones(n_units), sessions, xr.Dataset())
    planned = Reference(stage="prepare", identity="planned", seal="planned")
    prepared = {
        f"prepare/{model.name}{store}": planned
        for model in study.models
        for store in ("", "-forward-scales")
    }
    run_folder = RunFolder.create(folder / "run", study.name, folder / "stores", {})
    return seconds(
        lambda: create_stores(
            run_folder, "extract", extract_plans(study, resolved, [seen], prepared)
        )
    )


def _study(n_models: int) -> Study:
    """Return a study with a unit per stimulus; its files need not exist once it is resolved."""
    model = {"library": "torchvision", "architecture": "resnet18", "weights": "untrained"}
    content = {
        "name": "planned",
        "stimuli": "stimuli",
        "models": [{"name": f"model{i}", "seed": i, **model} for i in range(n_models)],
        "signals": ["forward"],
        "responses": [{"reader": "bids", "path": "bids"}],
        "extraction": {"stimuli_per_shard": 1},
    }
    return Study.model_validate(content)


def _resolved_model(model: Model) -> ResolvedModel:
    """Return a resolved model without building the network."""
    preprocessing = Preprocessing(
        image_size=224,
        resize_size=256,
        squash=False,
        interpolation="bilinear",
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
    )
    spec = ModelSpec(
        **model.model_dump(exclude={"name", "control", "checkpoint"}),
        weights_digest=None,
        preprocessing=preprocessing,
    )
    return ResolvedModel(
        name=model.name,
        control=model.control,
        spec=spec,
        layers=tuple(layers_of(24)),
        widths=(384,) * 24,
        n_channels=384,
        n_parameters=22_000_000,
        layer_values=(197 * 384,) * 24,
        baseline_parts=(Parts((7 * 384,), 1),) * 24,
        n_classes=1000,
        n_head=0,
    )


if __name__ == "__main__":
    run_benchmark("planning stores", LINES, measure_planning)
