"""How ended submissions are recorded, and what the next one asks for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hpc.config.profile import Profile, StageProfile
from hpc.faults.triage import FailureClass, TaskOutcome
from hpc.run import outcomes
from hpc.run.folder import RunFolder
from hpc.run.outcomes import escalated, settle, settle_ended
from hpc.run.submissions import Submission, SubmissionOutcome, Task, given_up, unsettled
from hpc.slurm.jobs import Job, State
from storage_schemas.protocol.attempts import begin
from storage_schemas.protocol.store import Store

Leave = Callable[..., Submission]


@pytest.fixture
def run(drilled: Callable[..., RunFolder], tmp_path: Path) -> RunFolder:
    """Return a drill whose stage `prepare` has four units, none of them tried."""
    return drilled(tmp_path / "run", 1)


def prepared(run: RunFolder) -> Store:
    (store,) = run.stores("prepare")
    return store


def slices(run: RunFolder, *parts: list[int]) -> list:
    reference = prepared(run).reference
    return [[[(reference, unit)] for unit in part] for part in parts]


def remember(monkeypatch: pytest.MonkeyPatch, *jobs: Job) -> None:
    """Let SLURM remember these jobs."""
    monkeypatch.setattr(outcomes, "jobs_of", lambda *_: {job.job_id: job for job in jobs})


def test_each_task_is_judged_by_its_own_units(
    run: RunFolder, left: Leave, computed: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    computed(run, "prepare", job="1_0")
    store = prepared(run)
    store.record_path(store.units[3]).unlink()
    made = left(run, "prepare", slices(run, [0, 1], [2, 3]))
    remember(
        monkeypatch,
        Job("1_0", made.name, State.COMPLETED),
        Job("1_1", made.name, State.TIMEOUT, elapsed_s=60.0),
    )
    settle(run, made, ())
    assert made.outcome is not None
    assert made.outcome.units_done == 3
    first, second = made.ended
    assert (first.failure, first.units_done, first.units) == (None, 2, 2)
    assert (second.failure, second.units_done, second.units) == (FailureClass.TIMEOUT, 1, 2)


def test_a_task_of_which_every_unit_failed_by_itself_is_no_failure(
    run: RunFolder, left: Leave, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = prepared(run)
    made = left(run, "prepare", slices(run, [0, 1]))
    for index in range(2):
        attempt = begin(store, store.units[index], "1_0", 0)
        assert attempt is not None
        attempt.finish("failed", error="ValueError: no")
    remember(monkeypatch, Job("1_0", made.name, State.COMPLETED))
    settle(run, made, ())
    assert [task.failure for task in made.ended] == [None]


def test_attempts_of_another_job_are_not_this_tasks(
    run: RunFolder, left: Leave, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = prepared(run)
    made = left(run, "prepare", slices(run, [0]))
    attempt = begin(store, store.units[0], "other", 0)
    assert attempt is not None
    attempt.finish("failed", error="OSError: [Errno 116] Stale file handle")
    remember(monkeypatch, Job("1_0", made.name, State.NODE_FAIL))
    settle(run, made, ())
    assert [task.failure for task in made.ended] == [FailureClass.NODE]


def test_jobs_whose_submitter_died_are_cancelled_and_their_commits_count(
    run: RunFolder, left: Leave, computed: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    computed(run, "prepare")
    made = left(run, "prepare", slices(run, [0, 1, 2, 3]), jobs=False)
    cancelled: list[str] = []
    monkeypatch.setattr(outcomes, "cancel", cancelled.extend)
    remember(monkeypatch)
    tasks = [Task(made, -1, "9_0", alive=True), Task(made, -1, "9_1", alive=False)]
    settle(run, made, tasks)
    assert cancelled == ["9_0"]
    assert made.jobs == ()
    assert made.outcome == SubmissionOutcome(units_done=4, tasks=())


def test_a_submission_with_a_living_task_is_not_settled(
    run: RunFolder, left: Leave, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended, alive = (left(run, "prepare", slices(run, [0])) for _ in range(2))
    job = Job("2_0", alive.name, State.RUNNING)
    monkeypatch.setattr("hpc.run.submissions.queue", lambda names: [job])
    remember(monkeypatch, Job("1_0", ended.name, State.FAILED, exit_code=1))
    settle_ended(run)
    assert unsettled(run) == [alive]
    assert [task.failure for task in ended.ended] == [FailureClass.LOST]


def test_processes_of_this_machine_need_no_slurm(
    run: RunFolder, left: Leave, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("SLURM was asked")

    monkeypatch.setattr(outcomes, "jobs_of", refuse)
    monkeypatch.setattr("hpc.run.submissions.queue", refuse)
    made = left(run, "prepare", slices(run, [0]), scheduler="local")
    settle_ended(run)
    assert [task.job for task in made.ended] == [None]


PROFILE = Profile.model_validate(
    {"name": "x", "scheduler": "local", "prepare": {"timeout_minutes": 60}}
)


def end(made: Submission, failure: FailureClass | None, **job: Any) -> None:
    held = Job("1_0", made.name, State.FAILED, **job)
    task = TaskOutcome(failure, held, units=1, job_id="1_0")
    made.note_outcome(SubmissionOutcome(units_done=0, tasks=(task,)))


def test_the_first_submission_of_a_round_asks_for_what_the_profile_says(
    run: RunFolder, left: Leave
) -> None:
    asked = StageProfile(memory_gb=1, max_memory_gb=8)
    end(left(run, "prepare", slices(run, [0]), asked=asked), FailureClass.HOST_MEMORY)
    raised = escalated(run, "prepare", PROFILE)
    assert raised is not None
    assert raised.memory_gb == 1.5
    run.next_round()
    assert escalated(run, "prepare", PROFILE) == PROFILE.prepare


def test_memory_is_raised_from_one_submission_to_the_next(run: RunFolder, left: Leave) -> None:
    asked = StageProfile(memory_gb=1, max_memory_gb=3)
    found = []
    while asked is not None:
        found.append(asked.memory_gb)
        end(left(run, "prepare", slices(run, [0]), asked=asked), FailureClass.HOST_MEMORY)
        asked = escalated(run, "prepare", PROFILE)
    assert found == [1, 1.5, 2.2, 3]
    assert "killed for memory at 3 GB" in str(given_up(run, "prepare"))


def test_a_partitions_limit_ends_the_raising_of_time(
    run: RunFolder, left: Leave, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Allowed:
        max_time_s = 80 * 60.0

    monkeypatch.setattr(outcomes, "limits", lambda *_: Allowed)
    slurm = PROFILE.model_copy(update={"scheduler": "slurm"})
    asked = PROFILE.prepare
    end(left(run, "prepare", slices(run, [0]), asked=asked), FailureClass.TIMEOUT)
    raised = escalated(run, "prepare", slurm)
    assert raised is not None
    assert raised.timeout_minutes == 80
    end(left(run, "prepare", slices(run, [0]), asked=raised), FailureClass.TIMEOUT)
    assert escalated(run, "prepare", slurm) is None
    assert "finished no unit within 80 minutes" in str(given_up(run, "prepare"))


def test_a_bad_node_is_left_out_beside_those_of_the_profile(run: RunFolder, left: Leave) -> None:
    asked = StageProfile(exclude="n1")
    end(left(run, "prepare", slices(run, [0]), asked=asked), FailureClass.NODE, node="n7")
    changed = escalated(run, "prepare", PROFILE)
    assert changed is not None
    assert changed.exclude == "n1,n7"
