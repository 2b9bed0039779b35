"""A store that a stage needs, before it exists."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs import spec as specs
from storage_schemas.protocol.new_store import NewStore
from storage_schemas.protocol.store import Store

if TYPE_CHECKING:
    from storage_schemas.layout import Layout

References = Mapping[str, specs.Reference]
"""Sealed stores of earlier stages by `<stage>/<label>`."""


def safe(text: str) -> str:
    """Return a source or bands as part of a label."""
    return text.replace(":", "-").replace("+", "-")


@dataclass(frozen=True)
class StorePlan:
    """A store that a stage needs."""

    stage: str
    kind: specs.Kind
    label: str
    spec: specs.Spec
    layout: Layout
    attrs: dict[str, Any]
    locations: dict[str, str]

    def create(self, root: Path) -> Store:
        """Create the store below `root`, or open it where it exists."""
        new = NewStore(
            self.stage,
            self.kind,
            self.label,
            self.spec.canonical(),
            self.layout,
            self.attrs,
            self.locations,
        )
        return Store.create(root, new)
