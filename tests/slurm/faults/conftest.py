"""Drills on the development cluster that nobody drives but their own gates."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from hpc.devcluster.cluster import DevCluster
from hpc.run.folder import RunFolder
from hpc.run.gate import gate_name
from hpc.run.state import is_complete, run_state
from hpc.run.submissions import Submission, given_up, of_round, submissions
from hpc.slurm.client import run as slurm
from hpc.slurm.jobs import Job, State
from hpc.slurm.queue import cancel, queue
from jobs.spec import STAGES
from storage_schemas.protocol.attempts import AttemptRecord, attempts_of
from storage_schemas.protocol.seal import run_digest

GRADENC = str(Path(sys.executable).with_name("gradenc"))
LIMIT_S = 120.0
QUICK = ("--seconds", "0.2", "--units", "4")

PROFILE = """
name = "faults"
scheduler = "slurm"
[common]
partition = "main"
exclude = "n4"
timeout_minutes = 5
memory_gb = 0.5
max_memory_gb = 4
slots = 2
"""


@dataclass
class Drill:
    """One drill: started by the command, then left to its gates."""

    path: Path
    clean: str
    """Digest of a drill of the same units that met no accident, on this machine."""

    def start(self, *arguments: object, profile: str = "", check: bool = True) -> str:
        """Submit the drill and leave; `profile` are further lines of its profile."""
        self.path.mkdir(exist_ok=True, parents=True)
        file = self.path.parent / f"{self.path.name}.toml"
        file.write_text(PROFILE + profile)
        how = ("--profile", file, "--no-wait")
        return self.command("drill", self.path, *QUICK, *how, *arguments, check=check)

    def words(self, *words: object) -> list[str]:
        """Return gradenc's command line."""
        return [GRADENC, *map(str, words)]

    def command(self, *words: object, check: bool = True) -> str:
        """Run gradenc."""
        command = self.words(*words)
        result = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
        assert not (check and result.returncode), result.stdout + result.stderr
        return result.stdout + result.stderr

    @property
    def run(self) -> RunFolder:
        return RunFolder.open(self.path)

    def until(self, what: Callable[[], Any], limit: float = LIMIT_S) -> Any:
        """Wait until something is true, and return it."""
        deadline = time.monotonic() + limit
        while not (found := what()):
            if time.monotonic() > deadline:
                raise AssertionError(f"{what} was not true in {limit:g} s\n{self.describe()}")
            time.sleep(0.3)
        return found

    def finish(self, limit: float = LIMIT_S) -> None:
        """Wait until the drill is complete, and compare its bytes with those of the clean one."""
        self.until(lambda: is_complete(run_state(self.run)), limit)
        stores = [store for stage in STAGES for store in self.run.stores(stage)]
        assert run_digest(stores) == self.clean
        assert not list(self.run.root.glob("*/*/data.zarr/**/*.partial"))

    def decision(self, stage: str) -> str:
        """Wait until the stage needs the user, and return what they are told."""
        return str(self.until(lambda: given_up(self.run, stage)))

    def met(self) -> bool:
        """Say whether the drill's accident has begun."""
        return any((self.path / "met").glob("*-*"))

    def jobs(self, stage: str, state: State = State.RUNNING) -> list[Job]:
        """Return the stage's tasks in this state."""
        names = [s.name for s in submissions(self.run) if s.stage == stage]
        return [job for job in queue(names) if job.state == state]

    def tries(self, stage: str, unit: int) -> list[AttemptRecord]:
        (store,) = self.run.stores(stage)
        return attempts_of(store, unit)

    def job_of(self, stage: str, unit: int) -> str:
        """Return the id of the job that has the unit."""
        return self.tries(stage, unit)[-1].job

    def submissions(self, stage: str) -> list[Submission]:
        return of_round(self.run, stage)

    def failures(self, stage: str) -> list[str]:
        """Return the classes of the tasks that left something undone, in order."""
        ended = [task for s in submissions(self.run) if s.stage == stage for task in s.ended]
        return [task.failure for task in ended if task.failure]

    def cancel(self) -> None:
        """End whatever is left of it in the queue; its stores may be gone by now."""
        self.until(self._gone)

    def _gone(self) -> bool:
        run = RunFolder(self.path)
        names = [*(submission.name for submission in submissions(run)), gate_name(run)]
        left = [job.job_id for job in queue(names) if job.alive]
        cancel(left)
        return not left

    def describe(self) -> str:
        shown = self.command("status", self.path, check=False)
        logs = "".join(p.read_text()[-2000:] for p in sorted(self.path.glob("gates/*.out"))[-2:])
        return f"{shown}\n{slurm('squeue', '-a')}\n{logs}"


@pytest.fixture(scope="session")
def clean(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the digest of a drill on this machine without SLURM."""
    run = tmp_path_factory.mktemp("clean") / "run"
    subprocess.run([GRADENC, "drill", str(run), *QUICK], check=True, capture_output=True)
    folder = RunFolder.open(run)
    return run_digest([store for stage in STAGES for store in folder.stores(stage)])


@pytest.fixture(scope="module")
def make_drill(
    cluster: DevCluster, clean: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Drill]]:
    """Return a maker of drills by their names; whatever they leave in the queue is cancelled."""
    folder = tmp_path_factory.mktemp("drills")
    made: list[Drill] = []

    def make(name: str) -> Drill:
        made.append(Drill(folder / name, clean))
        return made[-1]

    yield make
    for drill in made:
        drill.cancel()


@pytest.fixture
def report() -> Callable[[Drill, str, str], None]:
    """Return what writes down how a fault's drill ended, for benchmarks/cluster.py."""
    where = os.environ.get("GRADENC_FAULTS")

    def write(drill: Drill, fault: str, stage: str) -> None:
        if where:
            with Path(where).open("a") as stream:
                stream.write(json.dumps(_ending(drill, fault, stage)) + "\n")

    return write


def _ending(drill: Drill, fault: str, stage: str) -> dict[str, Any]:
    """Say what a fault did to its drill: the jobs it hit, what was done, what was lost."""
    stores = [store for name in STAGES for store in drill.run.stores(name)]
    units = [attempts_of(store, unit.index) for store in stores for unit in store.units]
    own = [s for s in submissions(drill.run) if s.stage == stage]
    return {
        "fault": fault,
        "tasks": [
            {
                "job_id": task.job_id,
                "state": task.job and task.job.state,
                "restarts": task.job and task.job.restarts,
                "failure": task.failure,
            }
            for s in own
            for task in s.ended
            if task.failure or (task.job and task.job.restarts)
        ],
        "submissions": len(own),
        "memory_gb": [s.payload.asked.memory_gb for s in own],
        "complete": is_complete(run_state(drill.run)),
        "digest_equal": run_digest(stores) == drill.clean,
        "lost_units": sum(not any(a.outcome == "committed" for a in tries) for tries in units),
        "duplicate_units": sum(map(_written_twice, units)),
    }


def _written_twice(tries: list[AttemptRecord]) -> bool:
    """Say whether two attempts at a unit, both alive, got as far as its data."""
    wrote = [a for a in tries if a.outcome == "committed" and a.used.seconds is not None]
    return len(wrote) > 1 and any(
        later.started < str(earlier.finished) for earlier, later in pairwise(wrote)
    )
