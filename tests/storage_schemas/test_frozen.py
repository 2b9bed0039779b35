"""Runs that released versions wrote still open, whole and with the same digest.

`frozen/make.py` wrote them; there is one for every form that was ever released.
"""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from storage_schemas.identity import FORMAT_VERSION
from storage_schemas.kinds.registry import KINDS
from storage_schemas.protocol.seal import run_digest
from storage_schemas.protocol.store import Store
from storage_schemas.results.open import open_run
from storage_schemas.runs.run import read_run, run_stores

FROZEN = sorted(Path(__file__).with_name("frozen").glob("*.tar.xz"))
DIGESTS = {"v1": "e55536a6de9373d01f2dbb8d6dfa6334b8792873199ea8c85962629cf3767f73"}


@pytest.fixture(params=FROZEN, ids=lambda path: path.name.partition(".")[0])
def frozen(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A finished run as a released version wrote it."""
    with tarfile.open(request.param) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / request.param.name.partition(".")[0]


def stores_of(run: Path) -> list[Store]:
    return [store for stage in read_run(run).stores for store in run_stores(run, stage)]


def test_every_format_is_kept_with_its_digest() -> None:
    assert set(DIGESTS) == {f"v{number}" for number in range(1, FORMAT_VERSION + 1)}
    assert {path.name.partition(".")[0] for path in FROZEN} == set(DIGESTS)


@pytest.mark.filterwarnings("error")
def test_a_frozen_run_opens_whole(frozen: Path) -> None:
    assert f"v{json.loads((frozen / 'run.json').read_text())['version']}" == frozen.name
    assert {store.kind for store in stores_of(frozen)} == set(KINDS)
    tree = open_run(frozen)
    for leaf in tree.leaves:
        leaf.to_dataset().load()
    scores = tree["/scores/tiny/sub-01/fmri"].to_dataset()
    assert np.isfinite(scores["r_normalised"].sel(bands="forward", roi="V2").values).all()
    assert tree["/scores/tiny/sub-02/meg"].to_dataset()["r"].sizes["window"] == 2
    tables = tree["/comparisons/tiny"].to_dataset()
    assert tables["verdict"].sel(signal="unique:energy").item() == "undecided"
    assert tables["sentence"].sel(signal="unique:energy").item().startswith("It is open")


def test_a_frozen_run_keeps_its_digest(frozen: Path) -> None:
    assert run_digest(stores_of(frozen)) == DIGESTS[frozen.name]
