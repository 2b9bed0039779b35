"""Schemas: what is written follows them, what is opened is checked, old versions still open."""

import json
import tarfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from storage_schemas.kinds.schemas import ALGORITHM_VERSION, SCHEMA_VERSION, SCHEMAS, UNIT_DIM
from storage_schemas.protocol.seal import run_digest
from storage_schemas.protocol.store import Store
from storage_schemas.runs.run import open_run, read_run, run_stores

FROZEN = sorted((Path(__file__).parents[1] / "frozen").glob("*.tar.xz"))
DIGESTS = {"v1": "c06bec7089d1c6eedcd1a8e9a874cc147ab5a3e7787831f09b4b2fa1583de7b7"}


@pytest.fixture(params=FROZEN, ids=lambda path: path.name.partition(".")[0])
def frozen(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A finished run that an earlier version of gradenc wrote."""
    with tarfile.open(request.param) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / request.param.name.partition(".")[0]


def test_versions_are_those_of_every_kind() -> None:
    assert set(SCHEMAS) == set(ALGORITHM_VERSION) == set(SCHEMA_VERSION)
    assert SCHEMA_VERSION["responses"] == 2
    assert set(UNIT_DIM) <= set(SCHEMAS)


@pytest.mark.filterwarnings("error")
def test_runs_of_earlier_versions_open_whole(frozen: Path) -> None:
    assert json.loads((frozen / "run.json").read_text())["version"] == 1
    tree = open_run(frozen)
    leaves = {leaf.path for leaf in tree.leaves}
    assert {"/scores/planted/sub-01/fmri", "/scores/planted/sub-02/meg"} <= leaves
    for leaf in tree.leaves:
        leaf.to_dataset().load()
    scores = tree["/scores/planted/sub-01/fmri"].to_dataset()
    assert np.isfinite(scores["r"].values).all()
    assert scores["r"].sel(bands="forward", layer="layer1.0", roi="V1").sizes["voxel"] > 30


def test_digests_of_earlier_versions_stand(frozen: Path) -> None:
    stores = [s for stage in read_run(frozen)["stores"] for s in run_stores(frozen, stage)]
    assert run_digest(stores) == DIGESTS[frozen.name]


def metadata(store: Store) -> dict[str, Any]:
    return dict(json.loads((store.data / "zarr.json").read_bytes()))


def tamper(store: Store, change: Callable[[dict[str, Any], dict[str, Any]], None]) -> Store:
    group = metadata(store)
    change(group, group["consolidated_metadata"]["metadata"])
    (store.data / "zarr.json").write_text(json.dumps(group))
    return store


CHANGES: dict[str, tuple[Callable[[Any, Any], None], str]] = {
    "array gone": (lambda _, members: members.pop("features"), "array features is missing"),
    "coordinate gone": (lambda _, members: members.pop("layer"), "coordinate layer is missing"),
    "attribute gone": (
        lambda group, _: group["attributes"].pop("source"),
        "attribute source is missing",
    ),
    "other type": (
        lambda _, members: members["features"].update(data_type="float64"),
        r"array features is .*'float64'.*its plan says .*'float32'",
    ),
    "other shape": (
        lambda _, members: members["features"].update(shape=[2, 9, 8]),
        r"\(2, 9, 8\).*its plan says .*\(2, 7, 8\)",
    ),
    "other dims": (
        lambda _, members: members["layer_depth"].update(dimension_names=["depth"]),
        r"coordinate layer_depth has dims \['depth'\], not \('layer',\)",
    ),
    "number for text": (
        lambda _, members: members["stimulus"].update(data_type="int64"),
        "coordinate stimulus is int64, not text",
    ),
    "unknown array": (
        lambda _, members: members.update(more=members["features"]),
        "array more is not in the schema",
    ),
    "no list": (lambda group, _: group.pop("consolidated_metadata"), r"zarr\.json is damaged"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_metadata_are_named(make_store: Callable[..., Store], change: str) -> None:
    store = make_store()
    assert store.dataset().sizes["stimulus"] == 7
    tampering, complaint = CHANGES[change]
    with pytest.raises(ValueError, match=complaint) as error:
        tamper(store, tampering).dataset()
    assert str(store.data) in str(error.value)
    assert "resume the run" in str(error.value)


def test_lost_metadata_are_named(make_store: Callable[..., Store]) -> None:
    store = make_store()
    (store.data / "zarr.json").unlink()
    with pytest.raises(ValueError, match=r"has no zarr\.json"):
        store.dataset()


@pytest.mark.parametrize("damage", ["lost", "shorter"])
def test_a_lost_coordinate_does_not_read_as_empty(
    make_store: Callable[..., Store], damage: str
) -> None:
    """Zarr reads a missing file as the fill value: "" for text, NaN for numbers."""
    store = make_store()
    file = store.data / "stimulus" / "c" / "0"
    if damage == "lost":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"stimulus/c/0 is missing or was changed"):
        store.dataset()


def test_units_of_physical_coordinates_are_checked(frozen: Path) -> None:
    store = next(s for s in run_stores(frozen, "ingest") if s.attrs["modality"] == "meg")
    change = lambda _, members: members["time"]["attributes"].update(units="ms")  # noqa: E731
    with pytest.raises(ValueError, match="coordinate time has units ms, not s"):
        tamper(store, change).dataset()


def test_stores_without_a_warning(make_store: Callable[..., Store]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert make_store().dataset().sizes["layer"] == 2
