"""Units on Dask: on workers of this machine, and on a scheduler that the user already has."""

import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dask
import psutil
import pytest
from distributed import Client, LocalCluster

from hpc.node import dask as on_dask
from hpc.node.dask import DaskError, run_items_on_dask
from hpc.run.submit import SubmitOptions
from jobs.runner import Outcome
from storage_schemas.protocol.attempts import process_is_alive

SUITE = runpy.run_path(str(Path(__file__).with_name("dask_suite.py")))


class Here(SUITE["Place"]):
    how = SubmitOptions("local", SUITE["profile"](dask_workers=2), "dask")

    def wait(self, task: Any, seconds: float = 120) -> None:
        (job,) = task.submission.jobs
        SUITE["wait_until"](lambda: not process_is_alive(int(job.job_id), job.start_time), seconds)

    def tell_to_stop(self, task: Any) -> None:
        # Not to submitit's own process, which SLURM has none of.
        for process in psutil.Process(int(task.job)).children(recursive=True):
            process.send_signal(signal.SIGUSR2)


@pytest.fixture
def place() -> Here:
    return Here()


class TestHere(SUITE["Suite"]):
    """The suite on this machine."""


@pytest.fixture
def own_scheduler() -> Iterator[Callable[..., Any]]:
    """Start clusters as a user would have one."""
    clusters = []

    def start(**options: Any) -> LocalCluster:
        clusters.append(
            LocalCluster(
                **{"n_workers": 1, "threads_per_worker": 1, "dashboard_address": ":0", **options}
            )
        )
        return clusters[-1]

    yield start
    for cluster in clusters:
        cluster.close()


@pytest.fixture
def tiny_run(tmp_path: Path) -> tuple[Any, Any]:
    """Return the run of a drill and the store of its four units."""
    drill = SUITE["drill"](4, 0.1)
    run = SUITE["start_drill"](tmp_path / "run", drill)
    (plan,) = SUITE["drill_plans"](drill, run.path, SUITE["STAGE"], {})
    return run, plan.create(run.root)


def run_at(address: str, run: Any, store: Any, **changed: Any) -> list[Outcome]:
    outcomes: list[Outcome] = []
    how = {"root": run.root, "job": "mine", "round_": 0, "micro_batch": 1, "threads": 1}
    run_items_on_dask(
        SUITE["items"](run, store),
        workers=1,
        submission=run.path,
        address=address,
        should_stop=lambda: False,
        report=outcomes.append,
        **how | changed,
    )
    return outcomes


def test_a_users_own_scheduler_runs_the_units_and_lives_on(
    own_scheduler: Callable[..., Any], tiny_run: tuple[Any, Any]
) -> None:
    run, store = tiny_run
    cluster = own_scheduler()
    outcomes = run_at(cluster.scheduler_address, run, store)
    assert [outcome.committed for outcome in outcomes] == [1] * 4
    with Client(cluster) as client:
        assert client.submit(os.getpid).result() != os.getpid()


def test_workers_with_several_threads_are_refused(
    own_scheduler: Callable[..., Any], tiny_run: tuple[Any, Any]
) -> None:
    address = own_scheduler(threads_per_worker=2).scheduler_address
    with pytest.raises(DaskError, match="has 2 threads; start the workers with --nthreads 1"):
        run_at(address, *tiny_run)


def test_workers_that_do_not_see_the_stores_are_refused(
    own_scheduler: Callable[..., Any], tiny_run: tuple[Any, Any], tmp_path: Path
) -> None:
    address = own_scheduler().scheduler_address
    with pytest.raises(DaskError, match=r"does not see .*elsewhere"):
        run_at(address, *tiny_run, root=tmp_path / "elsewhere")


def test_workers_with_other_code_are_refused(
    own_scheduler: Callable[..., Any],
    tiny_run: tuple[Any, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    address = own_scheduler().scheduler_address
    monkeypatch.setattr(on_dask, "code_version", lambda: "0.0.1+mine")
    with pytest.raises(DaskError, match=r"has gradenc .*, this is 0\.0\.1\+mine"):
        run_at(address, *tiny_run)


@contextmanager
def bare_worker(address: str, folder: Path) -> Iterator[None]:
    """Start a worker in whose Python no package of ours can be found."""
    code = (
        "import sys, asyncio, distributed\n"
        "class Hide:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('hpc', 'jobs'): raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Hide())\n"
        "async def main():\n"
        f"    async with distributed.Worker({address!r}, nthreads=1, dashboard=False) as worker:\n"
        "        await worker.finished()\n"
        "asyncio.run(main())\n"
    )
    process = subprocess.Popen([sys.executable, "-P", "-c", code], cwd=folder)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def test_workers_without_gradenc_are_refused(
    own_scheduler: Callable[..., Any], tiny_run: tuple[Any, Any], tmp_path: Path
) -> None:
    address = own_scheduler(n_workers=0).scheduler_address
    with (
        bare_worker(address, tmp_path),
        pytest.raises(DaskError, match=r"cannot run gradenc \(.*\); install it there"),
    ):
        run_at(address, *tiny_run)


def test_an_address_where_nobody_answers(
    tiny_run: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(on_dask.SETTINGS, "distributed.comm.timeouts.connect", "1s")
    with pytest.raises(DaskError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9"):
        run_at("tcp://127.0.0.1:9", *tiny_run)


def test_a_scheduler_without_workers(
    own_scheduler: Callable[..., Any],
    tiny_run: tuple[Any, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(on_dask, "REPLACED_S", 1)
    address = own_scheduler(n_workers=0).scheduler_address
    with pytest.raises(DaskError, match="all Dask workers are gone, and none came back within 1 s"):
        run_at(address, *tiny_run)


def test_workers_keep_memory_as_any_process_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dask's own setting has the allocator return it at every free, which doubles a fit's time."""
    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_", raising=False)
    with dask.config.set(on_dask.SETTINGS), on_dask.local_workers(1) as client:
        (found,) = client.run(lambda: dict(os.environ)).values()
    assert "MALLOC_TRIM_THRESHOLD_" not in found
    assert found["OMP_NUM_THREADS"] == "1"
