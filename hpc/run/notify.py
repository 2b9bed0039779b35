"""Tell the user that a run is complete or needs a decision, by a command of their choice."""

import hashlib
import logging
import shlex
import subprocess

from hpc.run.folder import RunFolder
from storage_schemas.files import write_exclusive
from storage_schemas.identity import canonical_json

LIMIT_S = 60.0


def notify(run: RunFolder, sentence: str) -> None:
    """Run the user's command with one more argument, the sentence; once per sentence and round.

    A command that fails is logged and not tried again; the run goes on.
    """
    if run.notify is None:
        return
    which = hashlib.sha256(sentence.encode()).hexdigest()[:12]
    mark = run.path / "notified" / f"{run.round:04d}-{which}.json"
    if not write_exclusive(mark, canonical_json({"sentence": sentence})):
        return
    if problem := _tell(run.notify, sentence):
        logging.getLogger(__name__).warning("--notify %r failed: %s", run.notify, problem)


def _tell(command: str, sentence: str) -> str | None:
    """Run the command; return what went wrong, if anything did."""
    try:
        result = subprocess.run(
            [*shlex.split(command), sentence], capture_output=True, text=True, timeout=LIMIT_S
        )
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        return str(error)
    return f"it ended with {result.returncode}: {result.stderr}" if result.returncode else None
