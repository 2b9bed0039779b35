"""What other runs of one store root have asked for, so that shared units are submitted once."""

import os

from hpc.run.folder import RunFolder
from hpc.run.submissions import unsettled
from hpc.run.tasks import tasks_of
from hpc.slurm.client import SlurmUnavailable
from storage_schemas.runs.root import runs_of


def claimed_by_others(run: RunFolder, on_slurm: bool) -> frozenset[tuple[str, int]]:
    """Return (store below the root, unit index) of what living tasks of other runs were given.

    The caller holds the root's lock: whoever else submits meanwhile waits for it.

    Parameters
    ----------
    on_slurm : bool
        Whether the run itself is SLURM's. One that is not may be on a machine that cannot ask for
        the jobs of others; leases keep their units from being made twice.

    Raises
    ------
    SlurmUnavailable
        If the run is SLURM's, others are, and its queue cannot be asked.
    """
    others = [
        RunFolder(path)
        for path in runs_of(run.root)
        # A colleague's private run cannot be asked; leases keep its units from being made twice.
        if path != run.path.resolve() and os.access(path / "run.json", os.R_OK)
    ]
    waiting = [submission for other in others for submission in unsettled(other)]
    try:
        tasks = tasks_of(waiting)
    except SlurmUnavailable:
        if on_slurm:
            raise
        tasks = tasks_of([submission for submission in waiting if not submission.on_slurm])
    alive = {task.submission.path for task in tasks if task.alive}
    return frozenset(unit for s in waiting if s.path in alive for unit in s.units())
