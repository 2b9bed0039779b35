"""What other runs of one store root have asked for, so that shared units are submitted once."""

import os

from hpc.folder import RunFolder
from hpc.submissions import unsettled
from hpc.tasks import tasks_of
from storage_schemas.root import runs_of


def claimed_by_others(run: RunFolder) -> frozenset[tuple[str, int]]:
    """Return (store below the root, unit index) of what living tasks of other runs were given.

    The caller holds the root's lock: whoever else submits meanwhile waits for it.
    """
    others = [
        RunFolder(path)
        for path in runs_of(run.root)
        # A colleague's private run cannot be asked; leases keep its units from being made twice.
        if path != run.path.resolve() and os.access(path / "run.json", os.R_OK)
    ]
    waiting = [submission for other in others for submission in unsettled(other)]
    alive = {task.submission.path for task in tasks_of(waiting) if task.alive}
    return frozenset(unit for s in waiting if s.path in alive for unit in s.units())
