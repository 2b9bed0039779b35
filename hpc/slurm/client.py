"""Run a command of SLURM with a time limit; every failure is a `SlurmUnavailable`."""

import os
import re
import subprocess
from collections.abc import Mapping
from textwrap import shorten

from gradenc_errors import GradencError

_TIMEOUT_S = 60.0
"""How long a command may take (s): a busy controller answers late."""

LASTING = re.compile(
    r"[Ii]nvalid (partition|account|qos|feature|generic resource|constraint|node name)"
    r"|[Nn]ode configuration is not available|time limit is invalid|[Mm]emory specification"
    r"|Partition \S+ not found|[Mm]ore processors requested than permitted"
    r"|not (permitted|allowed) to use|unrecognized option"
)
"""Refusals that do not pass with time, unlike a full queue or a busy controller."""


class SlurmUnavailable(GradencError, RuntimeError):
    """A command of SLURM is missing, did not answer or refused; the message quotes it."""


class Refused(SlurmUnavailable):
    """SLURM refuses a job for good: the profile must change."""


def run(*command: str, timeout_s: float = _TIMEOUT_S) -> str:
    """Run one of SLURM's commands and return its output.

    Parameters
    ----------
    command : str
        The command and its arguments.
    timeout_s : float
        How long it may take (s).

    Raises
    ------
    SlurmUnavailable
        If the command is not installed, does not end in time or ends with an error; `Refused` if
        the error will not pass with time.
    """
    shown = shorten(" ".join(command), 60, placeholder=" ...")
    try:
        ended = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            timeout=timeout_s,
            check=False,
            env=_environment(os.environ),
        )
    except FileNotFoundError as error:
        raise SlurmUnavailable(
            f"`{command[0]}` is not installed on this machine: log in where jobs are submitted, "
            'or use a profile with scheduler = "local"'
        ) from error
    except subprocess.TimeoutExpired as error:
        raise SlurmUnavailable(
            f"`{shown}` did not answer within {timeout_s:g} s: SLURM is overloaded or down; "
            "try again later"
        ) from error
    if ended.returncode:
        said = _last_line(ended.stderr.strip() or ended.stdout.strip())
        kind = Refused if LASTING.search(said) else SlurmUnavailable
        raise kind(f"`{shown}` ended with {ended.returncode}: {said}")
    return ended.stdout


def _environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Drop the user's own filters and formats, and ask for array ranges in full."""
    own = ("SQUEUE_", "SACCT_", "SCANCEL_")
    kept = {name: value for name, value in variables.items() if not name.startswith(own)}
    return kept | {"SLURM_BITSTR_LEN": "0", "LC_ALL": "C"}


def _last_line(said: str) -> str:
    return (said.splitlines() or ["it gave no reason"])[-1]
