"""SLURM's commands, run with a time limit."""

import os
import re
import subprocess
from collections.abc import Mapping
from textwrap import shorten

from gradenc_errors import GradencError

TIMEOUT_S = 60.0
"""A controller under load answers late, and one that is down after its MessageTimeout (10 s)."""

LASTING = re.compile(
    r"[Ii]nvalid (partition|account|qos|feature|generic resource|constraint|node name)"
    r"|[Nn]ode configuration is not available|time limit is invalid|[Mm]emory specification"
    r"|Partition \S+ not found|[Mm]ore processors requested than permitted"
    r"|not (permitted|allowed) to use|unrecognized option"
)
"""Refusals that another try does not change, unlike a full queue or a busy controller."""


class SlurmUnavailable(GradencError, RuntimeError):
    """A command of SLURM is missing, did not answer or refused; the message has its own words."""


class Refused(SlurmUnavailable):
    """SLURM will not have what it is asked for, however often it is asked."""


def run(*command: str, timeout_s: float = TIMEOUT_S) -> str:
    """Run one of SLURM's commands and return what it printed.

    Parameters
    ----------
    command : str
        The command and its arguments.
    timeout_s : float
        How long it may take (s).

    Raises
    ------
    SlurmUnavailable
        If it is not installed, does not end in time or ends with an error; `Refused` for one that
        another try does not change.
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
    """Leave out the user's own filters and formats; ask for array ranges that are not cut short."""
    own = ("SQUEUE_", "SACCT_", "SCANCEL_")
    kept = {name: value for name, value in variables.items() if not name.startswith(own)}
    return kept | {"SLURM_BITSTR_LEN": "0", "LC_ALL": "C"}


def _last_line(said: str) -> str:
    return (said.splitlines() or ["it gave no reason"])[-1]
