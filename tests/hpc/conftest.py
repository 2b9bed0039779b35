"""Outputs of SLURM's commands, recorded on a real cluster (version 22.05).

The first line of a recording is the command, a last one that begins with `#` its exit code and what
it wrote to stderr. Those in `slurm/recorded/by_hand` are written from the manual, for states that
such a cluster cannot produce.
"""

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hpc.config.profile import StageProfile
from hpc.node.payload import Payload
from hpc.run.advance import create_stores, items, plan_stage
from hpc.run.drill import start_drill
from hpc.run.folder import RunFolder
from hpc.run.state import stage_state
from hpc.run.submissions import Submission, TaskJob
from hpc.slurm import accounting, queue
from hpc.slurm.jobs import Job
from jobs.drill import Drill
from jobs.runner import run_items
from jobs.spec import STAGES
from storage_schemas.protocol.seal import seal

FOLDER = Path(__file__).parent / "slurm" / "recorded"


@dataclass(frozen=True)
class Recording:
    """What one command printed and how it ended."""

    command: str
    stdout: str
    code: int = 0
    stderr: str = ""


@pytest.fixture(scope="session")
def drilled() -> Callable[..., RunFolder]:
    """Return a function that runs the first stages of a drill in this process.

    They are sealed, except the last of them, whose units are left as they are.
    """

    def run(path: Path, n_stages: int, units: int = 4, **drill: Any) -> RunFolder:
        wanted = Drill(units=dict.fromkeys(STAGES, units), seconds=0.0, values=8, **drill)
        folder = start_drill(path, wanted)
        for number, stage in enumerate(list(STAGES)[:n_stages], 1):
            stores = create_stores(folder, stage, plan_stage(folder, stage))
            if number < n_stages:
                compute(folder, stage)
                for store in stores:
                    seal(store)
        return folder

    return run


@pytest.fixture(scope="session")
def computed() -> Callable[..., None]:
    """Return the function that computes the pending units of a stage in this process."""
    return compute


def compute(run: RunFolder, stage: str, job: str = "test", round_: int = 0) -> None:
    """Compute the pending units of a stage in this process."""
    pending = items(stage_state(run, stage, run.stores(stage)))
    run_items(pending, root=run.root, job=job, round_=round_, micro_batch=1, threads=1)


@pytest.fixture(scope="session")
def left() -> Callable[..., Submission]:
    """Return a function that leaves the folder of a submission to SLURM, one job per slice."""

    def leave(run: RunFolder, stage: str, slices: list, jobs: bool = True, **given: Any):
        number = 1 + len(list((run.path / "submissions").glob("*")))
        path = run.path / "submissions" / f"{number:04d}"
        path.mkdir(parents=True)
        known: dict[str, Any] = {
            "version": "0",
            "name": f"gradenc-test-{number:04d}",
            "stage": stage,
            "round": run.round,
            "root": "../../stores",
            "scheduler": "slurm",
            "engine": "serial",
            "dask": None,
            "memory": None,
            "gpus": (),
            "asked": StageProfile(),
            "slices": slices,
        }
        Payload(**known | given).write(path)
        made = Submission(path)
        if jobs:
            made.note_jobs([TaskJob(f"{number}_{index}") for index in range(len(slices))])
        return made

    return leave


@pytest.fixture(scope="session")
def read():
    """Return the function that reads a recording."""
    return _read


@pytest.fixture(scope="session")
def read_jobs():
    """Return the function that reads a recording's jobs by their number."""

    def jobs(name: str) -> dict[str, Job]:
        parse = queue.parse if name.startswith("squeue") else accounting.parse
        return {job.job_id: job for job in parse(_read(name).stdout)}

    return jobs


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Return a function that puts commands on the path which print recordings.

    Where one command is asked several things, its recordings are given by a pattern of the shell
    for the arguments. What was asked is in the file ``calls-COMMAND`` of the folder returned.
    """
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    def install(**recordings: str | dict[str, str]) -> Path:
        for command, answers in recordings.items():
            cases = answers if isinstance(answers, dict) else {"*": answers}
            answer = "".join(f"{pattern}) {_answer(name)};;\n" for pattern, name in cases.items())
            script = tmp_path / command
            script.write_text(
                f'#!/bin/sh\necho "$*" >> {tmp_path}/calls-{command}\n'
                f'case "$*" in\n{answer}*) exit 99;;\nesac\n'
            )
            script.chmod(0o755)
        return tmp_path

    return install


def _answer(name: str) -> str:
    """Return shell commands that print a recording and exit as it did."""
    heard = _read(name)
    said, complained = shlex.quote(heard.stdout), shlex.quote(heard.stderr)
    return f"printf %s {said}; printf %s {complained} >&2; exit {heard.code}"


def _read(name: str) -> Recording:
    first, _, rest = (FOLDER / f"{name}.txt").read_text().partition("\n")
    command = first.removeprefix("$ ")
    ended = re.search(r"(?ms)^# (\d+): (.*)\Z", rest)
    if ended is None:
        return Recording(command, rest)
    return Recording(command, rest[: ended.start()], int(ended[1]), ended[2])
