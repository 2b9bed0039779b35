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
from dataclasses import dataclass
from functools import cached_property, lru_cache
from os import DirEntry, scandir
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradenc_errors import Remedy
from storage_schemas import files
from storage_schemas.errors import DamagedStore, NoStore
from storage_schemas.identity import canonical_json, digest
from storage_schemas.kinds.registry import KINDS
from storage_schemas.layout import ArrayLayout, Unit, check_layouts, check_ownership
from storage_schemas.protocol.frame import lost_file
from storage_schemas.protocol.new_store import NewStore, Plan, build
from storage_schemas.protocol.validate import check_data

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
        path = locate(Path(root) / new.stage, plan["identity"])
        if path is None:
            path = Path(root) / new.stage / f"{plan['identity'][:12]}-{new.label}"
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
        attrs = {**self.plan["attrs"], **names}
        object.__setattr__(renamed, "plan", {**self.plan, "label": label, "attrs": attrs})
        return renamed

    @property
    def reference(self) -> str:
        """Its path relative to the root of stores: ``<stage>/<hash12>-<label>``."""
        return f"{self.path.parent.name}/{self.path.name}"

    @property
    def kind(self) -> str:
        """Kind of store, a key of `KINDS`."""
        return str(self.plan["kind"])

    @property
    def label(self) -> str:
        """Readable end of the folder's name."""
        return str(self.plan["label"])

    @property
    def identity(self) -> str:
        """The sha256 (hex) of kind, versions and specification."""
        return str(self.plan["identity"])

    @property
    def spec(self) -> dict[str, Any]:
        """Everything that determines the store's bytes."""
        return dict(self.plan["spec"])

    @property
    def attrs(self) -> dict[str, Any]:
        """Attributes of the zarr group, as they were planned."""
        return dict(self.plan["attrs"])

    @property
    def locations(self) -> dict[str, str]:
        """Absolute paths of the inputs, as last planned."""
        return dict(self.plan["locations"])

    @cached_property
    def arrays(self) -> dict[str, ArrayLayout]:
        """Layouts by array name."""
        return {array["name"]: _layout(array) for array in self.plan["arrays"]}

    @cached_property
    def units(self) -> list[Unit]:
        """All units, in order of index."""
        return [_unit(index, *fields) for index, fields in enumerate(self.plan["units"])]

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

        check_data(self.data, self.kind, self.plan["schema_version"], tuple(self.arrays.values()))
        if name := lost_file(self.path):
            raise DamagedStore(f"{self.path / name} is missing or was changed")
        opened = xr.open_dataset(
            self.data, engine="zarr", consolidated=False, chunks={} if dask else None, cache=False
        )
        return opened.assign_attrs(
            {key: self.attrs[key] for key in opened.attrs if key in self.attrs}
        )

    def sealed(self) -> dict[str, Any] | None:
        """Return the seal, or None if there is none or it is torn or another identity's."""
        seal = files.read_json(self.seal_path)
        return seal if seal and seal.get("identity") == self.identity else None


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
    if store.identity != plan["identity"]:
        raise ValueError(
            f"{path} holds identity {store.identity}, not {plan['identity']}, which begins alike; "
            "give the study another store_root"
        )
    # Inputs may have moved; a sealed store needs them no more and may be read-only.
    if store.locations != plan["locations"] and store.sealed() is None:
        moved = {**store.plan, "locations": plan["locations"]}
        files.replace(path / "plan.json", canonical_json(moved))
        store = Store.open(path)
    return store


@lru_cache(maxsize=32)
def _open_unchanged(path: Path, _stamp: tuple[int, int]) -> Store:
    """Parse each version of a plan once per process: a worker opens its store for every unit."""
    plan = files.read_json(path / "plan.json")
    if plan is None or "identity" not in plan:
        raise _damaged(path, "is no plan")
    known = KINDS[plan["kind"]].schemas if plan["kind"] in KINDS else {}
    if plan["schema_version"] not in known:
        raise ValueError(
            f"{path} has schema version {plan['schema_version']} of kind {plan['kind']}, this "
            f"gradenc reads {', '.join(map(str, known)) or 'none'}; update gradenc, or compute the "
            "store anew where it is the older"
        )
    hashed = ("kind", "schema_version", "algorithm_version", "spec")
    if digest({name: plan[name] for name in hashed}) != plan["identity"]:
        raise _damaged(path, "was changed by hand")
    return Store(path, plan)


def _damaged(path: Path, what: str) -> DamagedStore:
    return DamagedStore(
        f"{path / 'plan.json'} {what} (if resuming does not put it back, delete {path})"
    )


def _layout(array: dict[str, Any]) -> ArrayLayout:
    sequences = {name: tuple(array[name]) for name in ("dims", "shape", "chunks")}
    shards = None if array["shards"] is None else tuple(array["shards"])
    return ArrayLayout(**{**array, **sequences, "shards": shards})


def _unit(index: int, label: str, key: dict[str, Any], regions: dict[str, Any]) -> Unit:
    tuples = {name: [(start, stop) for start, stop in box] for name, box in regions.items()}
    return Unit(index, label, key, tuples)
