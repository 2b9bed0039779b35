"""One line per thing that is wrong with a file: key, given value, accepted values, suggestion."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError


@dataclass(frozen=True)
class Refusal:
    """A value that is not accepted."""

    key: str
    given: object
    accepted: str
    meant: str | None = None

    def __str__(self) -> str:
        """Return the line that the user sees."""
        hint = f"; did you mean {self.meant!r}?" if self.meant else ""
        return f"{self.key}: given {self.given!r}, expected {self.accepted}{hint}"


def describe_errors(path: Path, error: ValidationError, model: type[BaseModel]) -> str:
    """Return one message with a line per error, each beginning with the file."""
    return "\n".join(f"{path}: {_refusal(item, model)}" for item in error.errors())


def _refusal(item: Any, model: type[BaseModel]) -> Refusal | str:
    key = dotted(item["loc"])
    kind, given, context = item["type"], item["input"], item.get("ctx", {})
    if kind == "extra_forbidden":
        name = str(item["loc"][-1])
        known = list(_fields(model, item["loc"][:-1]))
        return Refusal(key, given, f"no such key; known: {', '.join(known)}", _close(name, known))
    if kind == "missing":
        return f"{key}: this key is needed and is missing"
    if kind in ("literal_error", "union_tag_invalid"):
        accepted = str(context.get("expected", context.get("expected_tags")))
        options = [option.strip(" '") for option in accepted.replace(" or ", ",").split(",")]
        shown = context.get("tag", given)
        return Refusal(key, shown, f"one of {', '.join(options)}", _close(str(shown), options))
    if kind == "value_error":
        return f"{key}: {context['error']}" if key else str(context["error"])
    return Refusal(key, given, item["msg"].removeprefix("Input should be "))


def dotted(location: Sequence[int | str]) -> str:
    """Return a key's path as users write it: models[0].weights."""
    text = ""
    for part in location:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part not in ("bids", "epochs", "list[str]", "literal['blocks']"):
            text += f".{part}" if text else part
    return text


def _close(word: str, options: Sequence[str]) -> str | None:
    return next(iter(get_close_matches(word, options)), None)


def _fields(model: type[BaseModel], location: Sequence[int | str]) -> Iterator[str]:
    """Yield the known keys of the section at a location."""
    sections: list[type[BaseModel]] = [model]
    for part in location:
        if isinstance(part, str):
            sections = [
                found
                for section in sections
                for name, field in section.model_fields.items()
                if name == part
                for found in _models_in(field.annotation)
            ] or [s for s in sections if _tag(s) == part]
    for section in sections:
        yield from section.model_fields


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) is not None:
        for argument in get_args(annotation):
            yield from _models_in(argument)


def _tag(section: type[BaseModel]) -> str | None:
    reader = section.model_fields.get("reader")
    return next(iter(get_args(reader.annotation)), None) if reader else None
