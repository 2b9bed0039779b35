"""What the tasks of one submission are given: `units.json`, frozen before any of them starts.

The submitter writes it, every task reads it; nothing else goes from one to the other.
"""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from gradenc_errors import GradencError
from hpc.config.profile import StageProfile
from storage_schemas.files import write_exclusive
from storage_schemas.identity import canonical_json

FILE = "units.json"


class DamagedSubmission(GradencError, ValueError):
    """A submission whose frozen list of units cannot be read."""


class Payload(BaseModel):
    """The units of every task of a submission, and how they are computed."""

    model_config = ConfigDict(frozen=True)

    version: str
    """The code that submitted it (`hpc.node.environment.code_version`)."""
    name: str
    """Name of its jobs, by which the scheduler finds them."""
    stage: str
    round: int
    """How often the user had asked for failed units to be tried again."""
    root: str
    """The store root, relative to the submission's folder."""
    scheduler: Literal["local", "slurm"]
    engine: Literal["serial", "dask"]
    dask: str | None
    """Address of the user's own Dask scheduler."""
    memory: float | None
    """Bytes that a process may use; None where nobody limits them."""
    gpus: tuple[str, ...]
    """GPUs of this machine that its tasks share; empty where a scheduler hands them out."""
    asked: StageProfile
    slices: tuple[tuple[tuple[tuple[str, int], ...], ...], ...]
    """Task -> items -> units: store below the root, index."""

    @classmethod
    def read(cls, path: Path) -> "Payload":
        """Read a submission's `units.json`.

        Raises
        ------
        DamagedSubmission
            If the file is damaged, or another gradenc wrote it.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the file"
            raise DamagedSubmission(
                f"{path} is damaged or was written by another gradenc ({where}: {first['msg']}); "
                f"when its tasks have ended, remove the folder {path.parent} and resume the run: "
                "committed units are kept"
            ) from error

    def write(self, submission: Path) -> None:
        """Freeze it in the folder of a submission."""
        write_exclusive(submission / FILE, canonical_json(self.model_dump(mode="json")))
