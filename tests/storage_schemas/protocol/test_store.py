import json
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from storage_schemas.layout import ArrayLayout, Layout, Unit, check_ownership
from storage_schemas.protocol.new_store import NewStore
from storage_schemas.protocol.seal import seal
from storage_schemas.protocol.store import Store

MakeStore = Callable[..., Store]
EMPTY = xr.Dataset()


def line(n: int, size: int, name: str = "x") -> ArrayLayout:
    """A one-dimensional array of n elements in files of `size`."""
    return ArrayLayout(name, ("t",), (n,), "float32", (size,), None, "1", "x")


def parts(*bounds: tuple[int, int]) -> list[Unit]:
    return [Unit(i, f"u{i}", {}, {"x": [bound]}) for i, bound in enumerate(bounds)]


def create(
    root: Path,
    arrays: list[ArrayLayout],
    units: list[Unit],
    coords: xr.Dataset = EMPTY,
    kind: str = "features",
    label: str = "x",
    **other: Any,
) -> Store:
    layout = Layout(tuple(arrays), coords, tuple(units))
    return Store.create(root, NewStore("stage", kind, label, layout=layout, **{"spec": {}} | other))


def test_created_store_is_read_back(make_store: MakeStore) -> None:
    created = make_store(n_units=3)
    store = Store.open(created.path)
    assert store.path.name == f"{store.identity[:12]}-tiny-forward"
    assert store.reference == f"extract/{store.path.name}"
    assert (store.kind, store.label) == ("features", "tiny-forward")
    assert store.spec == {"n": 5, "n_features": 8}
    assert store.attrs == {"model": "tiny", "source": "forward"}
    assert store.locations == {"stimuli": "/data/stimuli"}
    assert store.units[2] == Unit(
        2, "stimuli from 4", {"start": 4}, {"features": [(0, 2), (4, 5), (0, 8)]}
    )
    assert store.arrays["features"].shards == (2, 2, 8)
    assert store.unit_id(store.units[2]) == f"{store.identity[:12]}-00002"
    assert store.owned_files(store.units[2]) == ["features/c/0/2/0"]
    assert Store.find(store.path.parents[1], "extract", store.identity).path == store.path


def test_creating_again_opens_and_keeps_what_is_there(
    make_store: MakeStore, commit_all: Callable[[Store], None]
) -> None:
    store = make_store()
    commit_all(store)
    before = {path: path.read_bytes() for path in store.path.rglob("*") if path.is_file()}
    assert make_store().path == store.path
    assert {path: path.read_bytes() for path in store.path.rglob("*") if path.is_file()} == before


def test_moved_inputs_are_noted_under_the_same_identity(tmp_path: Path) -> None:
    arrays, units = [line(4, 2)], parts((0, 2), (2, 4))
    old = create(tmp_path, arrays, units, locations={"stimuli": "/old"})
    new = create(tmp_path, arrays, units, locations={"stimuli": "/new"})
    assert new.identity == old.identity
    assert new.path == old.path
    assert Store.open(old.path).locations == {"stimuli": "/new"}


def test_sealed_store_is_left_alone_when_inputs_move(tmp_path: Path, commit_all: Any) -> None:
    """It needs its inputs no more, and may lie in a folder that is shared read-only."""
    arrays, units = [line(4, 2)], parts((0, 2), (2, 4))
    store = create(tmp_path, arrays, units, locations={"stimuli": "/old"})
    commit_all(store)
    seal(store)
    again = create(tmp_path, arrays, units, locations={"stimuli": "/new"})
    assert again.locations == {"stimuli": "/old"}


def test_identity_depends_on_specification_kind_and_nothing_else(tmp_path: Path) -> None:
    arrays, units = [line(4, 2)], parts((0, 2), (2, 4))
    base = create(tmp_path, arrays, units, spec={"a": 1})
    assert create(tmp_path, arrays, units, spec={"a": 2}).identity != base.identity
    assert create(tmp_path, arrays, units, spec={"a": 1.0}).identity != base.identity
    other = create(tmp_path, arrays, parts((0, 4)), spec={"a": 1}, attrs={"b": 2}, label="y")
    assert other.identity == base.identity
    kind = create(tmp_path, arrays, units, spec={"a": 1}, kind="scores")
    assert kind.identity != base.identity


def test_golden_identity(make_store: MakeStore) -> None:
    """Changes with the versions of `FEATURES`, and never otherwise."""
    golden = "e82708e21f1c0953616c42101d3e08fb20b18bb84d5905b0a5635e4eb7ca3ffb"
    assert make_store().identity == golden


def test_identities_are_compared_in_full(make_store: MakeStore) -> None:
    store = make_store()
    plan = json.loads((store.path / "plan.json").read_text())
    plan["spec"]["seed"] = 1
    plan["identity"] = store.identity[:12] + "0" * 52
    (store.path / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(ValueError, match=r"was changed by hand"):
        make_store()


def test_other_identity_in_the_folder_is_refused(make_store: MakeStore, tmp_path: Path) -> None:
    store = make_store()
    other = make_store(seed=2)
    (store.path / "plan.json").write_bytes((other.path / "plan.json").read_bytes())
    with pytest.raises(ValueError, match=f"holds identity {other.identity}, not {store.identity}"):
        make_store()


@pytest.mark.parametrize("content", ["", "[]", "{}", "{"])
def test_damaged_plan_is_named(make_store: MakeStore, content: str) -> None:
    store = make_store()
    (store.path / "plan.json").write_text(content)
    with pytest.raises(ValueError, match=r"plan\.json is no plan"):
        Store.open(store.path)


def test_newer_schema_is_refused(make_store: MakeStore) -> None:
    store = make_store()
    plan = json.loads((store.path / "plan.json").read_text())
    (store.path / "plan.json").write_text(json.dumps({**plan, "schema_version": 99}))
    with pytest.raises(ValueError, match=r"schema version 99.*update gradenc"):
        Store.open(store.path)


def test_absent_store_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"0a-x holds no plan\.json.*resume the run"):
        Store.open(tmp_path / "extract" / "0a-x")
    with pytest.raises(FileNotFoundError, match=r"extract holds no store 0a0a0a.*submit the study"):
        Store.find(tmp_path, "extract", "0a" * 32)


@pytest.mark.parametrize("label", ["", "a/b", ".hidden", "a b", "../x", "x" * 151])
def test_labels_that_cannot_name_a_folder_are_refused(tmp_path: Path, label: str) -> None:
    with pytest.raises(ValueError, match="cannot name a folder"):
        create(tmp_path, [line(2, 2)], parts((0, 2)), label=label)


def test_unknown_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"unknown kind of store 'feature'; known: prepared, "):
        create(tmp_path, [line(2, 2)], parts((0, 2)), kind="feature")


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ([(0, 4), (2, 6), (6, 7)], r"units 0 and 1 share a file"),
        ([(0, 2), (4, 7)], r"no unit owns the file at grid position \[1\]"),
        ([(0, 3), (3, 7)], r"unit 0 has region \(0, 3\).*owns whole files"),
        ([(0, 2), (2, 8)], r"unit 1 has region \(2, 8\)"),
        ([(0, 2), (2, 2), (2, 7)], r"unit 1 has region \(2, 2\)"),
        ([(-2, 2), (2, 7)], r"unit 0 has region \(-2, 2\)"),
    ],
)
def test_units_must_own_every_file_once(
    tmp_path: Path, bounds: list[tuple[int, int]], message: str
) -> None:
    with pytest.raises(ValueError, match=f"array x: .*{message}|array x: {message}"):
        create(tmp_path, [line(7, 2)], parts(*bounds))
    assert not list(tmp_path.iterdir())


def test_units_must_be_in_order_and_know_their_arrays(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unit u1 has index 1, not its place 0"):
        create(tmp_path, [line(4, 2)], parts((0, 2), (2, 4))[::-1])
    with pytest.raises(ValueError, match=r"unit 0 has regions of unknown arrays \['x'\]"):
        create(tmp_path, [line(4, 2, name="y")], parts((0, 2), (2, 4)))
    with pytest.raises(ValueError, match=r"array x: unit 0 has region .* of wrong length"):
        create(tmp_path, [line(4, 4)], [Unit(0, "u", {}, {"x": [(0, 4), (0, 1)]})])


def test_shapes_must_fit_together(tmp_path: Path) -> None:
    units = parts((0, 4))
    with pytest.raises(ValueError, match=r"shards \(4,\) are not multiples of chunks \(3,\)"):
        create(tmp_path, [replace(line(4, 3), shards=(4,))], units)
    with pytest.raises(ValueError, match=r"one positive entry per dimension"):
        create(tmp_path, [replace(line(4, 4), dims=("t", "u"))], units)
    with pytest.raises(ValueError, match=r"one positive entry per dimension"):
        create(tmp_path, [line(0, 4)], units)
    with pytest.raises(ValueError, match=r"array x: 4 elements along t, which has 3"):
        create(tmp_path, [line(4, 4)], units, coords=xr.Dataset(coords={"t": [0.1, 0.2, 0.3]}))


@given(st.data())
def test_any_partition_along_files_is_accepted_and_any_shift_refused(data: st.DataObject) -> None:
    size, n_files = data.draw(st.integers(2, 5)), data.draw(st.integers(2, 9))
    n = n_files * size - data.draw(st.integers(0, size - 1))
    cuts = data.draw(st.sets(st.integers(1, n_files - 1)))
    edges = [0, *(cut * size for cut in sorted(cuts)), n]
    bounds = list(pairwise(edges))
    check_ownership([line(n, size)], parts(*bounds))
    files = [name for u in parts(*bounds) for name in line(n, size).file_names(u.regions["x"])]
    assert files == [f"x/c/{i}" for i in range(n_files)]
    wrong = data.draw(st.integers(0, len(bounds) - 1))
    bounds[wrong] = (bounds[wrong][0] + 1, bounds[wrong][1])
    with pytest.raises(ValueError, match="array x"):
        check_ownership([line(n, size)], parts(*bounds))


def test_failed_creation_leaves_nothing(tmp_path: Path) -> None:
    bad = xr.Dataset(coords={"t": ("t", np.array([object()] * 4))})
    with pytest.raises((TypeError, ValueError)):
        create(tmp_path, [line(4, 4)], parts((0, 4)), coords=bad)
    assert not list((tmp_path / "stage").iterdir())


def test_stale_temporary_folder_is_harmless(make_store: MakeStore) -> None:
    path = make_store().path
    stale = path.with_name(f".{path.name}.0123")
    path.rename(stale)
    (stale / "plan.json").unlink()
    assert Store.open(make_store().path).units


@pytest.mark.filterwarnings("error")
def test_store_opens_in_plain_xarray(make_store: MakeStore) -> None:
    store = make_store()
    tree = xr.open_datatree(store.data, engine="zarr", consolidated=False)
    assert tree["features"].dims == ("layer", "stimulus", "feature")
    assert tree["layer"].values.tolist() == ["conv1", "fc"]
    assert tree.attrs["model"] == "tiny"
    assert tree.attrs["identity"] == store.identity
    assert np.isnan(tree["features"].values).all()
    assert store.dataset()["features"].chunks is not None


@pytest.mark.filterwarnings("error")
def test_store_opens_in_plain_xarray_without_the_flag(make_store: MakeStore) -> None:
    tree = xr.open_datatree(make_store().data, engine="zarr")
    assert tree["features"].shape == (2, 7, 8)


@pytest.mark.parametrize(
    ("dtype", "fill"), [("int8", -128), ("int64", -(2**63)), ("uint8", 255), ("bool", False)]
)
def test_unwritten_integers_do_not_read_as_zero(tmp_path: Path, dtype: str, fill: int) -> None:
    store = create(tmp_path, [replace(line(4, 2), dtype=dtype)], parts((0, 2), (2, 4)))
    opened = xr.open_dataset(store.data, engine="zarr", consolidated=False, mask_and_scale=True)
    assert opened["x"].values.tolist() == [fill] * 4


def test_a_hundred_thousand_units(tmp_path: Path) -> None:
    n = 100_000
    units = [Unit(i, f"u{i}", {"start": 2 * i}, {"x": [(2 * i, 2 * i + 2)]}) for i in range(n)]
    store = create(tmp_path, [line(2 * n, 2)], units)
    assert store.units[-1] == units[-1]
