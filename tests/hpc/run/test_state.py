"""How attempts and submissions are judged that ended as only a cluster lets them end."""

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from hpc.faults.breaker import Breaker
from hpc.faults.triage import FailureClass, TaskOutcome
from hpc.node.gpu import gpu_type
from hpc.node.payload import DamagedSubmission
from hpc.run.advance import create_stores, plan_stage
from hpc.run.drill import start_drill
from hpc.run.folder import RunFolder
from hpc.run.outcomes import settle
from hpc.run.state import is_stuck, run_state, stage_state
from hpc.run.submissions import (
    Submission,
    SubmissionOutcome,
    TaskJob,
    given_up,
    submissions,
    unsettled,
)
from hpc.slurm.jobs import Job, State
from jobs.drill import Drill
from jobs.runner import Outcome
from storage_schemas.protocol.store import Store

Leave = Callable[..., Submission]
UNITS = 4


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """Return a drill whose first stage is planned and has four units."""
    units = {"prepare": UNITS, "ingest": 1, "extract": 1, "encode": 1, "compare": 1}
    folder = start_drill(tmp_path / "run", Drill(units=units))
    create_stores(folder, "prepare", plan_stage(folder, "prepare"))
    return folder


def prepared(run: RunFolder) -> Store:
    return run.stores("prepare")[0]


def attempt(run: RunFolder, unit: int, n: int, job: str, outcome="running", error=None) -> None:
    """Leave the record of an attempt whose process is gone."""
    store = prepared(run)
    path = store.path / "attempts" / store.record_path(store.units[unit]).parent.name
    path.mkdir(parents=True, exist_ok=True)
    record = {
        "unit": store.unit_id(store.units[unit]),
        "n": n,
        "job": job,
        "restarts": 0,
        "round": 0,
        "host": "gone",
        "pid": 1,
        "pid_start": 0,
        "boot_id": "another",
        "started": datetime.now(UTC).isoformat(),
        "outcome": outcome,
        "error": error,
        "traceback": error,
        "used": {},
    }
    file = path / f"{unit:05d}.{n}.json"
    file.write_text(json.dumps(record))
    os.utime(file, (0, 0))


@pytest.fixture
def submission(run: RunFolder, left: Leave) -> Leave:
    """Return a function that leaves a submission of one task, with the id of its job."""

    def leave(job: str, units: range = range(UNITS)) -> Submission:
        reference = prepared(run).reference
        made = left(run, "prepare", [[[(reference, unit)] for unit in units]], jobs=False)
        made.note_jobs([TaskJob(job)])
        return made

    return leave


def end(made: Submission, failure: str, job: str) -> None:
    task = TaskOutcome(FailureClass(failure), Job(job, made.name, State.FAILED), job_id=job)
    made.note_outcome(SubmissionOutcome(units_done=0, tasks=(task,)))


def settled(run: RunFolder, job: Job, monkeypatch: pytest.MonkeyPatch) -> str | None:
    """Settle the only submission, whose task SLURM remembers as `job`."""
    monkeypatch.setattr("hpc.run.outcomes.jobs_of", lambda *_: {job.job_id: job})
    (only,) = submissions(run)
    settle(run, only, ())
    (task,) = only.ended
    return task.failure


@pytest.mark.parametrize(
    ("failure", "status"),
    [("host memory", "pending"), ("timeout", "pending"), ("lost", "failed")],
)
def test_what_is_answered_by_more_is_not_held_against_a_unit(
    run: RunFolder, submission: Leave, failure: str, status: str
) -> None:
    """Memory is raised up to the profile's limit, however many tries that takes."""
    for n in range(1, 4):
        attempt(run, 0, n, f"{n}_0")
        end(submission(f"{n}_0"), failure, f"{n}_0")
    assert stage_state(run, "prepare", run.stores("prepare")).units[0].status == status


@pytest.mark.parametrize(("failure", "stops"), [("host memory", False), ("lost", True)])
def test_a_row_without_a_commit_stops_what_is_not_answered(
    run: RunFolder, submission: Leave, failure: str, stops: bool
) -> None:
    """From 8 GB to 64 takes six submissions."""
    for n in range(1, 7):
        end(submission(f"{n}_0"), failure, f"{n}_0")
    assert (given_up(run, "prepare") is not None) == stops


def test_the_tries_of_another_run_are_not_held_against_this_one(run: RunFolder) -> None:
    """It shares the store and may have been preempted three times: this run would ask its user."""
    for n in range(1, 4):
        attempt(run, 0, n, f"90{n}_0")
    assert stage_state(run, "prepare", run.stores("prepare")).units[0].status == "pending"


@pytest.mark.parametrize("node", [None, "n1"])
def test_a_gpu_that_nobody_can_name_stops_no_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, node: str | None
) -> None:
    """The driver knows no parts of GPUs; SLURM does not answer, or is not there."""
    for command in ("nvidia-smi", "scontrol"):
        (tmp_path / command).write_text("#!/bin/sh\necho 'No devices were found'\nexit 6\n")
        (tmp_path / command).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-1")
    monkeypatch.delenv("SLURMD_NODENAME", raising=False)
    if node:
        monkeypatch.setenv("SLURMD_NODENAME", node)
    assert gpu_type() is None


def test_what_died_before_its_job_was_requeued_is_not_lost(
    run: RunFolder, submission: Leave, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job came back before the lease of its lost node had run out, and passed the unit over."""
    submission("7_0", range(1))
    attempt(run, 0, 1, "7_0")
    job = Job("7_0", "gradenc-test-0001", State.COMPLETED, node="n2", restarts=1)
    assert settled(run, job, monkeypatch) == "preempted"


def test_a_unit_that_met_a_bad_node_has_it_left_out(
    run: RunFolder, submission: Leave, monkeypatch: pytest.MonkeyPatch
) -> None:
    submission("7_0")
    attempt(run, 0, 1, "7_0", "failed", "OSError: [Errno 116] Stale file handle")
    job = Job("7_0", "gradenc-test-0001", State.COMPLETED, node="n2")
    assert settled(run, job, monkeypatch) == "node"


def test_a_task_on_a_bad_node_begins_no_other_unit(tmp_path: Path) -> None:
    """Nor does it stop the tasks on other nodes, as failures of the code do."""
    breaker, elsewhere = Breaker(tmp_path), Breaker(tmp_path)
    bad = "Traceback (most recent call last):\nRuntimeError: CUDA error: uncorrectable ECC error"
    breaker(Outcome(0, bad))
    assert breaker.stopped
    for _ in range(5):
        breaker(Outcome(0, bad))
    assert not elsewhere.stopped


def test_a_commit_is_noted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    breaker = Breaker(tmp_path)
    breaker(Outcome(1, None))
    monkeypatch.setattr(
        "hpc.faults.breaker.write_exclusive", lambda path, data: written.append(path)
    )
    breaker(Outcome(1, None))
    assert written == []


def test_a_run_that_waits_for_a_place_in_the_queue_is_not_stuck(run: RunFolder) -> None:
    """One unit failed, but the others wait only until the user's queue has room."""
    attempt(run, 0, 1, "7_0", "failed", "ValueError: no")
    assert not is_stuck(run, run_state(run))
    for unit in range(1, UNITS):
        attempt(run, unit, 1, "7_0", "failed", "ValueError: no")
    assert is_stuck(run, run_state(run))


@pytest.mark.parametrize("content", [b"", b"[]", b'{"name": "gradenc-1"}', b'{"slices": {}}'])
def test_a_damaged_submission_is_refused_in_a_sentence(
    run: RunFolder, submission: Leave, content: bytes
) -> None:
    made = submission("7_0")
    made.units_file.write_bytes(content)
    with pytest.raises(DamagedSubmission, match=r"units\.json is damaged .* remove the folder"):
        given_up(run, "prepare")


def test_a_damaged_outcome_is_recorded_again(
    run: RunFolder, submission: Leave, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = submission("7_0")
    (made.path / "outcome.json").write_bytes(b'{"tasks"')
    assert unsettled(run) == [made]
    job = Job("7_0", made.name, State.NODE_FAIL, node="n2")
    assert settled(run, job, monkeypatch) == "node"
    assert unsettled(run) == []


def test_jobs_that_were_not_noted_whole_count_as_not_noted(
    run: RunFolder, submission: Leave
) -> None:
    made = submission("7_0")
    (made.path / "jobs.json").write_bytes(b'[{"job_id"')
    assert made.jobs is None
