"""The circuit breaker: stops a submission whose first units all fail alike.

A hundred tasks that meet the same bug would otherwise use all of their time for nothing. The tasks
share the submission's folder: each counts its failures there, and the one that finds enough writes
`halt.json`, which all of them look for between their units.
"""

from pathlib import Path
from uuid import uuid4

from hpc.faults.triage import BREAKER, FailureClass, classify, fingerprint
from jobs.runner import Outcome
from storage_schemas.files import make_folder, read_json, write_exclusive
from storage_schemas.identity import canonical_json


class Breaker:
    """One task's view of its submission's failures."""

    def __init__(self, submission: Path) -> None:
        self.submission = submission
        self.halt = submission / "halt.json"
        self.node_is_bad = False

    def __call__(self, outcome: Outcome) -> None:
        """Count how an item ended."""
        committed = self.submission / "committed.json"
        # Looked for first: writing it again would sync a file to the disk for every unit.
        if outcome.committed and not committed.exists():
            write_exclusive(committed, b"{}")
        if outcome.traceback is None:
            return
        last = outcome.traceback.strip().rpartition("\n")[2]
        if classify("failed", last, None) is FailureClass.NODE:
            # Other units would fail on this node too, but not on another one.
            self.node_is_bad = True
            return
        if committed.exists():
            return
        folder = self.submission / "failures" / fingerprint(outcome.traceback)
        make_folder(folder)
        (folder / uuid4().hex).touch()
        if len(list(folder.iterdir())) >= BREAKER:
            self.stop(FailureClass.ERROR, f"the first {BREAKER} units all failed alike: {last}")

    @property
    def stopped(self) -> bool:
        """Whether a task has stopped the submission, or this task's node is bad."""
        return self.node_is_bad or self.halt.exists()

    @property
    def sentence(self) -> str | None:
        """Why the submission was stopped; None if it was not."""
        halt = read_json(self.halt)
        return str(halt.get("sentence", f"{self.halt} is damaged")) if halt else None

    def stop(self, failure: FailureClass, sentence: str) -> None:
        """Stop the submission: none of its tasks begins another unit."""
        write_exclusive(self.halt, canonical_json({"failure": failure, "sentence": sentence}))
