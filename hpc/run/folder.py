"""A run's folder: the resolved study, the stores it uses, its submissions and its report.

The lock in it makes one process at a time plan, seal and submit. Wishes of the user change how a
run goes on, never a result.
"""

from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from hpc.config.profile import Profile
from storage_schemas.files import follow_group, locked, replace
from storage_schemas.identity import canonical_json
from storage_schemas.protocol.store import Store
from storage_schemas.runs.root import register
from storage_schemas.runs.run import create_run, read_run, record_stores, run_stores


@dataclass(frozen=True)
class RunFolder:
    """The folder that one study's run lives in."""

    path: Path

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """Open an existing run, refusing a folder that is none."""
        read_run(path)
        run = cls(path)
        follow_group(run.root)
        return run

    @classmethod
    def create(
        cls, path: Path, name: str, root: Path | None, units: Mapping[str, int]
    ) -> "RunFolder":
        """Create the run with the number of units of each stage, or open the one that is there."""
        store_root = root or path / "stores"
        follow_group(store_root)
        create_run(path, name, store_root, units)
        register(store_root, path)
        return cls(path)

    @property
    def name(self) -> str:
        """The study's name."""
        return read_run(self.path).name

    @property
    def root(self) -> Path:
        """The store root."""
        return (self.path / read_run(self.path).root).resolve()

    @property
    def resolved(self) -> Path:
        """File that keeps the resolved study."""
        return self.path / "resolved.json"

    @property
    def report(self) -> Path:
        """The report."""
        return self.path / "report.html"

    def stores(self, stage: str) -> list[Store]:
        """Open the stores of a stage that has been planned; empty before that.

        Empty, too, if one of them was deleted: then the stage is planned again.
        """
        try:
            return run_stores(self.path, stage)
        except FileNotFoundError:
            return []

    def record(self, stage: str, stores: Sequence[Store]) -> None:
        """Record a stage's stores in run.json."""
        record_stores(self.path, stage, stores)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run while it is advanced: nobody else plans, seals or submits meanwhile."""
        with locked(self.path / ".lock"):
            yield

    @property
    def drill(self) -> Path:
        """File that says what the units of a drill do; a study's run has none."""
        return self.path / "drill.json"

    @property
    def round(self) -> int:
        """How often the user has asked for failed units to be tried again."""
        return self.wishes.round

    @property
    def cancelled(self) -> bool:
        """Whether the user cancelled the run."""
        return self.wishes.cancelled

    @property
    def dask(self) -> str | None:
        """Address of the user's own Dask scheduler, if one was given."""
        return self.wishes.dask

    @property
    def notify(self) -> str | None:
        """The command that is run when the run is complete or needs the user."""
        return self.wishes.notify

    @property
    def pilot(self) -> bool:
        """Whether a unit of each kind is made before the others are submitted."""
        return self.wishes.pilot

    @property
    def max_gpu_hours(self) -> float | None:
        """The most GPU hours that the run may hold in all."""
        return self.wishes.max_gpu_hours

    def profile(self) -> Profile:
        """Return the profile that the run was last submitted or resumed with."""
        file = self.path / "profile.json"
        if not file.exists():
            raise ValueError(
                f"{self.path} keeps no profile (it was not submitted yet, or by an older gradenc); "
                f"say which with `gradenc resume {self.path} --profile NAME`"
            )
        return Profile.model_validate_json(file.read_bytes())

    def keep_profile(self, profile: Profile) -> None:
        """Keep a profile for the gates, which advance the run when nobody is logged in."""
        # Only keys that were set: a scheduler refuses some of the others.
        kept = profile.model_dump(mode="json", exclude_unset=True)
        replace(self.path / "profile.json", canonical_json(kept))

    def cancel(self) -> None:
        """Submit nothing more until the user resumes the run."""
        self.change(cancelled=True)

    def next_round(self, only: Sequence[str] = ()) -> None:
        """Let failed units be tried again and lift a cancellation.

        Parameters
        ----------
        only : sequence of str
            Unit ids, stages or classes of failure: other units that failed stay failed.
        """
        wishes = self.wishes
        number = wishes.round + 1
        limits = wishes.only | ({number: tuple(only)} if only else {})
        self.change(round=number, cancelled=False, only=limits)

    def change(self, **wishes: Any) -> None:
        """Record wishes of the user: fields of `Wishes`."""
        state = Wishes.model_validate(self.wishes.model_dump() | wishes)
        replace(self.path / "state.json", canonical_json(state.model_dump(mode="json")))

    @property
    def wishes(self) -> "Wishes":
        """What the user wishes of the run now."""
        path = self.path / "state.json"
        return Wishes.model_validate_json(path.read_bytes()) if path.exists() else Wishes()


class Wishes(BaseModel):
    """Wishes of the user beyond the study; none of them changes a result."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    round: int = 0
    """how often failed units were to be tried again"""
    only: dict[int, tuple[str, ...]] = Field(default_factory=dict)
    """rounds in which only these were: unit ids, stages, classes of failure"""
    cancelled: bool = False
    dask: str | None = None
    notify: str | None = None
    pilot: bool = False
    max_gpu_hours: float | None = None

    def renewals(self, names: Set[str], since: int = 0) -> int:
        """Return how many rounds after `since` were for a unit that goes by these names."""
        rounds = range(since + 1, self.round + 1)
        return sum(n not in self.only or not names.isdisjoint(self.only[n]) for n in rounds)
