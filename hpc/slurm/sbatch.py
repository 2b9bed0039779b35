"""Options of sbatch for a stage's profile, in the form of submitit's `SlurmExecutor`."""

import shlex
from collections.abc import Iterator

from hpc.config.profile import StageProfile

Options = dict[str, str | int]


def sbatch_options(how: StageProfile) -> Options:
    """Return sbatch's options for one task of a stage, with underscores for dashes."""
    options: Options = {
        "time": how.timeout_minutes,
        "nodes": how.nodes,
        "ntasks_per_node": how.ranks_per_node,
        "cpus_per_task": how.cpus,
    }
    if how.gpus_per_node:
        options["gpus_per_node"] = how.gpus_per_node
    if how.memory_gb is not None:
        options["mem"] = f"{round(how.memory_gb * 1024)}M"
    for key in ("partition", "account", "qos", "constraint", "exclude"):
        value = getattr(how, key)
        if value is not None:
            options[key] = value
    return options


def setup_lines(how: StageProfile) -> list[str]:
    """Return the shell lines that run before the processes start.

    The job ends at the first line that fails: otherwise a missing module would let the stage run in
    a wrong environment.
    """
    return [part for line in _lines(how) for part in (line, _stop_unless_done(line))]


def _lines(how: StageProfile) -> Iterator[str]:
    yield from how.setup
    if how.scratch is not None:
        yield f'export TMPDIR="{how.scratch}"'
        # The set-up runs on the first node only; srun reaches all of them.
        everywhere = f"srun --ntasks={how.nodes} --ntasks-per-node=1 " if how.nodes > 1 else ""
        yield f'{everywhere}mkdir -p "$TMPDIR"'


def _stop_unless_done(line: str) -> str:
    # Not `line || ...`, since the line may end with a comment.
    message = shlex.quote(f"{SETUP_FAILED}{line}")
    return f"[ $? -eq 0 ] || {{ echo {message} >&2; exit 1; }}"


SETUP_FAILED = "gradenc: this set-up line of the profile failed: "
"""Beginning of the line that a job prints when its set-up fails."""
