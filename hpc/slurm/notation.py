"""Parsers for SLURM's notation of states, durations, sizes, resources and array tasks."""

import re
from collections.abc import Sequence

from hpc.slurm.jobs import State

_DURATION = re.compile(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+(?:\.\d+)?)")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)([KMGTP]?)")
_TASKS = re.compile(r"(\d+)_\[([^%\]]+)(?:%\d+)?\]")


def row(line: str, fields: Sequence[str]) -> dict[str, str]:
    """Return a line's values by name; the last value may contain the separator.

    Raises
    ------
    ValueError
        If the line has fewer.
    """
    values = line.split("|", len(fields) - 1)
    if len(values) < len(fields):
        raise ValueError(
            f"SLURM printed {line!r} where {len(fields)} fields were expected: check whether "
            "another program on this machine has the name of SLURM's command"
        )
    return dict(zip(fields, values, strict=True))


def state(text: str) -> State:
    """Return the state in ``CANCELLED by 1000`` or, cut short, ``OUT_OF_ME+``."""
    word = text.partition(" ")[0]
    if word in State.__members__:
        return State[word]
    meant = [known for known in State if word.endswith("+") and known.startswith(word[:-1])]
    return meant[0] if len(meant) == 1 else State.UNRECOGNISED


def seconds(text: str) -> float | None:
    """Return the duration ``[D-][HH:]MM:SS[.mmm]`` (s), or None for words such as ``UNLIMITED``."""
    match = _DURATION.fullmatch(text)
    if match is None:
        return None
    days, hours, minutes, rest = (float(part or 0) for part in match.groups())
    return 86400 * days + 3600 * hours + 60 * minutes + rest


def size(text: str) -> int | None:
    """Return the bytes of an amount of memory such as ``493788K``, else None."""
    match = _SIZE.fullmatch(text)
    if match is None:
        return None
    return int(float(match[1]) * 1024 ** " KMGTP".index(match[2] or " "))


def ending(code: int, signal: int) -> tuple[int, int]:
    """Return exit code and signal; a shell's code 128 + n means that signal n ended its command.

    sacct itself turns 137 into 9, with the signal in the record of the step.
    """
    return (code, signal) if code <= 128 else (code - 128, signal or code - 128)


def resources(text: str) -> dict[str, str]:
    """Return trackable resources such as ``cpu=2,gres/gpu=1,mem=300M,node=1`` by name."""
    return dict(part.split("=", 1) for part in text.split(",") if "=" in part)


def gpus(amounts: dict[str, str]) -> int:
    """Return the number of GPUs; if only types are tracked, their sum."""
    typed = sum(int(n) for name, n in amounts.items() if name.startswith("gres/gpu:"))
    return int(amounts.get("gres/gpu", typed))


def memory_per_node(amounts: dict[str, str]) -> int | None:
    """Return the memory per node (bytes), or None if `amounts` has none."""
    total = size(amounts.get("mem", ""))
    return None if total is None else total // max(1, int(amounts.get("node", "1")))


def job_ids(text: str) -> list[str]:
    """Return the id of a job or of each task of an array: ``7_[1-2,8%4]`` is 7_1, 7_2, 7_8."""
    match = _TASKS.fullmatch(text)
    if match is None:
        return [text]
    return [f"{match[1]}_{n}" for part in match[2].split(",") for n in _range(part)]


def _range(part: str) -> range:
    ends, _, step = part.partition(":")
    first, _, last = ends.partition("-")
    return range(int(first), int(last or first) + 1, int(step or 1))
