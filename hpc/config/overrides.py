"""`--set key=value`: single keys of a file that a command line replaces before validation."""

import copy
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import yaml

from hpc.config.phrases import KeyPath, render_path
from hpc.config.yaml import parse_yaml

_PART = re.compile(r"\[(\d+)\]|\.?([^.\[\]\s]+)")


class Override(NamedTuple):
    """One `--set a.b=value`: its text, the path of the key and the parsed value."""

    text: str
    path: KeyPath
    value: Any


def parse_override(text: str) -> Override:
    """Parse `models[0].seed=3`, or `models.0.seed=3`; the value is YAML.

    Raises
    ------
    ValueError
        The text is not of the form `key.path=value`, or the value is not YAML.
    """
    key, equals, value = text.partition("=")
    parts = list(_PART.finditer(key))
    path = tuple(_key(index or name) for index, name in (part.groups() for part in parts))
    if not equals or not key or key.startswith(".") or "".join(p[0] for p in parts) != key:
        raise ValueError("accepted: key=value, as in encoding.folds=4 or models[0].seed=3")
    try:
        return Override(text, path, parse_yaml(value))
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None) or str(error)
        raise ValueError(f"the value is not YAML: {problem}") from error


def _key(part: str) -> str | int:
    return int(part) if part.isdecimal() else part


def apply_overrides(
    data: Mapping[str, object], overrides: Sequence[str], defaults: Mapping[str, object]
) -> tuple[dict[str, object], list[Override], list[str]]:
    """Set values in a copy of `data`; what the data lacks on the way is taken from `defaults`.

    Returns
    -------
    tuple
        The changed data, the overrides that were set, and a line for each that could not be.
        Unknown keys are set too: validation finds and names them.
    """
    changed = copy.deepcopy(dict(data))
    applied, problems = [], []
    for text in overrides:
        try:
            override = parse_override(text)
            _set(changed, override, defaults)
            applied.append(override)
        except ValueError as error:
            problems.append(f"--set {text}: {error}")
    return changed, applied, problems


def _set(data: dict[str, object], override: Override, defaults: Mapping[str, object]) -> None:
    place: Any = data
    default: Any = defaults
    for depth, key in enumerate(override.path[:-1]):
        default = default.get(key) if isinstance(default, Mapping) else None
        _check_place(place, override.path[: depth + 1])
        if isinstance(place, dict) and place.get(key) is None:
            place[key] = copy.deepcopy(default) if default is not None else {}
        place = place[key]
    _check_place(place, override.path)
    place[override.path[-1]] = copy.deepcopy(override.value)


def _check_place(place: Any, path: KeyPath) -> None:
    """Refuse a path whose last part cannot be a key or index of `place`."""
    parent, key = render_path(path[:-1]), path[-1]
    if isinstance(place, list):
        if not isinstance(key, int):
            raise ValueError(f"{parent} is a list; accepted: an entry of it, as {parent}[0].{key}")
        if key >= len(place):
            count = f"{parent} has {len(place)} entries"
            raise ValueError(f"{count}; accepted: [0] to [{len(place) - 1}]" if place else count)
    elif not isinstance(place, dict):
        raise ValueError(f"{parent} is a single value and has no key {key!r}")
    elif isinstance(key, int):
        raise ValueError(f"{parent or 'the study'} is not a list and has no entry [{key}]")
