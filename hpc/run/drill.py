"""A drill: a run whose units compute nothing, to try a cluster, a profile and every way to fail."""

from pathlib import Path

from hpc.run.folder import RunFolder
from jobs.drill import Drill
from storage_schemas.files import write_exclusive
from storage_schemas.identity import canonical_json


def start_drill(path: Path, drill: Drill, root: Path | None = None) -> RunFolder:
    """Create the run of a drill, or open it if it is the same drill's.

    Raises
    ------
    ValueError
        If the folder holds another run, or a drill with other units.
    """
    run = RunFolder.create(path, "drill", root, drill.units)
    if run.resolved.exists():
        raise ValueError(f"{path} holds the run of a study; give the drill a folder of its own")
    if not write_exclusive(run.drill, canonical_json(drill.model_dump(mode="json"))):
        if read_drill(run.drill) != drill:
            raise ValueError(f"{path} holds another drill; give this one a folder of its own")
        with run.lock():
            run.next_round()
    return run


def read_drill(file: Path) -> Drill:
    """Read what the units of a drill do."""
    return Drill.model_validate_json(file.read_bytes())
