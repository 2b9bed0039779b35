"""Outputs of SLURM's commands, recorded on a real cluster (version 22.05).

The first line of a recording is the command, a last one that begins with `#` its exit code and what
it wrote to stderr. Those in `slurm/recorded/by_hand` are written from the manual, for states that a
cluster without cgroups cannot produce.
"""

import re
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
    """Return a function that puts commands on the path which print recordings."""
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    def install(**recordings: str) -> Path:
        for command, name in recordings.items():
            heard = _read(name)
            (tmp_path / "out").mkdir(exist_ok=True)
            (tmp_path / "out" / command).write_text(heard.stdout)
            (tmp_path / "out" / f"{command}.err").write_text(heard.stderr)
            script = tmp_path / command
            script.write_text(
                f'#!/bin/sh\nprintf "%s\\n" "$*" >> {tmp_path}/calls-{command}\n'
                f"cat {tmp_path}/out/{command}\ncat {tmp_path}/out/{command}.err >&2\n"
                f"exit {heard.code}\n"
            )
            script.chmod(0o755)
        return tmp_path

    return install


def _read(name: str) -> Recording:
    first, _, rest = (FOLDER / f"{name}.txt").read_text().partition("\n")
    command = first.removeprefix("$ ")
    ended = re.search(r"(?ms)^# (\d+): (.*)\Z", rest)
    if ended is None:
        return Recording(command, rest)
    return Recording(command, rest[: ended.start()], int(ended[1]), ended[2])
