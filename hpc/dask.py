"""Dask as the engine inside a job: tasks get keys (store paths and unit numbers), never arrays."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import dask
from distributed import Client, LocalCluster, as_completed

from jobs.runner import Item, Outcome, run_item


def run_items_on_dask(
    items: Sequence[Item],
    *,
    workers: int,
    root: Path,
    job: str,
    round_: int,
    micro_batch: int,
    threads: int,
    should_stop: Callable[[], bool],
    report: Callable[[Outcome], None],
) -> None:
    """Map `run_item` over items on a `LocalCluster` of single-threaded worker processes.

    Units commit their own results, so a lost worker costs at most the unit it ran; that unit has
    no commit record and is submitted again.
    """
    with (
        TemporaryDirectory(prefix="gradenc-dask-") as scratch,
        LocalCluster(
            n_workers=min(workers, len(items)),
            threads_per_worker=1,
            dashboard_address=None,
            local_directory=scratch,
            memory_limit=0,
            silence_logs=logging.ERROR,
        ) as cluster,
        Client(cluster) as client,
    ):
        futures = client.map(
            _run_alone,
            list(items),
            root=root,
            job=job,
            round_=round_,
            micro_batch=micro_batch,
            threads=threads,
            pure=False,
            retries=0,
        )
        for future in as_completed(futures):
            if future.status == "error":
                print(f"a Dask worker was lost: {future.exception()}", flush=True)
            elif future.status == "finished":
                report(future.result())
            if should_stop():
                client.cancel(futures)
                return


def _run_alone(item: Item, **how: Any) -> Outcome:
    """Run an item in this worker's one thread.

    Reading a store lazily inside a task would otherwise hand its chunks to the cluster and let the
    worker begin further items meanwhile.
    """
    with dask.config.set(scheduler="synchronous"):
        return run_item(item, **how)
