"""How a command ends when something is wrong: one sentence, exit status 1, no traceback.

Errors of the house carry a remedy in plain words (`gradenc_errors`); here it becomes the command
that does it, with the folders of the case. A traceback is left for faults of the program.
"""

import os
import sys
from collections.abc import Mapping
from typing import Any, NoReturn

from rich.console import Console
from rich.markup import escape
from typer.core import TyperCommand

from gradenc_errors import GradencError, Remedy, remedy_of

_COMMANDS = {
    Remedy.RESUME: "run `gradenc resume {run}`",
    Remedy.RESUME_OR_PARTIAL: "run `gradenc resume {run}`, or read what is there with "
    "`gradenc query {run} --partial`",
    Remedy.SUBMIT_AGAIN: "run `gradenc submit STUDY --run {run}`",
    Remedy.STATUS: "see `gradenc status {run}`",
    Remedy.GIVE_SURFACE: "name the subject's .surf.gii: `gradenc query {run} ... --surface FILE`",
    Remedy.SELECT_OR_AVERAGE: "reduce the others: "
    "`gradenc query {run} ... --sel NAME=LABEL`, or `--mean NAME`",
    Remedy.FORGET: "if it is gone for good, run `gradenc gc {root} --forget {run}`",
}

_REASONS = {
    IsADirectoryError: "it is a folder, and a file is needed",
    NotADirectoryError: "a part of the path is a file, and a folder is needed",
    FileNotFoundError: "there is no such file or folder; check the path",
    FileExistsError: "it exists already; choose another name",
    PermissionError: "it may not be read or written; check its owner and permissions",
}


class Command(TyperCommand):
    """A command whose errors end in one sentence."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            _end("interrupted; committed units are kept", 130)
        except (GradencError, ValueError, OSError) as error:
            _end(sentence(error, ctx.params), 1)


def sentence(error: Exception, given: Mapping[str, Any]) -> str:
    """Return what an error says, with the command of its remedy.

    Parameters
    ----------
    given : mapping
        Parameters of the command, which may name the folders `run` and `root`.
    """
    remedy = remedy_of(error)
    if remedy is None:
        return _message(error)
    folders = error.folders if isinstance(error, GradencError) else {}
    known = {name: value for name, value in {**given, **folders}.items() if value is not None}
    try:
        command = _COMMANDS[remedy].format_map(known)
    except KeyError:  # the command at hand knows no such folder
        command = remedy
    return f"{_message(error)}; {command}"


def _message(error: Exception) -> str:
    if isinstance(error, GradencError):
        return error.message
    if not isinstance(error, OSError) or error.filename is None or error.errno is None:
        return str(error)
    if error.strerror != os.strerror(error.errno):  # a sentence of ours already
        return f"{error.filename}: {error.strerror}"
    reason = next((said for kind, said in _REASONS.items() if isinstance(error, kind)), None)
    return f"{error.filename}: {reason or error.strerror}"


def _end(text: str, status: int) -> NoReturn:
    console = Console(stderr=True, highlight=False)
    console.print(f"[red]error:[/red] {escape(text)}", soft_wrap=True)
    sys.exit(status)
