"""A Dask cluster made of the ranks of one SLURM job: a scheduler, the client, workers.

The ranks find each other by files in a private folder of the submission, named by job and restart:
a job that was requeued never joins the scheduler of its last start. All traffic is
encrypted with a certificate made for this start, so nobody else on the cluster can join.

Importing `dask_jobqueue` makes SIGINT end the process; that is how it ends a rank. This module is
therefore imported inside such jobs only.
"""

import asyncio
import logging
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from dask_jobqueue.slurm import SLURMRunner
from distributed import Client, Scheduler
from distributed.diagnostics.plugin import SchedulerPlugin
from distributed.security import Security
from distributed.utils import json_load_robust

from storage_schemas.files import write_exclusive

START_S = 180
"""How long a rank waits for the others to start (s)."""


def on_ranks(work: Callable[[Client], None], submission: Path, interface: str | None) -> None:
    """Serve as scheduler or worker until the cluster is closed, or call `work` as the client."""
    logging.getLogger("distributed").setLevel(logging.WARNING)
    try:
        ranks = _Ranks(_folder(submission), interface)
    except SystemExit:
        # The runner ends a scheduler or a worker like this when its cluster was closed.
        return
    with Client(ranks.scheduler_address, security=ranks.security) as client:
        # If the work fails, the scheduler ends with this client; its loss may be the reason.
        work(client)
        # The scheduler may have ended by now.
        with suppress(OSError):
            client.shutdown()


class _Ranks(SLURMRunner):
    """The runner, with a certificate; it ends even if the client or the scheduler dies."""

    def __init__(self, folder: Path, interface: str | None) -> None:
        self.folder = folder
        self.certificate = folder / "certificate.pem"
        self.security = certified(self.certificate)
        several = int(os.environ["SLURM_JOB_NUM_NODES"]) > 1
        where = {"interface": interface} if several else {"host": "127.0.0.1"}
        both = {**where, "security": self.security, "dashboard": False}
        # The runner formats the name of the file, in which a user's folders may have braces.
        file = str(folder / "scheduler.json").replace("{", "{{").replace("}", "}}")
        super().__init__(
            scheduler_file=file,
            scheduler_options={
                **both,
                "dashboard_address": "127.0.0.1:0",
                "idle_timeout": START_S,
                "plugins": [_EndWithClient()],
            },
            worker_options={**both, "nthreads": 1, "memory_limit": 0, "death_timeout": START_S},
        )

    async def start_scheduler(self) -> None:
        if self.folder.exists():
            shutil.rmtree(self.folder)
        self.folder.mkdir(mode=0o700, parents=True)
        try:
            _write_certificate(self.certificate)
            async with _Scheduler(**self.scheduler_options) as scheduler:
                await scheduler.finished()
        finally:
            shutil.rmtree(self.folder)

    async def get_scheduler_address(self) -> str:
        found = await asyncio.to_thread(json_load_robust, self.scheduler_file, timeout=START_S)
        return str(found["address"])

    async def before_worker_start(self) -> None:
        # The certificate is read when the worker is made; it is there before this file.
        await self.get_scheduler_address()

    async def before_client_start(self) -> None:
        # The runner's own connection has no certificate; the client closes the cluster.
        self.scheduler_comm = None


class _Scheduler(Scheduler):
    """A scheduler that ends also where its end fails, instead of keeping its job to the limit."""

    async def close(self, timeout: float | None = None, reason: str = "unknown") -> None:
        """Close; see the base class."""
        try:
            await super().close(timeout, reason)
        except Exception:
            # distributed gives up an attempt to connect twice, which asyncio refuses (2026.8). What
            # is left is the server below, which counts as finished however it ends.
            await super(Scheduler, self).close()
            raise


class _EndWithClient(SchedulerPlugin):
    """Ends the scheduler, and by that its workers, when the client has gone in whatever way."""

    def remove_client(self, scheduler: Scheduler, client: str) -> None:
        scheduler.loop.add_callback(scheduler.close, reason="its client has gone")


def _folder(submission: Path) -> Path:
    job, restart = os.environ["SLURM_JOB_ID"], os.environ.get("SLURM_RESTART_COUNT", "0")
    return submission / f"dask-{job}-{restart}"


def certified(certificate: Path) -> Security:
    """Return what only processes with this file accept of each other (PEM: key and certificate)."""
    roles = ("client", "scheduler", "worker")
    own = {f"tls_{role}_cert": str(certificate) for role in roles}
    return Security(require_encryption=True, tls_ca_file=str(certificate), **own)


def _write_certificate(path: Path) -> None:
    made = Security.temporary()
    write_exclusive(path, f"{made.tls_client_key}{made.tls_client_cert}".encode())
