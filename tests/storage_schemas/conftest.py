import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from storage_schemas.layout import ArrayLayout, Layout, Unit
from storage_schemas.protocol import attempts
from storage_schemas.protocol.commit import commit
from storage_schemas.protocol.new_store import NewStore
from storage_schemas.protocol.store import Store

WRITER = Path(__file__).with_name("writer.py")
VALUES = runpy.run_path(str(WRITER))["values"]


@pytest.fixture
def values() -> Callable[[Store, Unit], dict[str, np.ndarray]]:
    """What `writer.py` commits for a unit."""
    return VALUES


@pytest.fixture
def make_store(tmp_path: Path) -> Callable[..., Store]:
    """Create a features store: 2 layers, `per_unit` stimuli per unit, the last unit one less."""

    def make(
        n_units: int = 4,
        per_unit: int = 2,
        n_features: int = 8,
        root: Path | None = None,
        **spec: Any,
    ) -> Store:
        n = n_units * per_unit - 1
        array = ArrayLayout(
            name="features",
            dims=("layer", "stimulus", "feature"),
            shape=(2, n, n_features),
            dtype="float32",
            chunks=(1, per_unit, n_features),
            shards=(2, per_unit, n_features),
            units="1",
            long_name="features",
        )
        starts = range(0, n, per_unit)
        units = [
            Unit(
                i,
                f"stimuli from {start}",
                {"start": start},
                {"features": [(0, 2), (start, min(start + per_unit, n)), (0, n_features)]},
            )
            for i, start in enumerate(starts)
        ]
        coords = xr.Dataset(
            coords={
                "layer": ("layer", ["conv1", "fc"]),
                "layer_depth": ("layer", [0.5, 1.0]),
                "stimulus": ("stimulus", [f"cats/{i}.png" for i in range(n)]),
                "stimulus_digest": ("stimulus", [f"{i:064x}" for i in range(n)]),
            }
        )
        return Store.create(
            root or tmp_path / "root",
            NewStore(
                "extract",
                "features",
                "tiny-forward",
                {"n": n, "n_features": n_features, **spec},
                Layout((array,), coords, tuple(units)),
                {"model": "tiny", "source": "forward"},
                {"stimuli": "/data/stimuli"},
            ),
        )

    return make


@pytest.fixture
def commit_all(values: Callable[..., Any]) -> Callable[[Store], None]:
    """Commit all units that are not committed."""

    def commit_units(store: Store) -> None:
        for unit in store.units:
            attempt = attempts.begin(store, unit, job="test", round_=0)
            assert attempt is not None
            commit(store, unit, values(store, unit), {"micro_batch": 4}, attempt)
            attempt.finish("committed")

    return commit_units


@pytest.fixture
def start_writer() -> Callable[..., subprocess.Popen[str]]:
    """Start `writer.py` and wait until it has imported everything and opened the store."""

    def start(store: Path, *arguments: str, cwd: Path | None = None) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, str(WRITER), str(store), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=cwd,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", process.communicate()[1]
        return process

    return start
