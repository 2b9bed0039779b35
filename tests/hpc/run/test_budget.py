"""What a run's limit of GPU hours holds, and two runs of which one cannot ask SLURM."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from hpc.config.profile import Profile, StageProfile
from hpc.faults.triage import TaskOutcome
from hpc.run import advance, submissions
from hpc.run.advance import create_stores, plan_stage
from hpc.run.budget import gpu_hours, over_budget
from hpc.run.drill import start_drill
from hpc.run.folder import RunFolder
from hpc.run.submissions import Submission, SubmissionOutcome, claimed_by_others, given_up
from hpc.slurm.client import SlurmUnavailable
from hpc.slurm.jobs import Job, State
from jobs.drill import Drill

Leave = Callable[..., Submission]
GPU = StageProfile.model_validate({"gpus_per_node": 1})


@pytest.fixture
def ended(left: Leave) -> Callable[..., None]:
    """Return a function that leaves a submission of one task that held a GPU."""

    def leave(run: RunFolder, **job: float) -> None:
        made = left(run, "ingest", [[]], jobs=False)
        held = replace(Job("7_0", made.name, State.COMPLETED, gpus=1), **job)
        made.note_outcome(SubmissionOutcome(units_done=1, tasks=(TaskOutcome(None, held, 1),)))

    return leave


def test_hours_of_preempted_runs_count(tmp_path: Path, ended: Callable[..., None]) -> None:
    run = start_drill(tmp_path / "run", Drill())
    ended(run, elapsed_s=900.0, earlier_s=2700.0)
    assert gpu_hours(run) == 1.0


def test_a_spent_limit_lets_no_pilot_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ended: Callable[..., None]
) -> None:
    run = start_drill(tmp_path / "run", Drill())
    run.change(max_gpu_hours=1.0)
    assert over_budget(run, "prepare", GPU, [[("unmeasured", 0)]], {}) is None
    ended(run, elapsed_s=3600.0)
    submitted: list[str] = []
    monkeypatch.setattr(advance, "submit", lambda run, stage, *_: submitted.append(stage))
    profile = Profile(name="test", scheduler="local", prepare=GPU.model_copy())
    with run.lock():
        advance.advance(run, profile)
    assert "1 are spent" in str(given_up(run, "prepare"))
    assert submitted == ["ingest"]


def test_a_machine_without_slurm_does_not_wait_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: Leave
) -> None:
    """Another run of the root is SLURM's; this one is made where no queue can be asked."""

    def queue(names: object) -> None:
        raise SlurmUnavailable("`squeue` is not installed on this machine")

    root = tmp_path / "root"
    other, own = (start_drill(tmp_path / name, Drill(), root) for name in "ab")
    create_stores(other, "prepare", plan_stage(other, "prepare"))
    left(other, "ingest", [[]], jobs=False)
    monkeypatch.setattr(submissions, "queue", queue)
    assert submissions.tasks_of([]) == []
    assert claimed_by_others(own, on_slurm=False) == frozenset()
    with pytest.raises(SlurmUnavailable):
        claimed_by_others(own, on_slurm=True)
