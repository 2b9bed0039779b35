"""Unfinished runs: what is committed is shown, nothing else is, and nobody can mistake the two."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from storage_schemas.protocol import attempts
from storage_schemas.protocol.commit import commit
from storage_schemas.protocol.seal import seal
from storage_schemas.protocol.store import Store
from storage_schemas.results.open import open_run
from storage_schemas.runs.run import create_run, record_stores

MakeStore = Callable[..., Store]
Values = Callable[..., dict[str, np.ndarray]]


@pytest.fixture
def half(make_store: MakeStore, values: Values, tmp_path: Path) -> tuple[Path, Store]:
    """A run with 8 units of features, of which 0, 3, 4 and 7 are committed."""
    store = make_store(n_units=8)
    for index in (0, 3, 4, 7):
        commit_unit(store, index, values)
    create_run(tmp_path / "run", "half", tmp_path / "root")
    record_stores(tmp_path / "run", "extract", [store])
    return tmp_path / "run", store


def commit_unit(store: Store, index: int, values: Values) -> None:
    unit = store.units[index]
    attempt = attempts.begin(store, unit, job="test", round_=0)
    assert attempt is not None
    commit(store, unit, values(store, unit), {}, attempt)
    attempt.finish("committed")


def leaf(run: Path, **options: Any) -> xr.Dataset:
    return open_run(run, **options)["/features/tiny/forward"].to_dataset()


def test_an_unfinished_run_is_not_shown_unasked(half: tuple[Path, Store]) -> None:
    with pytest.raises(ValueError, match=r"4 of 8 units committed.*partial=True"):
        open_run(half[0])


@pytest.mark.filterwarnings("error")
def test_committed_rows_and_no_others(half: tuple[Path, Store], values: Values) -> None:
    run, store = half
    shown = leaf(run, partial=True)
    expected = [unit in (0, 3, 4, 7) for unit in range(8) for _ in range(2)][:15]
    assert shown["committed"].dims == ("stimulus",)
    assert shown["committed"].values.tolist() == expected
    assert shown.attrs["completeness"] == sum(expected) / 15
    assert open_run(run, partial=True).attrs["completeness"] == 0.5
    for unit in store.units:
        (_, rows, _) = unit.regions["features"]
        read = shown["features"][:, slice(*rows)].values
        whole = unit.index in (0, 3, 4, 7)
        expected_values = values(store, unit)["features"] if whole else np.nan
        np.testing.assert_array_equal(read, np.broadcast_to(expected_values, read.shape))
    done = shown["features"].sel(stimulus=shown["committed"])
    assert done.sizes["stimulus"] == sum(expected)


def test_bytes_without_a_record_are_not_shown(half: tuple[Path, Store], values: Values) -> None:
    """A killed writer leaves shards without a record; a torn shard would not even be readable."""
    run, store = half
    commit_unit(store, 2, values)
    store.record_path(store.units[2]).unlink()
    torn = store.data / store.owned_files(store.units[3])[0]
    torn.write_bytes(torn.read_bytes()[:-5])
    shown = leaf(run, partial=True)
    assert not shown["committed"][4:8].any()
    assert np.isnan(shown["features"][:, 4:8].values).all()


def test_a_finished_run_looks_the_same(
    half: tuple[Path, Store], values: Values, commit_all: Callable[[Store], None]
) -> None:
    run, store = half
    for index in (1, 2, 5, 6):
        commit_unit(store, index, values)
    seal(store)
    shown, whole = leaf(run, partial=True), leaf(run)
    assert shown["committed"].all()
    assert shown.attrs.pop("completeness") == 1.0
    xr.testing.assert_identical(shown.drop_vars("committed"), whole)


def test_a_stage_that_has_not_begun_is_not_finished(
    make_store: MakeStore, commit_all: Callable[[Store], None], tmp_path: Path
) -> None:
    """Between two stages everything that is planned is sealed."""
    run = tmp_path / "run"
    create_run(run, "early", tmp_path / "root", {"extract": 4, "encode": 12})
    assert open_run(run, partial=True).attrs["completeness"] == 0
    store = make_store(n_units=4)
    commit_all(store)
    seal(store)
    record_stores(run, "extract", [store])
    with pytest.raises(ValueError, match=r"stage encode has not begun.*partial=True"):
        open_run(run)
    shown = open_run(run, partial=True)
    assert shown.attrs["completeness"] == 0.25
    assert shown["/features/tiny/forward"].attrs["completeness"] == 1
