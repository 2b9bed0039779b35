"""What a kind of store is: its versions, and the arrays and coordinates that each version has.

Versions enter every identity, so a change never reuses old bytes. They are counted per kind, so a
change of one kind leaves the results of the others in use.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

TypeOfCoord = Literal["text", "integer", "float"]


@dataclass(frozen=True)
class ArraySchema:
    """One array; values written there are finite or NaN, never unwritten."""

    dims: tuple[str, ...]
    dtype: str
    long_name: str
    units: str = "1"
    optional: bool = False
    attrs: Mapping[str, Any] = field(default_factory=dict)
    """More CF attributes, e.g. those of `flags`."""


@dataclass(frozen=True)
class CoordSchema:
    """One coordinate."""

    dims: tuple[str, ...]
    type: TypeOfCoord
    units: str | None = None
    optional: bool = False


@dataclass(frozen=True)
class Schema:
    """All arrays and coordinates of a store and the attributes that it must have."""

    arrays: Mapping[str, ArraySchema]
    coords: Mapping[str, CoordSchema] = field(default_factory=dict)
    attrs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Kind:
    """A kind of store.

    Attributes
    ----------
    name : str
        Key of the kind in plans and specifications.
    algorithm_version : int
        Version of the computation that fills it; raise it when its bytes change.
    schemas : mapping of int to tuple of Schema
        By schema version, the forms that a store may have (responses: of fMRI or of MEG). An old
        version stays here for as long as its stores can be opened; new stores follow the largest.
    place : str or None
        Path in the tree of results, with the store's attributes in braces; None for kinds
        that `results.tree` shows in a form of their own.
    unit_dim : str, optional
        Dimension along which units divide a store; without one, a single unit holds everything.
    """

    name: str
    algorithm_version: int
    schemas: Mapping[int, tuple[Schema, ...]]
    place: str | None
    unit_dim: str | None = None

    @property
    def schema_version(self) -> int:
        """Version of the schema that new stores follow."""
        return max(self.schemas)

    @property
    def forms(self) -> tuple[Schema, ...]:
        """The forms that a new store may have."""
        return self.schemas[self.schema_version]


def flags(names: Sequence[str]) -> dict[str, list[int] | str]:
    """Return the CF attributes of an integer array whose values 0, 1, ... mean these names."""
    return {"flag_values": list(range(len(names))), "flag_meanings": " ".join(names)}


def flag_names(attrs: Mapping[Any, Any]) -> dict[int, str]:
    """Return what each value of an array means, from its attributes `flags`."""
    names = attrs["flag_meanings"].split()
    return {int(value): name for value, name in zip(attrs["flag_values"], names, strict=True)}


def flag_value(attrs: Mapping[Any, Any], name: str) -> int:
    """Return the value that stands for a name in an array with the attributes `flags`.

    Writers ask the array that they fill, so that numbers and names cannot drift apart.
    """
    return {meaning: value for value, meaning in flag_names(attrs).items()}[name]
