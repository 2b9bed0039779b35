"""Between a file that a user wrote and its model: YAML, `--set` overrides, and refusals.

The YAML is version 1.2's core schema, which has fewer traps than what PyYAML reads by default:
`1e8` is a number, `no` and `010` are strings, and a key given twice is refused.
"""

import copy
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from yaml.constructor import ConstructorError

KeyPath = tuple[str | int, ...]
"""Where a value is: `("models", 0, "seed")` for `models[0].seed`."""

_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)$")
_FLOAT = re.compile(
    r"([-+]?([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
    r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$"
)
_PART = re.compile(r"\[(\d+)\]|\.?([^.\[\]\s]+)")
_FORMS = {
    "model_type": "a mapping (key: value)",
    "model_attributes_type": "a mapping (key: value)",
    "dict_type": "a mapping (key: value)",
    "tuple_type": "a list",
    "string_type": "a text; put quotes around what YAML reads as something else",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
}
"""What is accepted, by pydantic's type of error, where its own words are about Python."""


class _Loader(yaml.SafeLoader):
    """Reads YAML 1.2's core schema and refuses duplicate keys."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in lines:
                problem = f"the key `{key.value}` is given twice, first in line {lines[key.value]}"
                raise ConstructorError(None, None, problem, key.start_mark)
            lines[key.value] = key.start_mark.line + 1
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes every string that YAML 1.1 or 1.2 would read as something else."""


for _tag, _pattern, _first in (
    ("null", re.compile(r"(~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
    ("bool", re.compile(r"(true|True|TRUE|false|False|FALSE)$"), list("tTfF")),
    ("int", _INTEGER, list("-+0123456789")),
    ("float", _FLOAT, list("-+.0123456789")),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _pattern, _first)
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


class Override(NamedTuple):
    """One `--set a.b=value`: its text, the path of the key and the parsed value."""

    text: str
    path: KeyPath
    value: Any


def parse_yaml(text: str | bytes) -> Any:
    """Return the plain data of a YAML text; raises `yaml.YAMLError`."""
    return yaml.load(text, Loader=_Loader)


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping that a YAML file holds.

    Raises
    ------
    ValueError
        There is no such file, it is not YAML (with line and column), or it is no mapping.
    """
    if not path.exists():
        near = did_you_mean(path.name, [p.name for p in path.parent.glob("*.y*ml")])
        raise ValueError(f"{path}: no such file; accepted: a study file (`gradenc init`){near}")
    text = path.read_bytes()
    try:
        data = parse_yaml(text)
    except yaml.MarkedYAMLError as error:
        raise ValueError(f"{path}:{_syntax_problem(text, error)}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not a text of YAML: {error}") from error
    if not isinstance(data, dict):
        raise ValueError(f"{path}: given {given(data)}; accepted: keys and values (`gradenc init`)")
    return data


def _syntax_problem(text: bytes, error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark
    if mark is None:
        return f" {error}"
    line = "".join(text.decode(errors="replace").splitlines()[mark.line : mark.line + 1])
    tab = "\t" in line[: len(line) - len(line.lstrip())]
    problem = "YAML does not allow tabs for indentation: use spaces" if tab else error.problem
    return f"{mark.line + 1}:{mark.column + 1}: {problem}"


def dump_yaml(data: Any) -> str:
    """Return YAML that `parse_yaml` reads back to the same data, keys in the order given."""
    style: dict[str, Any] = {"sort_keys": False, "allow_unicode": True, "width": 100}
    return str(yaml.dump(data, Dumper=_Dumper, default_flow_style=None, **style))


def render_path(path: KeyPath) -> str:
    """Return `models[0].seed` for `("models", 0, "seed")`."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return "".join(parts).removeprefix(".")


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
    data: Mapping[str, Any], overrides: Sequence[str], defaults: Mapping[str, Any]
) -> tuple[dict[str, Any], list[Override], list[str]]:
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


def _set(data: dict[str, Any], override: Override, defaults: Mapping[str, Any]) -> None:
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


def refusals(
    error: ValidationError,
    model: type[BaseModel],
    data: Any,
    origin: str,
    overrides: Sequence[Override] = (),
) -> list[str]:
    """Return one line for every problem of `data`: where, what was given, what is accepted.

    Parameters
    ----------
    data : object
        The plain data that `model` refused.
    origin : str
        The file that it was read from; problems of keys that an override set name the override.
    """
    lines = []
    for details in error.errors():
        if _follows_from_another(details):
            continue
        path = _path_in(data, _location(details))
        where = next((f"--set {o.text}" for o in overrides if _is_about(o.path, path)), origin)
        place = f"{where}: {render_path(path)}" if path else where
        lines.append(f"{place}: {_explain(details, model)}")
    return lines


def given(value: Any) -> str:
    """Return a value as a user would write it, cut to one short piece of text."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else f"{text[:77]}..."


def did_you_mean(value: Any, known: Sequence[str]) -> str:
    """Return "; did you mean `x`?", or nothing where no known word is close."""
    close = get_close_matches(value, known, n=1) if isinstance(value, str) else []
    return f"; did you mean `{close[0]}`?" if close else ""


def _follows_from_another(details: ErrorDetails) -> bool:
    """Return whether pydantic reports this only because an entry or earlier key is refused."""
    if details["type"] == "too_short":
        return len(details["input"]) >= details["ctx"]["min_length"]
    return details["type"] == "default_factory_not_called"


def _is_about(override: KeyPath, path: KeyPath) -> bool:
    common = min(len(override), len(path))
    return override[:common] == path[:common]


def _location(details: ErrorDetails) -> KeyPath:
    """Return pydantic's location; for the tag of a union, that of the tag's key."""
    if details["type"].startswith("union_tag"):
        return (*details["loc"], details["ctx"]["discriminator"].strip("'"))
    return details["loc"]


def _path_in(data: Any, location: KeyPath) -> KeyPath:
    """Return pydantic's location without the names of union members, which are no keys."""
    path: list[str | int] = []
    for part in location:
        is_key = isinstance(data, Mapping) and (part in data or part == location[-1])
        is_index = isinstance(data, list | tuple) and isinstance(part, int)
        if is_key or is_index:
            path.append(part)
            inside = (is_key and part in data) or (is_index and int(part) < len(data))
            data = data[part] if inside else None
    return tuple(path)


def _explain(details: ErrorDetails, model: type[BaseModel]) -> str:
    kind, value, context = details["type"], details["input"], details.get("ctx", {})
    if kind == "missing":
        return f"missing; accepted: {_description(model, details['loc'])}"
    if kind == "string_pattern_mismatch":
        return f"given {given(value)}; accepted: {_description(model, details['loc'])}"
    if kind == "extra_forbidden":
        key, known = details["loc"][-1], sorted(_siblings(model, details["loc"]))
        known_keys = f"{', '.join(known)}{did_you_mean(key, known)}"
        return f"unknown key, given {given(value)}; accepted: {known_keys}"
    if kind == "union_tag_not_found":
        return f"missing; accepted: {', '.join(sorted(_union_tags(model, details['loc'])))}"
    if kind == "too_short":
        return f"given {given(value)}; accepted: at least {context['min_length']} entries"
    if kind == "value_error":
        return f"given {given(value)}; accepted: {context['error']}"
    words: str | None = context.get("expected_tags") or context.get("expected")
    if words:
        wrong = context.get("tag", value)
        known = re.findall(r"'([^']*)'", words)
        return f"given {given(wrong)}; accepted: {', '.join(known)}{did_you_mean(wrong, known)}"
    form = _FORMS.get(kind) or re.sub(r"^(Input|\w+) should (be |have )?", "", details["msg"])
    return f"given {given(value)}; accepted: {form}"


def _siblings(model: type[BaseModel], location: KeyPath) -> list[str]:
    """Return the keys that the mapping around `location` may have."""
    return [name for member in _models_at(model, location[:-1]) for name in member.model_fields]


def _description(model: type[BaseModel], location: KeyPath) -> str:
    while isinstance(location[-1], int):
        location = location[:-1]
    key = location[-1]
    members = _models_at(model, location[:-1])
    return next(str(m.model_fields[key].description) for m in members if key in m.model_fields)


def _models_at(model: type[BaseModel], location: KeyPath) -> list[type[BaseModel]]:
    members = [model]
    for part in location:
        fields = [m.model_fields[part] for m in members if part in m.model_fields]
        if fields:
            members = [m for field in fields for m in _models_in(field.annotation)]
        elif isinstance(part, str):  # the member of a union that was chosen by its tag
            members = [m for m in members if part in _tags(m)] or members
    return members


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)


def _union_tags(model: type[BaseModel], location: KeyPath) -> Iterator[str]:
    for member in _models_at(model, location):
        yield from get_args(member.model_fields["reader"].annotation)


def _tags(model: type[BaseModel]) -> list[Any]:
    return [tag for f in model.model_fields.values() for tag in get_args(f.annotation)]
