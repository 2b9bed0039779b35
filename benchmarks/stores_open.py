"""How long `open_run` takes for a finished run of many models and subjects.

    python benchmarks/stores_open.py [--folder DIR] [--toy]

Each time is that of a new process, without its imports.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import xarray as xr
from _stores import (
    Sizes,
    Values,
    create,
    finish_store,
    layers_of,
    names,
    run_benchmark,
    scores_of,
    sized_features,
)
from _timing import (
    Line,
    fresh_python,
    median_ms,
)

from storage_schemas.kinds.classes import classes_layout
from storage_schemas.kinds.collinearity import collinearity_layout
from storage_schemas.kinds.comparisons import comparisons_layout
from storage_schemas.kinds.prepared import prepared_layout
from storage_schemas.kinds.responses import responses_layout
from storage_schemas.kinds.scores import BEYOND_MEASURES, SINGLE_MEASURES
from storage_schemas.layout import Layout
from storage_schemas.protocol.store import Store
from storage_schemas.runs.run import create_run, record_stores

LINES = [
    Line("open_run_ms", "open_run of a finished run, new process (ms)"),
]


OPEN_RUN = """
import pathlib, sys, time
from storage_schemas import open_run
start = time.perf_counter()
open_run(pathlib.Path(sys.argv[1]))
print(time.perf_counter() - start)
"""
"""Imports are not in the time; every file is read anew, from the page cache."""


def measure_open_run(folder: Path, sizes: Sizes) -> Values:
    run_folder = folder / "run"
    create_run(run_folder, "finished", run_folder / "stores")
    n_stores = 0
    for stage, stores in _finished_stages(run_folder / "stores", sizes).items():
        record_stores(run_folder, stage, stores)
        n_stores += len(stores)
    times = [float(fresh_python(OPEN_RUN, str(run_folder))) for _ in range(sizes.repeats)]
    return {"open_run_ms": median_ms(times), "open_run_stores": n_stores}


def _finished_stages(root: Path, sizes: Sizes) -> dict[str, list[Store]]:
    models, subjects = names("model", sizes.models), names("sub-", sizes.subjects)
    stages: dict[str, list[Store]] = {
        "prepare": [],
        "ingest": [_responses_store(root, subject) for subject in subjects],
        "extract": [],
        "encode": [],
        "compare": [],
    }
    for model in models:
        for stage, stores in _model_stores(root, model, subjects):
            stages[stage] += [finish_store(store) for store in stores]
    return stages


N_VOXELS = 5
MM = {"units": "mm"}


def _responses_store(root: Path, subject: str) -> Store:
    stimuli = names("images/stimulus", 20)
    coords: Values = {
        "roi": ("voxel", np.array(["V1"] * N_VOXELS, dtype=object)),
        "hemisphere": ("voxel", np.array(["left"] * N_VOXELS, dtype=object)),
        **{axis: ("voxel", np.arange(N_VOXELS, dtype="float64"), MM) for axis in "xyz"},
        **{axis: ("voxel", np.arange(N_VOXELS)) for axis in "ijk"},
    }
    grid = {"volume_shape": [9, 9, 9], "affine": np.eye(4).ravel().tolist()}
    targets = xr.Dataset(coords=coords, attrs=grid)
    layout = responses_layout(stimuli, stimuli, [""] * len(stimuli), targets, ["voxel"])
    attrs = {"subject": subject, "modality": "fmri"}
    return finish_store(create(root, "ingest", "responses", f"{subject}-fmri", layout, attrs))


def _model_stores(
    root: Path, model: str, subjects: Sequence[str]
) -> Iterator[tuple[str, list[Store]]]:
    layers, gradient = layers_of(3), "gradient:classification"
    attrs = {"model": model}

    def made(
        stage: str, kind: str, name: str, layout: Layout, more: Values | None = None
    ) -> list[Store]:
        label = f"{model}-{name}".replace(":", "-")
        return [create(root, stage, kind, label, layout, attrs | (more or {}))]

    yield "prepare", made("prepare", "prepared", "weights", prepared_layout())
    classes = classes_layout(layers)
    yield "prepare", made("prepare", "classes", "classes", classes, {"source": gradient})
    for source in ("forward", gradient):
        more = {"source": source}
        features = sized_features((3, 20, 8), 10)
        yield "extract", made("extract", "features", source, features, more)
        cka = collinearity_layout(layers)
        yield "encode", made("encode", "collinearity", f"cka-{source}", cka, more)
    for bands in ("forward", gradient, f"baseline+{gradient}"):
        measures = BEYOND_MEASURES if "+" in bands else SINGLE_MEASURES
        scores = scores_of(layers, N_VOXELS * len(subjects), measures)
        groups: Values = {"groups": _groups(subjects), "summary_groups": []}
        groups |= {"bands": bands, "fold_rule": "stimulus", "permute_within": "all"}
        yield "encode", made("encode", "scores", f"scores-{bands}", scores, groups)
    tables = comparisons_layout(
        ["forward", gradient], layers, ["V1"], ["distance"], list(subjects), [], []
    )
    yield "compare", made("compare", "comparisons", "comparisons", tables, {"control": False})


def _groups(subjects: Sequence[str]) -> list[Values]:
    return [
        {
            "subject": subject,
            "modality": "fmri",
            "start": i * N_VOXELS,
            "stop": (i + 1) * N_VOXELS,
            "windows": None,
        }
        for i, subject in enumerate(subjects)
    ]


if __name__ == "__main__":
    run_benchmark("opening a run", LINES, measure_open_run)
