"""The submissions of a run, as its folder records them."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from hpc.faults.triage import FailureClass
from hpc.run.folder import RunFolder
from storage_schemas.files import read_json, write_exclusive
from storage_schemas.identity import canonical_json

FRUITLESS_IN_A_ROW = 5
"""Submissions of a stage that end without a new commit before the user is asked."""

UNCHARGED = (FailureClass.PREEMPTED, FailureClass.NODE)
"""Ends of a task that say nothing against its units."""
ANSWERED = (FailureClass.HOST_MEMORY, FailureClass.TIMEOUT)
"""Ends that are met by more memory or time until the profile or the partition allows no more; their
units are as good as untried until then."""


@dataclass(frozen=True)
class Submission:
    """One submission's folder.

    ::

        units.json     written first: what each task is given, and how it was asked for
        jobs.json      written when the scheduler has taken it: the job of every task
        halt.json      written by a task: why no task of it should go on
        outcome.json   written when none of its tasks is left: how each ended
    """

    path: Path

    @cached_property
    def frozen(self) -> dict[str, Any]:
        """What was written before anything was started."""
        return dict(json.loads((self.path / "units.json").read_bytes()))

    @property
    def name(self) -> str:
        """The name of its jobs, by which the scheduler finds them."""
        return str(self.frozen["name"])

    @property
    def stage(self) -> str:
        """The stage whose units it runs."""
        return str(self.frozen["stage"])

    @property
    def round(self) -> int:
        """The round (see `RunFolder.round`) it belongs to."""
        return int(self.frozen["round"])

    @property
    def on_slurm(self) -> bool:
        """Whether its tasks are SLURM's; else they are processes of the machine that started it."""
        return bool(self.frozen["scheduler"] == "slurm")

    @property
    def jobs(self) -> list[dict[str, Any]] | None:
        """The job of every task; None if the submitter died before noting them."""
        record = self.path / "jobs.json"
        return list(json.loads(record.read_bytes())) if record.exists() else None

    @property
    def halt(self) -> dict[str, Any] | None:
        """Why its tasks should not go on, if one of them said so."""
        return read_json(self.path / "halt.json")

    @property
    def outcome(self) -> dict[str, Any] | None:
        """How its tasks ended; None while one may be alive."""
        return read_json(self.path / "outcome.json")

    def note_jobs(self, jobs: list[dict[str, Any]]) -> None:
        """Record the job of every task."""
        write_exclusive(self.path / "jobs.json", canonical_json(jobs))

    def units(self) -> Iterator[tuple[str, int]]:
        """Yield (store, unit index) of everything it was given."""
        for items in self.frozen["slices"]:
            for item in items:
                yield from ((store, index) for store, index in item)


def submissions(run: RunFolder) -> list[Submission]:
    """Return the run's submissions, oldest first."""
    folders = sorted((run.path / "submissions").glob("[0-9]*"))
    found = [Submission(folder) for folder in folders if (folder / "units.json").exists()]
    # Those of earlier versions have no names; whatever their tasks did is in the stores.
    return [submission for submission in found if "name" in submission.frozen]


def unsettled(run: RunFolder) -> list[Submission]:
    """Return the submissions of which a task may still be alive."""
    return [submission for submission in submissions(run) if submission.outcome is None]


def of_round(run: RunFolder, stage: str) -> list[Submission]:
    """Return the stage's submissions since the user last asked, oldest first."""
    return [s for s in submissions(run) if (s.stage, s.round) == (stage, run.round)]


def given_up(run: RunFolder, stage: str) -> str | None:
    """Say why nothing more is submitted of a stage before the user asks, or None if it is.

    It came to a decision; or a task of the last submission said that none should go on; or a row of
    submissions has brought no commit. (Where tasks end before they begin a unit, no attempt tells
    why, and only this stops the run.)
    """
    if decision := read_json(_decision(run, stage)):
        return str(decision["sentence"])
    own = of_round(run, stage)
    if own and (halt := own[-1].halt):
        return str(halt["sentence"])
    if _fruitless(own) < FRUITLESS_IN_A_ROW:
        return None
    return (
        f"the tasks of {FRUITLESS_IN_A_ROW} submissions ended without finishing a unit; "
        f"the last one's output: {own[-1].path / 'log'}"
    )


def decide(run: RunFolder, stage: str, sentence: str) -> None:
    """Submit nothing more of a stage in this round, and say what the user must decide."""
    write_exclusive(_decision(run, stage), canonical_json({"sentence": sentence}))


def _decision(run: RunFolder, stage: str) -> Path:
    return run.path / "decisions" / f"{run.round:04d}-{stage}.json"


def _fruitless(own: list[Submission]) -> int:
    """Count the last submissions that ended without a commit.

    Not those that lost nodes or their turn, nor those that the next one is given more for.
    """
    n = 0
    for submission in reversed(own):
        outcome = submission.outcome
        if outcome is None or outcome["units_done"]:
            break
        n += any(task["failure"] not in (*UNCHARGED, *ANSWERED) for task in outcome["tasks"])
    return n
