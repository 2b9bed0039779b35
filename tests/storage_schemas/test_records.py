"""What stands on the disk as JSON is read back as it was written, or refused by a sentence."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage_schemas.errors import DamagedStore
from storage_schemas.identity import canonical_json
from storage_schemas.kinds.scores import ScoresAttrs, SummaryGroup, TargetGroup
from storage_schemas.protocol.commit import is_committed, problems
from storage_schemas.protocol.records import ArrayRecord, CommitRecord, FileRecord, Seal
from storage_schemas.protocol.seal import seal
from storage_schemas.protocol.store import Store
from storage_schemas.records import as_json, parse
from storage_schemas.runs.run import Run, RunStore, create_run, read_run, run_stores

MakeStore = Callable[..., Store]
CommitAll = Callable[[Store], None]

NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
COUNTS = st.integers(0, 2**53)
WINDOWS = st.none() | st.lists(st.tuples(st.text(), NUMBERS, NUMBERS)).map(tuple)
WHOSE = {"subject": st.text(), "modality": st.text(), "start": COUNTS, "stop": COUNTS}
TARGETS = st.builds(TargetGroup, **WHOSE, windows=WINDOWS)
SUMMARIES = st.builds(SummaryGroup, **WHOSE, names=st.lists(st.text()).map(tuple), windows=WINDOWS)
RANGE = st.none() | st.booleans() | COUNTS | NUMBERS
RECORDS = st.one_of(
    st.builds(
        ScoresAttrs,
        groups=st.lists(TARGETS).map(tuple),
        summary_groups=st.lists(SUMMARIES).map(tuple),
    ),
    st.builds(
        CommitRecord,
        files=st.dictionaries(st.text(), st.builds(FileRecord)),
        arrays=st.dictionaries(st.text(), st.builds(ArrayRecord, min=RANGE, max=RANGE)),
        facts=st.dictionaries(st.text(), st.lists(NUMBERS) | st.text()),
    ),
    st.builds(Seal),
)
RUNS = st.builds(
    Run,
    stores=st.dictionaries(st.text(), st.lists(st.builds(RunStore)).map(tuple)),
    units=st.none() | st.dictionaries(st.text(), COUNTS),
)


@settings(max_examples=50, deadline=None)
@given(RECORDS)
def test_a_record_is_read_as_it_was_written(record: object) -> None:
    written = canonical_json(as_json(record))
    again = parse(type(record), json.loads(written))
    assert again == record
    # Equality takes True for 1 and 1 for 1.0, which the bytes tell apart.
    assert canonical_json(as_json(again)) == written


@settings(max_examples=50, deadline=None)
@given(RUNS)
def test_a_run_is_read_as_it_was_written(run: Run) -> None:
    written = json.loads(run.as_json())
    assert ("units" in written) == (run.units is not None)
    assert parse(Run, written).as_json() == run.as_json()


def test_a_plan_is_read_as_it_was_written(make_store: MakeStore) -> None:
    store = make_store()
    assert store.plan.as_json() == (store.path / "plan.json").read_bytes()


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    record = json.loads(path.read_bytes())
    change(record)
    path.write_bytes(canonical_json(record))


@pytest.mark.parametrize(
    "key",
    [
        "kind",
        "schema_version",
        "algorithm_version",
        "spec",
        "label",
        "identity",
        "attrs",
        "arrays",
        "units",
        "locations",
    ],
)
def test_a_plan_without_one_of_its_keys_is_named_with_the_key(
    make_store: MakeStore, key: str
) -> None:
    store = make_store()
    edit(store.path / "plan.json", lambda plan: plan.pop(key))
    with pytest.raises(DamagedStore, match=rf"plan\.json is no plan of a store \({key}: field req"):
        Store.open(store.path)


def test_a_plan_whose_units_are_of_another_form_is_named_with_the_unit(
    make_store: MakeStore,
) -> None:
    store = make_store()
    edit(store.path / "plan.json", lambda plan: plan["units"][2].pop())
    with pytest.raises(DamagedStore, match=r"plan\.json is no plan of a store \(units\.2"):
        Store.open(store.path)


def test_damaged_groups_of_scores_are_named_with_the_plan(make_store: MakeStore) -> None:
    store = make_store()
    group = {"subject": "01", "modality": "fmri", "start": 0, "windows": None}
    named = {"model": "tiny", "bands": "forward", "fold_rule": "", "permute_within": ""}
    damaged = store.named("x", {**named, "groups": [group], "summary_groups": []})
    with pytest.raises(
        DamagedStore, match=r"plan\.json has damaged attributes \(groups\.0\.stop: field required"
    ):
        damaged.described(ScoresAttrs)


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (lambda run: run.pop("version"), "version"),
        (lambda run: run.pop("root"), "root"),
        (lambda run: run.pop("stores"), "stores"),
        (lambda run: run.update(version="latest"), "version"),
        (lambda run: run.update(units={"extract": "many"}), "units.extract"),
        (lambda run: run["stores"].update(extract=[{"store": "x"}]), "stores.extract.0.label"),
    ],
)
def test_a_damaged_run_is_named_with_the_key(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], where: str
) -> None:
    create_run(tmp_path, "study", tmp_path / "stores")
    edit(tmp_path / "run.json", change)
    for reader in (read_run, lambda path: run_stores(path, "extract")):
        with pytest.raises(ValueError, match=rf"run\.json is damaged \({where}: .*submit the stu"):
            reader(tmp_path)


def test_a_commit_record_of_another_form_makes_its_unit_uncommitted(
    make_store: MakeStore, commit_all: CommitAll
) -> None:
    store = make_store()
    commit_all(store)
    path = store.record_path(store.units[1])
    edit(path, lambda record: record.pop("attempt"))
    assert not is_committed(store, store.units[1])
    (sentence,) = problems(store, store.units[1], deep=False)
    assert str(path) in sentence
    assert "attempt: field required" in sentence


def test_a_seal_of_another_form_seals_nothing_and_is_replaced(
    make_store: MakeStore, commit_all: CommitAll
) -> None:
    store = make_store()
    commit_all(store)
    first = seal(store)
    edit(store.seal_path, lambda statement: statement.pop("digest"))
    assert store.sealed() is None
    assert seal(store) == store.sealed() == first
