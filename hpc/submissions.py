"""The submissions of a run, as its folder records them."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from hpc.folder import RunFolder
from storage_schemas.attempts import process_is_alive

SUBMISSIONS_PER_ROUND = 5
"""How often the missing units of a stage are submitted before the user is asked."""


@dataclass(frozen=True)
class Submission:
    """One submission's folder."""

    path: Path

    @property
    def stage(self) -> str:
        """The stage whose units it runs."""
        return str(self._frozen["stage"])

    @property
    def round(self) -> int:
        """The round (see `RunFolder.round`) it belongs to."""
        return int(self._frozen["round"])

    @cached_property
    def _frozen(self) -> dict[str, Any]:
        return dict(json.loads((self.path / "units.json").read_bytes()))

    @property
    def jobs(self) -> list[dict[str, Any]]:
        """Jobs started for it: pid and start time; empty if the submitter died before noting."""
        record = self.path / "jobs.json"
        return list(json.loads(record.read_bytes())) if record.exists() else []

    def alive(self) -> list[dict[str, Any]]:
        """Return the jobs that still run on this machine."""
        return [job for job in self.jobs if process_is_alive(job["pid"], job["start_time"])]


def submissions(run: RunFolder) -> list[Submission]:
    """Return the run's submissions, oldest first."""
    folders = sorted((run.path / "submissions").glob("[0-9]*"))
    return [Submission(folder) for folder in folders if (folder / "units.json").exists()]


def given_up(run: RunFolder, stage: str) -> Submission | None:
    """Return the stage's last submission if it was submitted so often that it is given up.

    One submission holds all units that are missing. Where tasks end before they begin a unit (a
    broken installation, another version), no attempt tells why, and only this stops the run.
    """
    own = [s for s in submissions(run) if s.stage == stage and s.round == run.round]
    return own[-1] if len(own) >= SUBMISSIONS_PER_ROUND else None
