"""Who a process is: its job, its requeues, its rank."""

import os
import re
from importlib.resources import files
from pathlib import Path

import pytest

from hpc.node.environment import own_job, rank

SLURM = {"SUBMITIT_EXECUTOR": "slurm", "SLURM_JOB_ID": "12"}


@pytest.mark.parametrize(
    ("environment", "job"),
    [
        (SLURM, ("12", 0)),
        (SLURM | {"SLURM_RESTART_COUNT": "2"}, ("12", 2)),
        (SLURM | {"SLURM_ARRAY_JOB_ID": "10", "SLURM_ARRAY_TASK_ID": "3"}, ("10_3", 0)),
        # A task of this machine that was started from inside a job is not that job.
        ({"SUBMITIT_LOCAL_JOB_ID": "77", "SLURM_JOB_ID": "12"}, ("77", 0)),
        ({}, (f"pid-{os.getpid()}", 0)),
    ],
)
def test_a_process_knows_its_job_and_how_often_it_was_requeued(
    environment: dict[str, str], job: tuple[str, int]
) -> None:
    assert own_job(environment) == job


def test_ranks_are_those_of_a_slurm_job_only() -> None:
    ranks = {"SLURM_PROCID": "1", "SLURM_NTASKS": "4"}
    assert rank(SLURM | ranks) == (1, 4)
    assert rank(ranks) == (0, 1)


def test_jobs_read_no_variable_of_a_scheduler() -> None:
    sources = list(Path(str(files("jobs"))).rglob("*.py"))
    readers = [p.name for p in sources if re.search("SLURM_|SUBMITIT_|GRADENC_", p.read_text())]
    assert sources
    assert readers == []
