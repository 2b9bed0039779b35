"""Resume a run: put right what is damaged, and let failed units be tried again.

Nothing is submitted here; the next step of the run does that.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from hpc.run.folder import RunFolder
from hpc.run.state import check_only
from jobs.spec import STAGES
from storage_schemas.protocol.commit import problems, withdraw
from storage_schemas.protocol.seal import claimed_units
from storage_schemas.protocol.store import Store
from storage_schemas.runs.run import mend_stores


@dataclass(frozen=True)
class Repairs:
    """The damage that `resume` found in a run's stores."""

    files: tuple[str, ...]
    """Plans, metadata and coordinates that were put back from their copies."""
    units: int
    """Committed units whose files differed from their records: they will be computed again."""


def resume(
    run: RunFolder,
    only: Sequence[str] = (),
    wishes: Mapping[str, Any] = MappingProxyType({}),
    deep: bool = True,
    each: Callable[[Sequence[Store]], Iterable[Store]] = iter,
) -> Repairs:
    """Repair the stores of a run and begin its next round.

    Parameters
    ----------
    only : sequence of str
        Unit ids, stages or classes of failure; by default all failed units are tried again.
    wishes : mapping, optional
        Fields of `Wishes` to change; None leaves a field as it is.
    deep : bool
        Whether to read every committed byte; else only sizes are compared.
    each : callable
        Iterates over the stores that are checked, for a progress bar.

    Raises
    ------
    ValueError
        If a store cannot be mended, or a name in `only` fits no failed unit.
    """
    with run.lock():
        files = mend_stores(run.path)
        check_only(run, only)
        run.next_round(only)
        run.change(**{name: wish for name, wish in wishes.items() if wish is not None})
        stores = [store for stage in STAGES for store in run.stores(stage)]
        return Repairs(tuple(files), sum(_withdraw_damaged(store, deep) for store in each(stores)))


def _withdraw_damaged(store: Store, deep: bool) -> int:
    """Withdraw the committed units whose files differ from their records; return how many."""
    damaged = [unit for unit in claimed_units(store) if problems(store, unit, deep)]
    for unit in damaged:
        withdraw(store, unit)
    return len(damaged)
