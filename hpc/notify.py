"""Tell the user that a run is complete or needs a decision, by a command of their choice."""

import shlex
import subprocess

from hpc.folder import RunFolder
from storage_schemas.files import write_exclusive
from storage_schemas.identity import canonical_json

LIMIT_S = 60.0


def notify(run: RunFolder, sentence: str) -> None:
    """Run the user's command with one more argument, the sentence; once per sentence and round.

    A command that fails is reported and not tried again: the run is as it is.
    """
    if run.notify is None:
        return
    mark = run.path / "notified" / f"{run.round:04d}.json"
    told = canonical_json({"sentence": sentence})
    if not write_exclusive(mark, told) and mark.read_bytes() == told:
        return
    command = [*shlex.split(run.notify), sentence]
    result = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
    if result.returncode:
        print(f"--notify {run.notify!r} ended with {result.returncode}: {result.stderr.strip()}")
