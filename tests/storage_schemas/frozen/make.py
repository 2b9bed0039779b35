"""Write a small finished run of today's form, with a store of every kind: v<FORMAT_VERSION>.tar.xz.

Usage: python tests/storage_schemas/frozen/make.py. A released version's archive is kept for ever,
so that tests open it with later code; a new one is made only with a new version. The arrays are
seeded noise, so the digest that it prints is the same wherever it is made.
"""

import io
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import xarray as xr

from storage_schemas.identity import FORMAT_VERSION
from storage_schemas.kinds.bank import bank_layout
from storage_schemas.kinds.classes import classes_layout
from storage_schemas.kinds.collinearity import collinearity_layout
from storage_schemas.kinds.comparisons import NOT_JUDGED, comparisons_layout
from storage_schemas.kinds.coordinates import stimulus_coords, window_coords
from storage_schemas.kinds.drill import drill_layout
from storage_schemas.kinds.features import features_layout, scales_layout
from storage_schemas.kinds.pca import pca_layout
from storage_schemas.kinds.prepared import prepared_layout
from storage_schemas.kinds.responses import responses_layout
from storage_schemas.kinds.schema import flag_value
from storage_schemas.kinds.scores import (
    BANDED_MEASURES,
    BEYOND_MEASURES,
    SINGLE_MEASURES,
    DrawnTargets,
    scores_layout,
)
from storage_schemas.kinds.stability import stability_layout
from storage_schemas.layout import Layout
from storage_schemas.protocol.attempts import begin
from storage_schemas.protocol.commit import commit
from storage_schemas.protocol.new_store import NewStore
from storage_schemas.protocol.seal import run_digest, seal
from storage_schemas.protocol.store import Store
from storage_schemas.runs.run import create_run, record_stores
from storage_schemas.sources import BEYOND

NAME = f"v{FORMAT_VERSION}"
LAYERS = [("conv1", 0.5), ("fc", 1.0)]
STIMULI = [f"cats/{i}.png" for i in range(6)]
DIGESTS = [f"{i:064x}" for i in range(6)]
SESSIONS = ["01", "01", "01", "02", "02", ""]
WINDOWS = [("early", 0.0, 0.1), ("late", 0.1, 0.2)]
SIGNALS = ["forward", "gradient:energy", "unique:energy"]
VERDICT = {"verdict": "undecided", "sentence": "It is open in which order."}
FMRI = xr.Dataset(
    coords={
        "roi": ("voxel", ["V1", "V2", "V2"]),
        "hemisphere": ("voxel", ["L", "L", "R"]),
        **{axis: ("voxel", np.arange(3.0), {"units": "mm"}) for axis in "xyz"},
        **{axis: ("voxel", np.arange(3)) for axis in "ijk"},
    },
    attrs={"volume_shape": [3, 3, 3], "affine": np.eye(4).ravel().tolist()},
)
MEG = xr.Dataset(
    coords={
        "sensor": ("sensor", ["MEG 01", "MEG 02"]),
        **{f"sensor_{axis}": ("sensor", np.arange(2.0), {"units": "m"}) for axis in "xyz"},
        "sensor_type": ("sensor", ["mag", "grad"]),
        "sensor_loc": (("sensor", "loc"), np.zeros((2, 12))),
        "time": ("time", np.array([0.0, 0.1, 0.2]), {"units": "s"}),
    }
)
GROUPS = [
    {"subject": "sub-01", "modality": "fmri", "start": 0, "stop": 3, "windows": None},
    {"subject": "sub-02", "modality": "meg", "start": 3, "stop": 7, "windows": WINDOWS},
]
SUMMARIES = [
    {**GROUPS[0], "stop": 2, "names": ["V1", "V2"]},
    {**GROUPS[1], "start": 2, "stop": 6, "names": ["MEG 01", "MEG 02"]},
]
RULES = {"fold_rule": "stimulus", "permute_within": "session"}


def stores() -> list[tuple[str, str, str, Layout, dict[str, Any]]]:
    """Return stage, kind, label, layout and attributes of every store."""
    model = {"model": "tiny"}
    own = model | {"source": "gradient:energy"}
    comparisons = comparisons_layout(
        SIGNALS, LAYERS, ["V1", "V2"], ["distance"], ["sub-01"], ["sub-02"], WINDOWS
    )
    return [
        ("prepare", "prepared", "tiny", prepared_layout(), model),
        ("prepare", "bank", "tiny-bank", bank_layout(4, 3, 2), model),
        ("prepare", "classes", "tiny-energy", classes_layout(LAYERS), own),
        ("prepare", "scales", "tiny-scales", scales_layout(LAYERS, [4, 5]), own),
        ("prepare", "pca", "pca", pca_layout(LAYERS, STIMULI, DIGESTS, [4, 5], 2), own),
        ("ingest", "responses", "sub-01-fmri", recorded(FMRI, "voxel"), of("sub-01", "fmri")),
        ("ingest", "responses", "sub-02-meg", recorded(MEG, "sensor", "time"), of("sub-02", "meg")),
        ("extract", "features", "forward", features(3), model | {"source": "forward"}),
        ("extract", "features", "energy", features([4, 5]), own),
        ("extract", "stability", "stability", stability_layout(LAYERS, ["shift", "noise"], 3), own),
        ("extract", "drill", "drill", drill_layout(2, 3), {"stage": "extract"}),
        ("encode", "collinearity", "cka-forward", collinearity_layout(LAYERS), own),
        *(
            ("encode", "scores", label, scores(bands), scored(bands))
            for label, bands in (
                ("forward", "forward"),
                ("energy", "gradient:energy"),
                ("beyond", "baseline+gradient:energy"),
                ("both", "forward+gradient:energy"),
            )
        ),
        ("compare", "comparisons", "tiny", comparisons, model | {"control": False}),
    ]


def of(subject: str, modality: str) -> dict[str, Any]:
    return {"subject": subject, "modality": modality}


def recorded(targets: xr.Dataset, *dims: str) -> Layout:
    recipe = {"images": 3, "pool": "session"}
    return responses_layout(STIMULI, DIGESTS, SESSIONS, targets, dims, recipe)


def features(n_features: int | list[int]) -> Layout:
    return features_layout(LAYERS, STIMULI, DIGESTS, n_features, stimuli_per_shard=4)


def scores(bands: str) -> Layout:
    coords = stimulus_coords(STIMULI, DIGESTS) | {
        f"stimulus_{part}": ("stimulus", np.arange(6) % 2) for part in ("fold", "block")
    }
    coords |= window_coords("target", [None] * 3 + WINDOWS * 2, "target_")
    coords |= window_coords("summary", [None] * 2 + WINDOWS * 2, "summary_")
    sizes = {"n_folds": 2, "n_targets": 7, "n_summaries": 6, "n_permutations": 2}
    sizes |= {"n_resampled": 4, "n_bootstrap": 3}
    if "+" not in bands:
        return scores_layout(LAYERS, coords, measures=SINGLE_MEASURES, **sizes)
    if bands.startswith(BEYOND):
        drawn = DrawnTargets(n_null=4, shares=(0.1, 0.5), n_tunings=2)
        return scores_layout(LAYERS, coords, measures=BEYOND_MEASURES, drawn=drawn, **sizes)
    return scores_layout(LAYERS, coords, measures=BANDED_MEASURES, **sizes)


def scored(bands: str) -> dict[str, Any]:
    groups = {"groups": GROUPS, "summary_groups": SUMMARIES}
    return {"model": "tiny", "bands": bands, **groups, **RULES}


def values(store: Store, shapes: Mapping[str, list[int]], name: str) -> dict[str, Any]:
    """Return seeded values for every array of a unit, flags within their meanings."""
    rng = np.random.default_rng(crc32(name.encode()))
    found = {
        array: rng.uniform(1, 3, shape).astype(store.arrays[array].dtype)
        for array, shape in shapes.items()
    }
    if store.kind == "comparisons":
        meanings = store.arrays["verdict"].attrs
        names = [NOT_JUDGED, NOT_JUDGED, VERDICT["verdict"]]
        found["verdict"] = np.array([flag_value(meanings, n) for n in names], dtype=np.int8)
        found["order_verdict"] = np.tile(found["verdict"][:, None], 2)
    return found


def fill(store: Store) -> None:
    facts = {"verdicts": {"unique:energy": VERDICT}} if store.kind == "comparisons" else {}
    for unit in store.units:
        attempt = begin(store, unit, job="frozen", round_=0)
        assert attempt is not None
        shapes = {name: [b - a for a, b in region] for name, region in unit.regions.items()}
        commit(store, unit, values(store, shapes, f"{store.label} {unit.index}"), facts, attempt)
        attempt.finish("committed")
    seal(store)


def make(run: Path) -> str:
    """Write the run; return its digest."""
    create_run(run, "frozen", run / "stores")
    made: list[Store] = []
    for stage, kind, label, layout, attrs in stores():
        new = NewStore(stage, kind, label, {"frozen": label}, layout, attrs)
        made.append(Store.create(run / "stores", new))
        fill(made[-1])
    for stage in dict.fromkeys(store.path.parent.name for store in made):
        record_stores(run, stage, [s for s in made if s.path.parent.name == stage])
    return run_digest(made)


def anonymous(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Leave out who packed it and when, and the attempts, which name the machine."""
    if "/attempts/" in info.name and info.isfile():
        return None
    info.uid = info.gid = info.mtime = 0
    info.uname = info.gname = ""
    return info


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        print(NAME, make(Path(folder) / NAME))
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:xz", preset=9) as archive:
            archive.add(Path(folder) / NAME, NAME, filter=anonymous)
    Path(__file__).with_name(f"{NAME}.tar.xz").write_bytes(packed.getvalue())
