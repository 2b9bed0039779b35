"""Dask as the engine inside a job: tasks get keys (store paths and unit numbers), never arrays.

The workers are processes of this machine, ranks of a SLURM job (`hpc.node.dask_ranks`), or those
of a scheduler that the user already has.
"""

import logging
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import dask
from distributed import Client, Future, KilledWorker, LocalCluster
from distributed.security import Security
from threadpoolctl import threadpool_limits

from gradenc_errors import GradencError
from hpc.node.environment import code_version, rank
from jobs.runner import Item, Outcome, run_item

SETTINGS: dict[str, int | list[str] | None] = {
    # A unit that killed its worker is not given to another one: `advance` decides what follows.
    "distributed.scheduler.allowed-failures": 0,
    # A long call of LAPACK may keep a living worker from answering; a dead one's connection ends.
    "distributed.scheduler.worker-ttl": None,
    # The status pages would be open to everybody on the network.
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
    # Dask makes workers return memory at every free; a fit then spends half of its time on getting
    # the same pages again. Keep malloc's default.
    "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": None,
}
POLL_S = 1.0
"""Pause between two looks for a request to stop (s)."""
REPLACED_S = 30
"""How long to wait for a new worker when all are gone (s); one on this machine is replaced."""
RANKS = 3
"""Ranks that a cluster needs: scheduler, client, one worker."""


class DaskError(GradencError, RuntimeError):
    """A Dask cluster that cannot be used, or was lost."""


def run_items_on_dask(
    items: Sequence[Item],
    *,
    workers: int,
    submission: Path,
    interface: str | None = None,
    address: str | None = None,
    should_stop: Callable[[], bool],
    report: Callable[[Outcome], None],
    **how: Any,
) -> None:
    """Map `run_item` over items on single-threaded workers.

    Units commit their own results, so a lost worker costs at most the unit it ran; that unit has
    no commit record and is submitted again.

    Parameters
    ----------
    items : sequence of Item
    workers : int
        Worker processes, where they are this machine's.
    submission : Path
        The submission's folder, by which the ranks of a SLURM job find each other. Every rank calls
        this function; it returns in all of them when the items are done.
    interface : str, optional
        Network interface between several nodes, e.g. ``ib0``; by default each host's own address.
    address : str, optional
        Scheduler to use instead, e.g. ``tcp://10.0.0.1:8786``.
    should_stop : callable
        Called every second; true: begin no further item.
    report : callable
        Called with the outcome of each item.
    **how
        Given to `jobs.runner.run_item`.

    Raises
    ------
    DaskError
        If the scheduler or all workers are lost, or those at `address` cannot be used.
    """
    work = partial(map_items, items=items, how=how, should_stop=should_stop, report=report)
    with dask.config.set(SETTINGS):
        if address is not None:
            with _existing(address, how["root"]) as client:
                work(client)
        elif rank(os.environ)[1] >= RANKS:
            from hpc.node.dask_ranks import on_ranks

            on_ranks(work, submission, interface)
        else:
            with local_workers(min(workers, len(items))) as client:
                work(client)


def map_items(
    client: Client,
    items: Sequence[Item],
    how: Mapping[str, Any],
    should_stop: Callable[[], bool],
    report: Callable[[Outcome], None],
) -> None:
    """Map `run_item` over items on the client's workers; see `run_items_on_dask`."""
    try:
        _map(client, items, how, should_stop, report)
    except (CancelledError, OSError) as lost:  # closed connections, and refused ones
        raise DaskError(
            "the Dask scheduler was lost; units that are not committed are submitted again when "
            "the run is resumed"
        ) from lost


def _map(
    client: Client,
    items: Sequence[Item],
    how: Mapping[str, Any],
    should_stop: Callable[[], bool],
    report: Callable[[Outcome], None],
) -> None:
    """Give every worker one item at a time: no item waits on a worker that dies or stops."""
    waiting, running = deque(items), set[Future]()
    ended = threading.Event()
    while True:
        for future in [future for future in running if future.done()]:
            running.remove(future)
            _settle(future, report)
        if should_stop():
            waiting.clear()
        if not (waiting or running):
            return
        free = _threads(client) - len(running)
        for _ in range(min(free, len(waiting))):
            future = client.submit(_run_alone, waiting.popleft(), pure=False, retries=0, **how)
            future.add_done_callback(lambda _: ended.set())
            running.add(future)
        ended.wait(POLL_S)
        ended.clear()


def _settle(future: Future, report: Callable[[Outcome], None]) -> None:
    try:
        report(future.result())
    except KilledWorker as lost:
        print(f"a Dask worker was lost; its unit is submitted again later: {lost}", flush=True)


def _threads(client: Client) -> int:
    """Return how many items the workers can run at once; wait for the first one."""
    threads = sum(client.nthreads().values())
    if threads:
        return threads
    try:
        client.wait_for_workers(1, timeout=REPLACED_S)
    except TimeoutError as none_came:
        raise DaskError(
            f"all Dask workers are gone, and none came back within {REPLACED_S} s; the job's log "
            "tells why they ended"
        ) from none_came
    return sum(client.nthreads().values())


def _run_alone(item: Item, **how: Any) -> Outcome:
    """Run an item in this worker's one thread, with one thread of BLAS.

    Reading a store lazily inside a task would otherwise hand its chunks to the cluster and let the
    worker begin further items meanwhile.
    """
    with dask.config.set(scheduler="synchronous"), threadpool_limits(1):
        return run_item(item, **how)


@contextmanager
def local_workers(workers: int) -> Iterator[Client]:
    """Start worker processes on this machine to which none of its other users can connect."""
    security = Security.temporary()
    with TemporaryDirectory(prefix="gradenc-dask-") as scratch:
        with _deaf_children():
            cluster = LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                dashboard_address="127.0.0.1:0",
                scheduler_kwargs={"dashboard": False},
                local_directory=scratch,
                memory_limit=0,
                silence_logs=logging.ERROR,
                security=security,
            )
        with cluster, Client(cluster, security=security) as client:
            yield client


@contextmanager
def _deaf_children() -> Iterator[None]:
    """Start children that ignore the signals by which a scheduler announces the end of a job.

    The signals go to all processes of a job; unlike this process, a worker would end in mid-unit.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR2})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _existing(address: str, root: Path) -> Iterator[Client]:
    """Use the user's own scheduler, if its workers would give the same bytes."""
    try:
        client = Client(address)
    except OSError as error:
        raise DaskError(f"no Dask scheduler answers at {address}: {error}") from error
    with client:
        _threads(client)
        for reason in _refusals(client, root):
            raise DaskError(f"{address}: {reason}")
        yield client


def _refusals(client: Client, root: Path) -> Iterator[str]:
    """Yield why workers cannot be used: other packages or code, more threads, no shared files."""
    versions: Any = client.get_versions()
    own = versions["client"]["packages"]
    for worker, found in versions["workers"].items():
        for package, version in own.items():
            if found["packages"].get(package) != version:
                yield (
                    f"worker {worker} has {package} {found['packages'].get(package)}, this is "
                    f"{version}; start the workers from this installation"
                )
    for worker, threads in client.nthreads().items():
        if threads != 1:
            yield f"worker {worker} has {threads} threads; start the workers with --nthreads 1"
    for worker, found in client.run(_look, root, on_error="return").items():
        if isinstance(found, BaseException):
            yield f"worker {worker} cannot run gradenc ({found!r}); install it there"
            continue
        if found[0] != code_version():
            yield (
                f"worker {worker} has gradenc {found[0]}, this is {code_version()}; install one "
                "version and start the workers again"
            )
        if not found[1]:
            yield f"worker {worker} does not see {root}; start the workers where it is mounted"


def _look(root: Path) -> tuple[str, bool]:
    return code_version(), root.is_dir()
