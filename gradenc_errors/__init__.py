"""The one tree of exceptions, and what a user can do about an error.

The science (`gradenc_core`) and the disk (`storage_schemas`) may not import each other and name no
command, yet many of their errors have a remedy. Both import this package, which imports nothing of
the house: an error carries its remedy as a `Remedy`, in words that are right in a notebook. The
command line (`hpc.cli.errors`) replaces them by its command with the folders of the case.
"""

from enum import StrEnum
from pathlib import Path

__all__ = ["GradencError", "Remedy", "remedy_of"]


class Remedy(StrEnum):
    """What a user does about an error."""

    RESUME = "resume the run"
    RESUME_OR_PARTIAL = "resume the run, or open it with partial=True"
    SUBMIT_AGAIN = "submit the study into this run again"
    STATUS = "see the status of the run"
    GIVE_SURFACE = "give the subject's surface (.surf.gii)"
    SELECT_OR_AVERAGE = "select one label of each other dimension, or average over it"
    FORGET = "if it is gone for good, take it off the list of runs that use these stores"


class GradencError(Exception):
    """An error that ends in a sentence for the user; base of all exceptions of this project.

    Subclasses also derive from the builtin exception that fits (`ValueError`, `OSError`, ...).

    Parameters
    ----------
    message : str
        What is wrong: the file, the key, the value, what would be accepted.
    remedy : Remedy, optional
        What the user does about it; by default that of the class, if it has one.
    **folders : Path
        Folders that the command of the remedy takes, where the raiser knows them: `run`, `root`.
    """

    remedy: Remedy | None = None

    def __init__(self, message: str, remedy: Remedy | None = None, **folders: Path) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy or self.remedy
        self.folders = folders

    def __str__(self) -> str:
        return self.message if self.remedy is None else f"{self.message}; {self.remedy}"


def remedy_of(error: BaseException) -> Remedy | None:
    """Return an error's remedy: its own, or the one noted on an error of the file system."""
    if isinstance(error, GradencError):
        return error.remedy
    noted = {str(remedy): remedy for remedy in Remedy}
    return next((noted[n] for n in getattr(error, "__notes__", ()) if n in noted), None)
