"""What a submitted task runs: one slice of a frozen list of units."""

import json
import signal
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any

from jobs.runner import job_name, run_items


class StopFlag:
    """Set by SIGTERM and SIGUSR2: stop after the unit at hand."""

    def __init__(self) -> None:
        self.requested = False

    def install(self) -> None:
        """Handle the signals by which schedulers announce the end."""
        for name in (signal.SIGTERM, signal.SIGUSR2):
            signal.signal(name, self._request)

    def _request(self, signum: int, frame: FrameType | None) -> None:
        self.requested = True

    def __call__(self) -> bool:
        """Return whether to stop."""
        return self.requested


def code_version() -> str:
    """Return the version of the installed code, which a task checks against its submission."""
    return version("gradenc")


def run_slice(units: str, index: int) -> None:
    """Run slice `index` of the submission whose frozen list is the file `units`."""
    path = Path(units)
    payload: dict[str, Any] = json.loads(path.read_bytes())
    if payload["version"] != code_version():
        raise RuntimeError(
            f"{path} was submitted by gradenc {payload['version']}, this is {code_version()}: "
            "run `gradenc resume` so that the units are submitted by the code that runs them"
        )
    stop = StopFlag()
    stop.install()
    items = [[(store, unit) for store, unit in item] for item in payload["slices"][index]]
    how = {
        "root": (path.parent / payload["root"]).resolve(),
        "job": job_name(),
        "round_": payload["round"],
        "micro_batch": payload["micro_batch"],
        "threads": payload["threads"],
    }
    if payload["engine"] == "dask":
        from hpc.dask import run_items_on_dask

        run_items_on_dask(items, workers=payload["dask_workers"], should_stop=stop, **how)
    else:
        run_items(items, should_stop=stop, **how)
