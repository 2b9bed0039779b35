"""`run.json`: which stores a run uses, under its own names."""

import json
from pathlib import Path

import pytest

from storage_schemas.identity import FORMAT_VERSION
from storage_schemas.kinds.prepared import prepared_layout
from storage_schemas.protocol.new_store import NewStore
from storage_schemas.protocol.store import Store
from storage_schemas.results.open import open_run
from storage_schemas.runs.run import create_run, read_run, record_stores


def prepared(root: Path) -> Store:
    layout = prepared_layout()
    attrs = {"model": "tiny"}
    return Store.create(root, NewStore("prepare", "prepared", "x", {}, layout, attrs))


def test_creating_a_run_again_keeps_its_stores(tmp_path: Path) -> None:
    create_run(tmp_path / "run", "study", tmp_path / "run" / "stores")
    store = prepared(tmp_path / "run" / "stores")
    record_stores(tmp_path / "run", "prepare", [store])
    again = create_run(tmp_path / "run", "study", tmp_path / "run" / "stores")
    expected = {
        "version": FORMAT_VERSION,
        "name": "study",
        "root": "stores",
        "stores": {
            "prepare": [{"store": store.reference, "label": "x", "names": {"model": "tiny"}}]
        },
    }
    assert json.loads((tmp_path / "run" / "run.json").read_text()) == expected
    assert again == read_run(tmp_path / "run")
    assert again.references == [store.reference]
    with pytest.raises(ValueError, match="holds a run with name 'study', not 'other'"):
        create_run(tmp_path / "run", "other", tmp_path / "run" / "stores")


def test_what_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"run\.json does not exist"):
        open_run(tmp_path)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(ValueError, match=r"run\.json is damaged"):
        open_run(tmp_path)
    (tmp_path / "run.json").write_text(
        json.dumps({"version": 99, "name": "x", "root": ".", "stores": {}})
    )
    with pytest.raises(ValueError, match="update gradenc"):
        open_run(tmp_path)
