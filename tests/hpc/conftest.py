"""Outputs of SLURM's commands, recorded on a real cluster (version 22.05).

The first line of a recording is the command, a last one that begins with `#` its exit code and what
it wrote to stderr. Those in `slurm/recorded/by_hand` are written from the manual, for states that
such a cluster cannot produce.
"""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest

from hpc.slurm import accounting, queue
from hpc.slurm.jobs import Job

FOLDER = Path(__file__).parent / "slurm" / "recorded"


@dataclass(frozen=True)
class Recording:
    """What one command printed and how it ended."""

    command: str
    stdout: str
    code: int = 0
    stderr: str = ""


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
