"""Records: what stands on the disk as JSON is read into frozen types, and refused where it differs.

A record is a frozen dataclass whose fields are the keys of its JSON object, in their order. Keys
that a type does not know are ignored, so that a later version may add some.
"""

from typing import Any, TypeVar

from pydantic import JsonValue, TypeAdapter, ValidationError

Record = TypeVar("Record")

_ADAPTERS: dict[type, TypeAdapter[Any]] = {}


def parse(kind: type[Record], value: object) -> Record:
    """Return a JSON value as a record.

    Raises
    ------
    ValueError
        Naming the first key that differs and why; the caller adds the file and the remedy.
    """
    try:
        return _adapter(kind).validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise ValueError(f"{where}: {first['msg'].lower()}") from None


def as_json(record: object) -> dict[str, JsonValue]:
    """Return a record as the JSON object that `parse` reads."""
    value: dict[str, JsonValue] = _adapter(type(record)).dump_python(record, mode="json")
    return value


def _adapter(kind: type) -> TypeAdapter[Any]:
    """Build the reader of each type once, which takes milliseconds."""
    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]
