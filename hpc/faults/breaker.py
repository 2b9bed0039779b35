"""Stops a submission whose first units all fail alike, before it burns what it was given.

What its tasks share is a folder: they count there, and the one that finds enough writes
`halt.json`, which all look at between their units.
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
        # Looked for first: to write it again would cost every unit a file that reaches the disk.
        if outcome.committed and not committed.exists():
            write_exclusive(committed, b"{}")
        if outcome.traceback is None:
            return
        last = outcome.traceback.strip().rpartition("\n")[2]
        if classify("failed", last, None) is FailureClass.NODE:
            # Every other unit would fail here as well; on another node they need not.
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
        """Whether some task said that none should go on, or this one's node is bad."""
        return self.node_is_bad or self.halt.exists()

    @property
    def sentence(self) -> str | None:
        """Why some task said that none should go on."""
        halt = read_json(self.halt)
        return str(halt.get("sentence", f"{self.halt} is damaged")) if halt else None

    def stop(self, failure: FailureClass, sentence: str) -> None:
        """Let no task of the submission begin another unit, and say why."""
        write_exclusive(self.halt, canonical_json({"failure": failure, "sentence": sentence}))
