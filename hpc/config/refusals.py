"""From pydantic's errors to lines for the user: where, what was given, what is accepted.

Pydantic's own messages speak of Python types and of members of unions, which no user wrote.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from gradenc_core.spelling import did_you_mean
from hpc.config.overrides import Override
from hpc.config.phrases import KeyPath, given, render_path

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
    """Return the description of the key at a place; of the key above it, if it is an entry."""
    for depth in reversed(range(len(location))):
        for member in _models_at(model, location[:depth]):
            if location[depth] in member.model_fields:
                return str(member.model_fields[str(location[depth])].description)
    raise KeyError(location)


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
