"""The records of submissions: what is written is read back, and what is torn is not believed."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpc.config.profile import StageProfile
from hpc.faults.triage import FailureClass, TaskOutcome
from hpc.node.payload import DamagedSubmission, Payload
from hpc.run.drill import start_drill
from hpc.run.folder import RunFolder, Wishes
from hpc.run.submissions import (
    FRUITLESS_IN_A_ROW,
    Submission,
    SubmissionOutcome,
    TaskJob,
    claimed_by_others,
    decide,
    given_up,
    of_round,
    submissions,
    tasks_among,
    unsettled,
)
from hpc.slurm.jobs import Job, State
from jobs.drill import Drill
from storage_schemas.protocol.attempts import start_time

Leave = Callable[..., Submission]

seconds = st.floats(0, 1e7, allow_nan=False)
jobs = st.builds(
    Job,
    st.from_regex(r"[0-9]{1,7}(_[0-9]{1,5})?", fullmatch=True),
    st.text(max_size=20),
    st.sampled_from(State),
    reason=st.text(max_size=20),
    node=st.text(max_size=20),
    exit_code=st.integers(0, 255),
    signal=st.integers(0, 127),
    restarts=st.integers(0, 99),
    elapsed_s=seconds,
    limit_s=st.none() | seconds,
    cpu_s=st.none() | seconds,
    max_rss=st.none() | st.integers(0, 2**45),
)
outcomes = st.builds(
    SubmissionOutcome,
    units_done=st.integers(0, 10**6),
    tasks=st.lists(
        st.builds(TaskOutcome, st.none() | st.sampled_from(FailureClass), st.none() | jobs),
        max_size=4,
    ).map(tuple),
)
units = st.tuples(st.text(max_size=20), st.integers(0, 10**6))
payloads = st.builds(
    Payload,
    version=st.text(max_size=20),
    name=st.text(max_size=20),
    stage=st.sampled_from(["prepare", "encode"]),
    round=st.integers(0, 99),
    root=st.text(max_size=20),
    scheduler=st.sampled_from(["local", "slurm"]),
    engine=st.sampled_from(["serial", "dask"]),
    dask=st.none() | st.text(max_size=20),
    memory=st.none() | seconds,
    gpus=st.lists(st.text(max_size=3), max_size=3).map(tuple),
    asked=st.builds(
        StageProfile,
        memory_gb=st.none() | st.floats(0.1, 1e4),
        timeout_minutes=st.integers(1, 10**5),
        exclude=st.none() | st.from_regex(r"n[0-9]{1,3}(,n[0-9]{1,3})*", fullmatch=True),
    ),
    slices=st.lists(st.lists(st.lists(units, max_size=2), max_size=2), max_size=3),
)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return start_drill(tmp_path / "run", Drill())


@given(payload=payloads)
@settings(max_examples=15, deadline=None)
def test_what_tasks_are_given_reads_back_as_written(
    payload: Payload, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("submission")
    payload.write(folder)
    assert Payload.read(folder / "units.json") == payload


@given(outcome=outcomes)
@settings(max_examples=30, deadline=None)
def test_how_tasks_ended_reads_back_as_written(
    outcome: SubmissionOutcome, tmp_path_factory: pytest.TempPathFactory
) -> None:
    made = Submission(tmp_path_factory.mktemp("submission"))
    made.note_outcome(outcome)
    assert made.outcome == outcome
    assert made.ended == outcome.tasks


@given(cut=st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_a_record_that_is_cut_anywhere_counts_as_absent(
    cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    made = Submission(tmp_path_factory.mktemp("submission"))
    made.note_jobs([TaskJob("7_0"), TaskJob("12", start_time=5)])
    made.note_outcome(SubmissionOutcome(units_done=1, tasks=(TaskOutcome(None, None),)))
    for name in ("jobs.json", "outcome.json"):
        whole = (made.path / name).read_bytes()
        (made.path / name).write_bytes(whole[: cut % len(whole)])
    assert made.jobs is None
    assert made.outcome is None
    assert made.ended == ()


def test_the_first_outcome_stays(run: RunFolder, left: Leave) -> None:
    made = left(run, "prepare", [[]])
    for done in (3, 4):
        made.note_outcome(SubmissionOutcome(units_done=done, tasks=()))
    assert made.outcome is not None
    assert made.outcome.units_done == 3


def test_a_folder_without_its_list_of_units_is_no_submission(run: RunFolder, left: Leave) -> None:
    """The submitter died before it had frozen anything."""
    (run.path / "submissions" / "0001").mkdir(parents=True)
    made = left(run, "prepare", [[]])
    assert submissions(run) == unsettled(run) == [made]
    made.note_outcome(SubmissionOutcome(units_done=0, tasks=()))
    assert unsettled(run) == []


def test_units_of_all_tasks_come_in_order(run: RunFolder, left: Leave) -> None:
    made = left(run, "prepare", [[[("a", 0), ("b", 0)]], [[("a", 1)], [("b", 1)]]])
    assert list(made.units()) == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]


def test_a_payload_of_another_version_names_the_key(run: RunFolder, left: Leave) -> None:
    made = left(run, "prepare", [[]])
    value = json.loads(made.units_file.read_bytes())
    made.units_file.write_text(json.dumps(value | {"engine": "spark"}))
    with pytest.raises(DamagedSubmission, match=r"units\.json is damaged .*\(engine: "):
        _ = Submission(made.path).payload


def lose(made: Submission, failure: FailureClass | None = FailureClass.LOST, done: int = 0) -> None:
    job = Job("7_0", made.name, State.FAILED)
    made.note_outcome(SubmissionOutcome(units_done=done, tasks=(TaskOutcome(failure, job),)))


def test_submissions_in_a_row_without_a_commit_ask_the_user(run: RunFolder, left: Leave) -> None:
    for _ in range(FRUITLESS_IN_A_ROW):
        assert given_up(run, "prepare") is None
        lose(left(run, "prepare", [[]]))
    assert "0005/log" in str(given_up(run, "prepare"))
    assert given_up(run, "ingest") is None
    run.next_round()
    assert given_up(run, "prepare") is None
    assert of_round(run, "prepare") == []


@pytest.mark.parametrize(
    ("failure", "done"), [(FailureClass.LOST, 1), (FailureClass.NODE, 0), (FailureClass.TIMEOUT, 0)]
)
def test_a_commit_or_a_lost_turn_begins_the_row_again(
    run: RunFolder, left: Leave, failure: FailureClass, done: int
) -> None:
    for _ in range(FRUITLESS_IN_A_ROW - 1):
        lose(left(run, "prepare", [[]]))
    lose(left(run, "prepare", [[]]), failure, done)
    assert given_up(run, "prepare") is None


def test_the_first_decision_of_a_round_stays(run: RunFolder) -> None:
    decide(run, "prepare", "raise memory_gb")
    decide(run, "prepare", "something else")
    assert given_up(run, "prepare") == "raise memory_gb"


def test_only_processes_that_live_count_as_tasks_of_this_machine(
    run: RunFolder, left: Leave
) -> None:
    import os

    made = left(run, "prepare", [[], [], []], jobs=False, scheduler="local")
    own = os.getpid()
    made.note_jobs(
        [TaskJob(str(own), start_time(own)), TaskJob(str(own), 1), TaskJob("999999999", 5)]
    )
    assert [task.alive for task in tasks_among([made], ())] == [True, False, False]


def test_jobs_that_were_never_noted_are_found_by_their_name(run: RunFolder, left: Leave) -> None:
    made = left(run, "prepare", [[], []], jobs=False)
    queued = [Job(f"7_{n}", made.name, State.RUNNING) for n in range(2)]
    other = Job("8_0", "gradenc-other", State.RUNNING)
    found = tasks_among([made], [*queued, other])
    assert [(task.index, task.job_id, task.alive) for task in found] == [
        (-1, "7_0", True),
        (-1, "7_1", True),
    ]


def test_a_noted_job_that_the_queue_has_forgotten_is_not_alive(run: RunFolder, left: Leave) -> None:
    made = left(run, "prepare", [[], []])
    found = tasks_among([made], [Job("1_1", made.name, State.PENDING)])
    assert [(task.job_id, task.alive) for task in found] == [("1_0", False), ("1_1", True)]


def test_units_of_living_tasks_of_other_runs_are_claimed(tmp_path: Path, left: Leave) -> None:
    import os

    root = tmp_path / "root"
    one, other = (start_drill(tmp_path / name, Drill(), root) for name in "ab")
    own = os.getpid()
    alive = left(other, "prepare", [[[("prepare/x", 0)]]], jobs=False, scheduler="local")
    alive.note_jobs([TaskJob(str(own), start_time(own))])
    dead = left(other, "prepare", [[[("prepare/x", 1)]]], jobs=False, scheduler="local")
    dead.note_jobs([TaskJob("999999999", 5)])
    assert claimed_by_others(one, on_slurm=False) == {("prepare/x", 0)}
    assert claimed_by_others(other, on_slurm=False) == frozenset()


@given(
    rounds=st.lists(
        st.none() | st.lists(st.sampled_from(["extract", "encode", "error"]), min_size=1),
        max_size=5,
    ),
    since=st.integers(0, 5),
)
def test_rounds_are_counted_for_those_they_name(rounds: list, since: int) -> None:
    only = {n: tuple(names) for n, names in enumerate(rounds, 1) if names is not None}
    wishes = Wishes(round=len(rounds), only=only)
    expected = sum(names is None or "extract" in names for names in rounds[since:])
    assert wishes.renewals({"extract"}, since) == expected
    assert Wishes.model_validate_json(wishes.model_dump_json()) == wishes
