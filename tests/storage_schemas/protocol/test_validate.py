"""What is opened is checked against its plan and its kind's schema."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from storage_schemas.kinds.responses import responses_layout
from storage_schemas.protocol.new_store import NewStore
from storage_schemas.protocol.store import Store


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


def meg(root: Path) -> Store:
    targets = xr.Dataset(
        coords={
            "sensor": ("sensor", ["MEG 01", "MEG 02"]),
            **{f"sensor_{axis}": ("sensor", np.zeros(2), {"units": "m"}) for axis in "xyz"},
            "sensor_type": ("sensor", ["mag"] * 2),
            "sensor_loc": (("sensor", "loc"), np.zeros((2, 12))),
            "time": ("time", np.array([0.0, 0.1]), {"units": "s"}),
        }
    )
    layout = responses_layout(["a", "b"], ["0", "1"], ["", ""], targets, ["sensor", "time"])
    attrs = {"subject": "01", "modality": "meg"}
    return Store.create(root, NewStore("s", "responses", "x", {}, layout, attrs))


def test_units_of_physical_coordinates_are_checked(tmp_path: Path) -> None:
    change = lambda _, members: members["time"]["attributes"].update(units="ms")  # noqa: E731
    with pytest.raises(ValueError, match="coordinate time has units ms, not s"):
        tamper(meg(tmp_path), change).dataset()


def test_stores_without_a_warning(make_store: Callable[..., Store]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert make_store().dataset().sizes["layer"] == 2
