"""Gates and submissions where SLURM refuses, and who is told."""

import os
import signal
import stat
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from submitit.core.utils import FailedJobError

from hpc.config.profile import GateProfile, Profile, StageProfile, load_profile
from hpc.run import advance, drive, gate, gate_job, notify
from hpc.run.drill import start_drill
from hpc.run.folder import RunFolder
from hpc.run.state import is_complete
from hpc.run.submissions import given_up
from hpc.slurm import submit
from hpc.slurm.client import Refused, SlurmUnavailable
from hpc.slurm.jobs import Job, State
from jobs.drill import Drill
from jobs.spec import STAGES

SLURM = Profile.model_validate({"name": "test", "scheduler": "slurm"})


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = start_drill(tmp_path / "run", Drill())
    folder.keep_profile(SLURM)
    return folder


@pytest.fixture
def told(run: RunFolder, tmp_path: Path) -> Callable[[], list[str]]:
    """Return what returns the sentences that the user's command was given."""
    script, output = tmp_path / "tell.sh", tmp_path / "told"
    script.write_text(f'#!/bin/sh\necho "$1" >> {output}\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    run.change(notify=str(script))
    return lambda: output.read_text().splitlines() if output.exists() else []


@pytest.mark.parametrize(
    ("state", "restarts", "started"),
    [
        (State.PENDING, 0, []),
        (State.RUNNING, 1, []),  # put back since it looked
        (State.RUNNING, 0, ["gate"]),
        (State.COMPLETING, 1, ["gate"]),
    ],
)
def test_a_gate_that_has_looked_already_is_not_relied_on(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, state: State, restarts: int, started: list
) -> None:
    """It tells the user, or ends, while somebody else submits: it would never see that."""
    own = Job("12", gate.gate_name(run), state, restarts=restarts)
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setattr("hpc.run.gate_job.step", lambda *_: None)
    if state != State.PENDING:
        gate_job.run_gate(str(run.path))
    monkeypatch.delenv("SLURM_JOB_ID")
    monkeypatch.setattr(gate, "queue", lambda names: [own])
    found: list[str] = []
    monkeypatch.setattr(gate, "start_job", lambda *_, **__: found.append("gate"))
    gate.ensure_gate(run, SLURM, ["7_0"])
    assert found == started


def test_the_function_that_a_gate_runs_is_found_by_its_name(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[RunFolder] = []
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setattr("hpc.run.gate_job.step", lambda run, _: steps.append(run))
    submit.call(gate.JOB, str(run.path))
    assert steps == [run]


def test_a_gate_that_slurm_refuses_for_long_goes_back_into_the_queue(
    run: RunFolder, told: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(*_: object) -> None:
        raise SlurmUnavailable("sbatch refused it: QOSMaxSubmitJobPerUserLimit")

    asked: list[tuple[str, ...]] = []
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setattr("hpc.run.gate_job.step", step)
    monkeypatch.setattr(gate_job, "slurm", lambda *words: asked.append(words))
    monkeypatch.setattr(gate_job, "PATIENCE_S", 0.0)
    monkeypatch.setattr(gate_job, "POLL_S", 0.0)
    for restart in ("0", "1"):
        monkeypatch.setenv("SLURM_RESTART_COUNT", restart)
        gate_job.run_gate(str(run.path))
    assert asked == [("scontrol", "requeue", "12")] * 2
    (sentence,) = told()
    assert "QOSMaxSubmitJobPerUserLimit" in sentence


def test_of_a_gate_that_fails_the_user_is_told(
    run: RunFolder, told: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setattr("hpc.run.gate_job.step", step)
    with pytest.raises(OSError, match="disk full"):
        gate_job.run_gate(str(run.path))
    assert "disk full" in told()[0]


@pytest.mark.parametrize(("minutes", "ends"), [(10, False), (0, True)])
def test_a_gate_ends_by_a_warning_only_when_its_time_is_over(
    run: RunFolder, told: Callable, monkeypatch: pytest.MonkeyPatch, minutes: int, ends: bool
) -> None:
    """One that is preempted goes on until SLURM kills and requeues it; else nobody would."""
    hurried = GateProfile.model_construct(timeout_minutes=minutes)
    kept = SLURM.model_copy(update={"gate": hurried})
    before = signal.getsignal(signal.SIGUSR2)
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setattr(RunFolder, "profile", lambda _: kept)
    monkeypatch.setattr("hpc.run.gate_job.step", lambda *_: os.kill(os.getpid(), signal.SIGUSR2))
    try:
        with pytest.raises(TimeoutError) if ends else nullcontext():
            gate_job.run_gate(str(run.path))
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert [("raise timeout_minutes" in sentence) for sentence in told()] == [True] * ends


def test_the_foreground_rests_longer_than_it_looks_not_than_it_plans(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = [9.0, 3.0, 3.5, 60.0, 4.0]
    now = iter([0.0, *np.repeat(np.cumsum(steps), 2).tolist()])
    monkeypatch.setattr(drive, "monotonic", lambda: next(now))
    monkeypatch.setattr(drive, "step", lambda *_: {})
    monkeypatch.setattr(drive, "is_complete", lambda _: False)
    monkeypatch.setattr(drive, "is_stuck", lambda *_: False)
    rests: list[float] = []

    def rest(seconds: float) -> None:
        rests.append(seconds)
        if len(rests) == len(steps):
            raise KeyboardInterrupt

    monkeypatch.setattr(drive, "sleep", rest)
    with pytest.raises(KeyboardInterrupt):
        drive.drive(run, SLURM)
    assert rests == [10.0, 12.0, 12.0, 14.0, 16.0]


def test_driving_a_run_prints_nothing_and_tells_a_callable(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = start_drill(tmp_path / "run", Drill(units=dict.fromkeys(STAGES, 2), seconds=0.01))
    profile = load_profile("local")
    run.keep_profile(profile)
    committed: list[int] = []
    states = drive.drive(
        run, profile, lambda s: committed.append(sum(x.count("committed") for x in s.values()))
    )
    assert is_complete(states)
    assert committed == sorted(committed)
    assert committed[-1] == 2 * len(STAGES)
    assert capfd.readouterr() == ("", "")


def test_two_sentences_of_a_round_are_told_once_each(run: RunFolder, told: Callable) -> None:
    for sentence in ("needs you", "complete", "needs you", "complete"):
        notify.notify(run, sentence)
    assert told() == ["needs you", "complete"]


@pytest.mark.parametrize("command", ["/no/such/command", "'"])
def test_a_command_that_cannot_be_run_harms_nothing(
    run: RunFolder, command: str, caplog: pytest.LogCaptureFixture
) -> None:
    run.change(notify=command)
    notify.notify(run, "complete")
    assert "failed" in caplog.text


def test_a_lasting_refusal_is_the_users_to_decide(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise Refused("sbatch refused it: Invalid account or account/partition combination")

    monkeypatch.setattr(advance, "submit", refuse)
    for _ in range(2):
        with pytest.raises(Refused), run.lock():
            advance.advance(run, SLURM.model_copy(update={"scheduler": "local"}))
    assert "Invalid account" in str(given_up(run, "prepare"))


REFUSALS = {
    "Batch job submission failed: Invalid qos specification": Refused,
    "Batch job submission failed: Requested node configuration is not available": Refused,
    "Batch job submission failed: Job violates accounting/QOS policy": SlurmUnavailable,
    "Batch job submission failed: Unable to contact slurm controller": SlurmUnavailable,
}


@pytest.mark.parametrize("said", REFUSALS)
def test_only_lasting_refusals_are_lasting(monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    executor = _Executor(taken=0, said=said)
    monkeypatch.setattr(submit, "_executor", lambda *_: executor)
    with pytest.raises(SlurmUnavailable) as caught:
        submit.start_array("a", Path(), print, [(1,), (2,)], StageProfile(), 10, 1)
    assert caught.type is REFUSALS[said]


def test_arrays_that_were_taken_are_kept_when_the_next_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not noted they would be cancelled, and their units begun again."""
    executor = _Executor(taken=2, said="Job violates accounting/QOS policy")
    monkeypatch.setattr(submit, "_executor", lambda *_: executor)
    arguments = [(n,) for n in range(5)]
    ids = submit.start_array("a", Path(), print, arguments, StageProfile(), 2, 1)
    assert ids == ["1_0", "1_1", "2_0", "2_1"]


class _Executor:
    """Takes some arrays, then refuses."""

    def __init__(self, taken: int, said: str) -> None:
        self.taken, self.said, self.n = taken, said, 0

    def map_array(self, function: object, *arguments: tuple) -> list:
        if self.n == self.taken:
            raise FailedJobError(f"sbatch: error: {self.said}")
        self.n += 1
        return [Job(f"{self.n}_{i}", "a", State.PENDING) for i in range(len(arguments[0]))]
