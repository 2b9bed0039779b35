"""The records of a store: its plan, the commit of each unit, and its seal, as their files say."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import JsonValue

from storage_schemas.identity import canonical_json
from storage_schemas.layout import ArrayLayout

UnitEntry = tuple[str, dict[str, int], dict[str, list[tuple[int, int]]]]
"""Label, key and regions of a unit; its index is its place in the plan."""


@dataclass(frozen=True)
class PlanVersion:
    """Which schema the store of a `plan.json` follows, in a form that every version can read."""

    kind: str
    schema_version: int


@dataclass(frozen=True)
class Plan(PlanVersion):
    """`plan.json`: what a store is, what it holds, and where its inputs lie."""

    algorithm_version: int
    spec: dict[str, JsonValue]
    """Everything that determines the store's bytes."""
    label: str
    identity: str
    """The sha256 (hex) of kind, versions and specification."""
    attrs: dict[str, JsonValue]
    """Attributes of the zarr group."""
    arrays: tuple[ArrayLayout, ...]
    units: tuple[UnitEntry, ...]
    """Positional, without the index: 100,000 units stay a few MB and parse in a second."""
    locations: dict[str, str]
    """Absolute paths of the inputs, as last planned."""

    def as_json(self) -> bytes:
        """Return the content of the file; units stay as they are, which is fast."""
        arrays = [asdict(array) for array in self.arrays]
        return canonical_json({**vars(self), "arrays": arrays})


@dataclass(frozen=True)
class FileRecord:
    """A shard file as it was when its unit was committed."""

    size: int
    """Bytes."""
    crc32c: str


@dataclass(frozen=True)
class ArrayRecord:
    """How many values of a unit's array are not finite, and the range of those that are."""

    nan: int
    inf: int
    min: bool | int | float | None
    """None if no value is finite."""
    max: bool | int | float | None


@dataclass(frozen=True)
class CommitRecord:
    """`commits/<xx>/<index>.json`: the only proof that a unit is done."""

    version: int
    unit: str
    identity: str
    files: dict[str, FileRecord]
    """By path below `data.zarr`."""
    arrays: dict[str, ArrayRecord]
    facts: Mapping[str, Any]
    """JSON; how the unit was made. Each kind of store has facts of its own."""
    attempt: int
    """Generation of the attempt that made it."""


@dataclass(frozen=True)
class Seal:
    """`SEALED.json`: all units of a store are committed and were checked to the last byte."""

    version: int
    identity: str
    units: int
    digest: str
    """sha256 over all (unit id, file, size, checksum), sorted."""
