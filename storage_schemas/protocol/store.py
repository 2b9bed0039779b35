"""A store: one identity's folder, made whole before any unit runs and immutable but for its shards.

::

    <root>/<stage>/<hash12>-<label>/
      plan.json              its arrays and units, and which unit owns which file
      data.zarr/             arrays, coordinates, attributes; no job state
      commits/<xx>/          the only proof that a unit is done (`commit`)
      attempts/<xx>/         every try at a unit; the newest one holds it (`attempts`)
      SEALED.json            all units deep-checked (`seal`)
      frame-<crc32c>.zip     a copy of plan, metadata and coordinates (`frame`)
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from os import DirEntry, scandir
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import JsonValue

from gradenc_errors import Remedy
from storage_schemas import files
from storage_schemas.errors import DamagedStore, NoStore
from storage_schemas.identity import identity_of
from storage_schemas.kinds.registry import KINDS
from storage_schemas.layout import ArrayLayout, Unit, check_layouts, check_ownership
from storage_schemas.protocol.frame import lost_file
from storage_schemas.protocol.new_store import NewStore, build
from storage_schemas.protocol.records import Plan, PlanVersion, Seal
from storage_schemas.protocol.validate import check_data
from storage_schemas.records import Record, parse

if TYPE_CHECKING:
    import xarray as xr  # slow to import, and most of what looks at a store opens no dataset

__all__ = ["Store", "Unit"]


@dataclass(frozen=True, eq=False)
class Store:
    """An identity folder, by its path and its parsed plan."""

    path: Path
    plan: Plan

    @classmethod
    def create(cls, root: Path, new: NewStore) -> Store:
        """Create a store below `root`, or open it if it exists under any label.

        An existing store keeps its units and attributes: they do not enter the identity.

        Raises
        ------
        ValueError
            For regions that cut, share or miss a file; for another identity in the folder.
        OSError
            Naming the folder that cannot be written.
        """
        plan = new.plan()
        path = locate(Path(root) / new.stage, plan.identity)
        if path is None:
            path = Path(root) / new.stage / f"{plan.identity[:12]}-{new.label}"
            check_layouts(new.layout.arrays, new.layout.coords.sizes)
            check_ownership(new.layout.arrays, new.layout.units)
            build(path, plan, new.layout.arrays, new.layout.coords)
        return _open_same(path, plan).named(new.label, new.attrs)

    @classmethod
    def open(cls, path: Path) -> Store:
        """Open a store.

        Raises
        ------
        NoStore
            If the folder holds no plan.
        DamagedStore
            If the plan was changed by hand.
        ValueError
            If it is of a newer version.
        """
        plan_path = Path(path) / "plan.json"
        try:
            stat = plan_path.stat()
        except FileNotFoundError:
            raise NoStore(
                f"{path} holds no plan.json: the path is wrong, or the store was deleted"
            ) from None
        return _open_unchanged(Path(path), (stat.st_ino, stat.st_mtime_ns))

    @classmethod
    def find(cls, root: Path, stage: str, identity: str) -> Store:
        """Open the store of an identity below `root`, whatever its label.

        Raises
        ------
        NoStore
            If there is none.
        """
        path = locate(Path(root) / stage, identity)
        if path is None:
            raise NoStore(
                f"{Path(root) / stage} holds no store {identity[:12]}; it was deleted",
                Remedy.SUBMIT_AGAIN,
            )
        return cls.open(path)

    def named(self, label: str, names: Mapping[str, Any]) -> Store:
        """Return the store as one study calls it: studies share stores under their own names."""
        # A copy keeps what was already parsed: units of a large plan take a second.
        renamed = copy.copy(self)
        attrs = {**self.plan.attrs, **names}
        object.__setattr__(renamed, "plan", replace(self.plan, label=label, attrs=attrs))
        return renamed

    @property
    def reference(self) -> str:
        """Its path relative to the root of stores: ``<stage>/<hash12>-<label>``."""
        return f"{self.path.parent.name}/{self.path.name}"

    @property
    def kind(self) -> str:
        """Kind of store, a key of `KINDS`."""
        return self.plan.kind

    @property
    def label(self) -> str:
        """Readable end of the folder's name."""
        return self.plan.label

    @property
    def identity(self) -> str:
        """The sha256 (hex) of kind, versions and specification."""
        return self.plan.identity

    @property
    def spec(self) -> dict[str, JsonValue]:
        """Everything that determines the store's bytes."""
        return dict(self.plan.spec)

    @property
    def attrs(self) -> dict[str, Any]:
        """Attributes of the zarr group, as they were planned."""
        return dict(self.plan.attrs)

    def described(self, kind: type[Record]) -> Record:
        """Return the attributes in the form that a kind of store gives them.

        Raises
        ------
        DamagedStore
            If they do not have this form, naming the plan and the attribute.
        """
        try:
            return parse(kind, self.plan.attrs)
        except ValueError as reason:
            raise _damaged(self.path, f"has damaged attributes ({reason})") from None

    @property
    def locations(self) -> dict[str, str]:
        """Absolute paths of the inputs, as last planned."""
        return dict(self.plan.locations)

    @cached_property
    def arrays(self) -> dict[str, ArrayLayout]:
        """Layouts by array name."""
        return {array.name: array for array in self.plan.arrays}

    @cached_property
    def units(self) -> list[Unit]:
        """All units, in order of index."""
        return [Unit(index, *fields) for index, fields in enumerate(self.plan.units)]

    @property
    def data(self) -> Path:
        """The zarr group."""
        return self.path / "data.zarr"

    @property
    def seal_path(self) -> Path:
        """The seal, which may not exist."""
        return self.path / "SEALED.json"

    def unit_id(self, unit: Unit) -> str:
        """Return the unit's name in records, logs and messages."""
        return f"{self.identity[:12]}-{unit.index:05d}"

    def owned_files(self, unit: Unit) -> list[str]:
        """Return the files that only this unit writes, relative to `data`, sorted."""
        return sorted(
            name
            for array, region in unit.regions.items()
            for name in self.arrays[array].file_names(region)
        )

    def record_path(self, unit: Unit) -> Path:
        """Return where the unit's commit record is, once there is one."""
        return self.path / "commits" / subfolder(unit.index) / f"{unit.index:05d}.json"

    def dataset(self, dask: bool = True) -> xr.Dataset:
        """Open the arrays lazily, whether or not all units are committed.

        They are dask's; without it, a slice that is taken is read there and then.

        Raises
        ------
        DamagedStore
            If what is there is not what its kind's schema and the plan say, or a file of the
            coordinates is lost.
        """
        import xarray as xr

        check_data(self.data, self.kind, self.plan.schema_version, self.plan.arrays)
        if name := lost_file(self.path):
            raise DamagedStore(f"{self.path / name} is missing or was changed")
        opened = xr.open_dataset(
            self.data, engine="zarr", consolidated=False, chunks={} if dask else None, cache=False
        )
        return opened.assign_attrs(
            {key: self.attrs[key] for key in opened.attrs if key in self.attrs}
        )

    def sealed(self) -> Seal | None:
        """Return the seal, or None if there is none or it is damaged or another identity's."""
        try:
            seal = parse(Seal, files.read_json(self.seal_path))
        except ValueError:
            return None
        return seal if seal.identity == self.identity else None


def locate(folder: Path, identity: str) -> Path | None:
    """Return the store of an identity in a stage's folder, or None."""
    found = sorted(folder.glob(f"{identity[:12]}-*"))
    return found[0] if found else None


def subfolder(index: int) -> str:
    """Return the subfolder of a unit's records: 256 units each."""
    return f"{index >> 8:02x}"


def scan(folder: Path) -> Iterator[DirEntry[str]]:
    """Yield the finished files in the subfolders of `commits` or `attempts`, in one pass."""
    if not folder.is_dir():
        return  # deleted: none of the store's units has a record
    with scandir(folder) as subfolders:
        for subfolder_entry in subfolders:
            if subfolder_entry.is_dir():
                with scandir(subfolder_entry.path) as entries:
                    yield from (entry for entry in entries if entry.name.endswith(".json"))


def _open_same(path: Path, plan: Plan) -> Store:
    store = Store.open(path)
    if store.identity != plan.identity:
        raise ValueError(
            f"{path} holds identity {store.identity}, not {plan.identity}, which begins alike; "
            "give the study another store_root"
        )
    # Inputs may have moved; a sealed store needs them no more and may be read-only.
    if store.locations != plan.locations and store.sealed() is None:
        moved = replace(store.plan, locations=plan.locations)
        files.replace(path / "plan.json", moved.as_json())
        store = Store.open(path)
    return store


@lru_cache(maxsize=32)
def _open_unchanged(path: Path, _stamp: tuple[int, int]) -> Store:
    """Parse each version of a plan once per process: a worker opens its store for every unit."""
    written = files.read_json(path / "plan.json")
    version = _parsed(path, PlanVersion, written)
    known = KINDS[version.kind].schemas if version.kind in KINDS else {}
    if version.schema_version not in known:
        raise ValueError(
            f"{path} has schema version {version.schema_version} of kind {version.kind}, this "
            f"gradenc reads {', '.join(map(str, known)) or 'none'}; update gradenc, or compute the "
            "store anew where it is the older"
        )
    plan = _parsed(path, Plan, written)
    hashed = (plan.kind, plan.schema_version, plan.algorithm_version, plan.spec)
    if identity_of(*hashed) != plan.identity:
        raise _damaged(path, "was changed by hand")
    return Store(path, plan)


def _parsed(path: Path, kind: type[Record], written: object) -> Record:
    try:
        return parse(kind, written)
    except ValueError as reason:
        raise _damaged(path, f"is no plan of a store ({reason})") from None


def _damaged(path: Path, what: str) -> DamagedStore:
    return DamagedStore(
        f"{path / 'plan.json'} {what} (if resuming does not put it back, delete {path})"
    )
