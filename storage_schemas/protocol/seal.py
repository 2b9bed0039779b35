"""The seal: a store's statement that all its units are committed and were checked to the last byte.

Its digest depends on the stored bytes alone: not on time, host, attempts or who was killed before.
"""

from collections.abc import Iterable, Iterator
from dataclasses import asdict

from gradenc_errors import GradencError, Remedy
from storage_schemas import files
from storage_schemas.identity import FORMAT_VERSION, canonical_json, digest
from storage_schemas.protocol.commit import committed_units, problems, record_of
from storage_schemas.protocol.frame import mend_frame
from storage_schemas.protocol.records import Seal
from storage_schemas.protocol.store import Store, Unit

SHOWN = 5

Entry = tuple[str, str, int, str]
"""Unit identifier, file, size in bytes, checksum."""


class Unsealable(GradencError, RuntimeError):
    """Units of a store are not committed or do not pass the deep check.

    Attributes
    ----------
    problems : dict
        Unit index -> sentences.
    """

    remedy = Remedy.RESUME

    def __init__(self, store: Store, found: dict[int, list[str]]) -> None:
        sentences = [sentence for unit in found.values() for sentence in unit]
        more = f" (and {len(sentences) - SHOWN} more)" if len(sentences) > SHOWN else ""
        super().__init__(
            f"{store.reference} cannot be sealed, {len(found)} of {len(store.units)} units are "
            f"not in order: {' | '.join(sentences[:SHOWN])}{more}"
        )
        self.problems = found


def seal(store: Store) -> Seal:
    """Check every unit deeply and write the seal; return it (an existing one unchecked).

    Raises
    ------
    Unsealable
        Naming the units that are not in order.
    """
    if existing := store.sealed():
        return existing
    # No unit restores the frame, and every stage that builds on the seal reads it.
    mend_frame(store.path)
    _check(store, deep=True)
    _remove_orphans(store)
    statement = Seal(
        version=FORMAT_VERSION,
        identity=store.identity,
        units=len(store.units),
        digest=digest(sorted(_entries(store))),
    )
    data = canonical_json(asdict(statement))
    if not files.write_exclusive(store.seal_path, data) and store.sealed() is None:
        # A damaged seal would keep the name for ever.
        files.replace(store.seal_path, data)
    _require_records(store)
    return statement


def claimed_units(store: Store) -> list[Unit]:
    """Return the units that should be whole: those with a record, or all of a sealed store."""
    if store.sealed():
        return store.units
    return [store.units[index] for index in sorted(committed_units(store))]


def run_digest(stores: Iterable[Store]) -> str:
    """Return the sha256 over all (unit id, file, size, checksum) of a run's stores, sorted.

    Raises
    ------
    Unsealable
        If a unit is not committed.
    """
    entries: set[Entry] = set()
    for store in stores:
        _check(store, deep=False)
        entries.update(_entries(store))
    return digest(sorted(entries))


def _check(store: Store, deep: bool) -> None:
    found = {unit.index: problems(store, unit, deep) for unit in store.units}
    if bad := {index: sentences for index, sentences in found.items() if sentences}:
        raise Unsealable(store, bad)


def _require_records(store: Store) -> None:
    """Take the seal back if a unit was withdrawn since it was checked (see `withdraw`)."""
    try:
        _check(store, deep=False)
    except Unsealable:
        files.remove(store.seal_path)
        raise


def _remove_orphans(store: Store) -> None:
    """Delete the partial files of writers that were killed before they tidied up."""
    shards = [store.data / name for unit in store.units for name in store.owned_files(unit)]
    files.remove_partials([*shards, *map(store.record_path, store.units)])


def _entries(store: Store) -> Iterator[Entry]:
    for unit in store.units:
        record = record_of(store, unit)
        if record is None:
            raise Unsealable(store, {unit.index: problems(store, unit, deep=False)})
        for name, file in record.files.items():
            yield store.unit_id(unit), name, file.size, file.crc32c
