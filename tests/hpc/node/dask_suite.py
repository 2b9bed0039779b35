"""What holds of units on Dask wherever its workers are.

Run by `test_dask.py` beside this file on this machine, by `tests/slurm/test_dask.py` on a SLURM.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpc.config.profile import StageProfile
from hpc.plan.drill import drill_plans
from hpc.run.drill import start_drill
from hpc.run.folder import RunFolder
from hpc.run.submissions import Submission, submissions
from hpc.run.submit import SubmitOptions, submit
from jobs.drill import Drill, Fault
from jobs.runner import Item
from jobs.spec import STAGES
from storage_schemas.protocol.attempts import AttemptRecord, attempts_of
from storage_schemas.protocol.commit import committed_units
from storage_schemas.protocol.store import Store

STAGE = "ingest"
"""A stage that needs no other; Dask does not know stages."""


@dataclass(frozen=True)
class Task:
    """A submission of one task that runs all units of a store on Dask."""

    run: RunFolder
    store: Store
    submission: Submission

    @property
    def job(self) -> str:
        return str(self.submission.jobs[0].job_id)

    @property
    def committed(self) -> set[int]:
        return set(committed_units(self.store))

    @property
    def log(self) -> str:
        return "".join(p.read_text() for p in (self.submission.path / "log").glob("*.out"))

    def attempts(self, unit: int) -> list[AttemptRecord]:
        return attempts_of(self.store, unit)

    def until_committed(self, n: int) -> None:
        wait_until(lambda: len(self.committed) >= n, 90)


class Place(ABC):
    """Where the workers are."""

    how: SubmitOptions

    @abstractmethod
    def wait(self, task: Task, seconds: float = 120) -> None:
        """Wait until no process of the task is left."""

    @abstractmethod
    def tell_to_stop(self, task: Task) -> None:
        """Send SIGUSR2 to all processes of the task."""

    def start(self, path: Path, drill: Drill, **profile: Any) -> Task:
        """Submit all units of a drill's stage."""
        run = start_drill(path, drill)
        (plan,) = drill_plans(drill, run.path, STAGE, {})
        return self.submit(run, plan.create(run.root), **profile)

    def submit(self, run: RunFolder, store: Store, **profile: Any) -> Task:
        how = SubmitOptions(self.how.scheduler, self.how.profile.model_copy(update=profile), "dask")
        submit(run, STAGE, items(run, store), how)
        return Task(run, store, submissions(run)[-1])


def items(run: RunFolder, store: Store) -> list[Item]:
    """Return all units of the store as items."""
    path = store.path.relative_to(run.root).as_posix()
    return [[(path, unit.index)] for unit in store.units]


def drill(units: int, seconds: float, *killed: int) -> Drill:
    """Return a drill of one stage; `killed` units kill their worker once."""
    faults = tuple(Fault(stage=STAGE, unit=unit, accident="kill") for unit in killed)
    return Drill(units=dict.fromkeys(STAGES, 1) | {STAGE: units}, seconds=seconds, faults=faults)


def profile(**keys: Any) -> StageProfile:
    """Return how the task is run."""
    return StageProfile(**{"timeout_minutes": 10, **keys})


def wait_until(true: Callable[[], object], seconds: float) -> None:
    """Wait until something is true, or fail."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.1)


class Suite:
    """The tests; a subclass has a fixture `place`."""

    def test_every_unit_is_made_once_and_by_several_workers(
        self, place: Place, tmp_path: Path
    ) -> None:
        task = place.start(tmp_path / "run", drill(8, 0.5))
        place.wait(task)
        assert task.committed == set(range(8)), task.log
        tries = [task.attempts(unit) for unit in range(8)]
        assert [len(each) for each in tries] == [1] * 8
        assert len({each[0].pid for each in tries}) == 2
        assert {each[0].job for each in tries} == {task.job}

    def test_a_killed_worker_costs_its_unit_only(self, place: Place, tmp_path: Path) -> None:
        task = place.start(tmp_path / "run", drill(8, 0.3, 2))
        place.wait(task)
        assert task.committed == set(range(8)) - {2}, task.log
        assert [each.outcome for each in task.attempts(2)] == ["running"]
        again = place.submit(task.run, task.store)
        place.wait(again)
        assert again.committed == set(range(8)), again.log
        assert [len(again.attempts(unit)) for unit in range(8)] == [1, 1, 2, 1, 1, 1, 1, 1]

    def test_told_to_stop_workers_finish_what_they_began(
        self, place: Place, tmp_path: Path
    ) -> None:
        task = place.start(tmp_path / "run", drill(40, 2.0))
        task.until_committed(2)
        place.tell_to_stop(task)
        place.wait(task, seconds=30)
        begun = {unit for unit in range(40) if task.attempts(unit)}
        assert len(begun) < 10
        assert task.committed == begun, task.log
