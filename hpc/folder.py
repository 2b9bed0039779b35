"""A run's folder: the resolved study, the stores it uses, its submissions and its report."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from storage_schemas.files import follow_group, locked, replace
from storage_schemas.identity import canonical_json
from storage_schemas.root import register
from storage_schemas.run import create_run, read_run, record_stores, run_stores
from storage_schemas.store import Store


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
    def create(cls, path: Path, name: str, root: Path | None) -> "RunFolder":
        """Create the run, or open the one that is there."""
        store_root = root or path / "stores"
        follow_group(store_root)
        create_run(path, name, store_root)
        register(store_root, path)
        return cls(path)

    @property
    def name(self) -> str:
        """The study's name."""
        return str(read_run(self.path)["name"])

    @property
    def root(self) -> Path:
        """The store root."""
        return (self.path / read_run(self.path)["root"]).resolve()

    @property
    def resolved(self) -> Path:
        """File that keeps the resolved study."""
        return self.path / "resolved.json"

    @property
    def report(self) -> Path:
        """The report."""
        return self.path / "report.html"

    def stores(self, stage: str) -> list[Store]:
        """Open the stores of a stage that has been planned; empty before that."""
        return run_stores(self.path, stage)

    def record(self, stage: str, stores: Sequence[Store]) -> None:
        """Record a stage's stores in run.json."""
        record_stores(self.path, stage, stores)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run while it is advanced: nobody else plans, seals or submits meanwhile."""
        with locked(self.path / ".lock"):
            yield

    @property
    def round(self) -> int:
        """How often the user asked for failed units to be tried again."""
        return int(self._state()["round"])

    @property
    def cancelled(self) -> bool:
        """Whether the user cancelled the run."""
        return bool(self._state()["cancelled"])

    def cancel(self) -> None:
        """Submit nothing more until the user resumes the run."""
        self._write_state(self.round, cancelled=True)

    def next_round(self) -> None:
        """Let failed units be tried again and lift a cancellation."""
        self._write_state(self.round + 1, cancelled=False)

    def _state(self) -> dict[str, int | bool]:
        path = self.path / "state.json"
        if not path.exists():
            return {"round": 0, "cancelled": False}
        return dict(json.loads(path.read_text()))

    def _write_state(self, round_: int, *, cancelled: bool) -> None:
        state = {"round": round_, "cancelled": cancelled}
        replace(self.path / "state.json", canonical_json(state))
