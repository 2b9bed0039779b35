"""Use of a drill's tasks, with what a real SLURM 22.05 told about such tasks, and with none."""

import json
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hpc.config.profile import GB, Profile, StageProfile
from hpc.faults.triage import FailureClass
from hpc.inspect.efficiency import StageUse, efficiency
from hpc.run.folder import RunFolder
from hpc.run.submissions import submissions, unsettled
from hpc.slurm.jobs import Job, State
from storage_schemas.protocol.attempts import latest_attempts

GRADENC = str(Path(sys.executable).with_name("gradenc"))
JOB = Job(
    "7_0",
    "gradenc-test",
    State.COMPLETED,
    node="n2",
    cpu_s=0.944,
    cpus=1,
    elapsed_s=10.0,
    limit_s=600.0,
    max_rss=142487552,
    requested_memory=1073741824,
)
"""What was kept of a task of a drill on the development cluster."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    run = tmp_path_factory.mktemp("finished") / "run"
    command = [GRADENC, "drill", str(run), "--units", "4", "--seconds", "0.1"]
    subprocess.run(command, check=True, capture_output=True)
    folder = RunFolder.open(run)
    # Units are committed a moment before the last task ends; how it ended is noted after that.
    for _ in range(20):
        subprocess.run([GRADENC, "report", "efficiency", str(run)], check=True, capture_output=True)
        if not unsettled(folder):
            return folder
    raise AssertionError(f"tasks of {run} do not end")


def use_of(run: RunFolder, stage: str) -> StageUse:
    return next(use for use in efficiency(run) if use.stage == stage)


def told(run: RunFolder, stage: str, asked: dict[str, Any], **facts: Any) -> StageUse:
    """Let SLURM have told `facts` about a stage's task that asked for `asked`."""
    run.keep_profile(Profile.model_validate({"name": "x", "scheduler": "slurm", stage: asked}))
    submission = next(s for s in submissions(run) if s.stage == stage)
    payload, outcome = submission.payload, submission.outcome
    assert outcome is not None
    failure = facts.pop("failure", None)
    tasks = tuple(
        replace(task, failure=failure, job=replace(JOB, job_id=task.job_id, **facts))
        for task in outcome.tasks
    )
    files = {
        submission.units_file: payload.model_copy(
            update={"asked": StageProfile.model_validate(payload.asked.model_dump() | asked)}
        ),
        submission.path / "outcome.json": outcome.model_copy(update={"tasks": tasks}),
    }
    for path, record in files.items():
        path.write_text(record.model_dump_json())
    return use_of(run, stage)


def test_on_this_machine_only_the_processes_tell(finished: RunFolder) -> None:
    use = use_of(finished, "compare")
    (store,) = finished.stores("compare")
    assert use.memory == latest_attempts(store)[0].used.max_rss > 10 * 2**20
    assert use.tasks == 1
    assert use.cpu_share is use.memory_asked is use.longest_s is use.limit_s is None
    assert use.gpu_hours is use.unit_share is None
    assert use.suggestions == ()


def test_shares_are_of_what_was_held(finished: RunFolder) -> None:
    use = told(finished, "extract", {}, gpus=2, cpus=4, cpu_s=10.0, elapsed_s=1.0)
    (store,) = finished.stores("extract")
    inside = sum(attempt.used.seconds for attempt in latest_attempts(store).values())
    assert use.cpu_share == 2.5
    assert use.gpu_hours == pytest.approx(2 / 3600)
    assert use.unit_share == pytest.approx(inside)


def test_attempts_before_a_requeue_are_not_of_the_tasks_time(finished: RunFolder) -> None:
    assert told(finished, "extract", {}, restarts=1).unit_share == 0.0


@pytest.mark.parametrize(
    ("asked", "facts", "suggestion"),
    [
        ({"memory_gb": 64}, {"max_rss": 9 * GB, "requested_memory": 64 * GB}, {"memory_gb": 12}),
        ({"memory_gb": 14}, {"max_rss": 9 * GB, "requested_memory": 14 * GB}, {}),
        (
            {"memory_gb": 64, "ranks_per_node": 4},
            {"max_rss": 9 * GB, "requested_memory": 64 * GB},
            {"memory_gb": 47},
        ),
        ({}, {"elapsed_s": 3000.0, "limit_s": 86400.0}, {"timeout_minutes": 65}),
        ({}, {"elapsed_s": 3000.0, "limit_s": 5000.0}, {}),
        ({"threads": 8}, {"cpus": 8, "cpu_s": 20.0, "elapsed_s": 10.0}, {"threads": 2}),
        ({"threads": 8}, {"cpus": 8, "cpu_s": 70.0, "elapsed_s": 10.0}, {}),
        ({"threads": 8}, {"cpus": 8, "cpu_s": None}, {}),
    ],
)
def test_what_to_ask_for_instead(
    finished: RunFolder, asked: dict[str, Any], facts: dict[str, Any], suggestion: dict[str, Any]
) -> None:
    use = told(
        finished, "ingest", {"memory_gb": 1, "ranks_per_node": 1, "threads": 1} | asked, **facts
    )
    assert tomllib.loads("\n".join(use.suggestions)) == suggestion


def test_tasks_that_were_killed_suggest_what_the_last_ones_asked_for(finished: RunFolder) -> None:
    told(
        finished,
        "encode",
        {"memory_gb": 96},
        failure=FailureClass.HOST_MEMORY,
        requested_memory=96 * GB,
    )
    profile = {"name": "x", "scheduler": "slurm", "encode": {"memory_gb": 64}}
    finished.keep_profile(Profile.model_validate(profile))
    (suggestion,) = use_of(finished, "encode").suggestions
    assert tomllib.loads(suggestion) == {"memory_gb": 96}


def test_the_command_prints_lines_for_the_profile(finished: RunFolder) -> None:
    told(finished, "prepare", {"memory_gb": 8}, requested_memory=8 * GB)
    command = [GRADENC, "report", "efficiency", str(finished.path)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "not known" in printed
    lines = printed.partition("for the profile:")[2]
    assert tomllib.loads(lines)["prepare"] == {"memory_gb": 1}
    assert json.loads((finished.path / "profile.json").read_bytes())["prepare"] == {"memory_gb": 8}
