"""Start, find and stop the processes of the development cluster, without an init system."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from gradenc_errors import GradencError

_FIRST_PORT = 22000
_LAST_PORT = 32000
"""The ports of clusters: below those that the kernel uses for outgoing connections."""


class ClusterError(GradencError, OSError):
    """The development cluster cannot do what was asked."""


def program(name: str) -> str | None:
    """Return the path of a program, also from the folders of system programs."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def run(command: list[str], *, log: Path, env: dict[str, str], stdin: str | None = None) -> None:
    """Run a program until it ends or puts itself into the background.

    Raises
    ------
    ClusterError
        If the program fails, with the last line of its output.
    """
    with log.open("a") as out:
        done = subprocess.run(
            [program(command[0]) or command[0], *command[1:]],
            input=stdin,
            stdin=None if stdin else subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            text=True,
            env=env,
            timeout=60,
            check=False,
        )
    if done.returncode:
        last = log.read_text(errors="replace").strip().splitlines()[-1:]
        raise ClusterError(f"{command[0]} ended with {done.returncode}: {''.join(last)} ({log})")


def start(command: list[str], *, log: Path, env: dict[str, str]) -> None:
    """Start a program that stays in the foreground, in a session of its own."""
    with log.open("a") as out:
        subprocess.Popen(
            [program(command[0]) or command[0], *command[1:]],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env=env,
            start_new_session=True,
        )


def free_ports(count: int) -> int:
    """Return the first of `count` consecutive unused TCP ports.

    The search starts at a number that depends on this process, so that two clusters started at once
    choose different ports.
    """
    blocks = (_LAST_PORT - _FIRST_PORT) // count
    for block in range(blocks):
        first = _FIRST_PORT + (os.getpid() + block) % blocks * count
        if all(is_free(port) for port in range(first, first + count)):
            return first
    raise ClusterError(
        f"no {count} free TCP ports in a row between {_FIRST_PORT} and {_LAST_PORT}; "
        "stop another cluster"
    )


def is_free(port: int) -> bool:
    """Return whether a TCP port of this machine is unused."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def wait_until(happened: Callable[[], bool], what: str, seconds: float = 30.0) -> None:
    """Check every 50 ms until a condition holds.

    Raises
    ------
    ClusterError
        If it does not hold within `seconds`.
    """
    end = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > end:
            raise ClusterError(f"{what}: not within {seconds:.0f} s")
        time.sleep(0.05)


def daemon(pid_file: Path) -> psutil.Process | None:
    """Return the living process whose number is in `pid_file`, or None."""
    try:
        process = psutil.Process(int(pid_file.read_text()))
        # the number may belong to another process by now, hence the program's name
        ours = process.name().startswith(pid_file.name.split(".")[0])
    except (FileNotFoundError, ValueError, psutil.NoSuchProcess):
        return None
    return process if ours and lives(process) else None


def lives(process: psutil.Process) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def stop(pid_file: Path) -> None:
    """End a daemon with SIGTERM and wait until it is gone."""
    process = daemon(pid_file)
    if process is None:
        return
    process.resume()  # a suspended process would not receive the signal
    process.terminate()
    wait_until(lambda: not lives(process), f"{pid_file.stem} (pid {process.pid}) ends")
    pid_file.unlink(missing_ok=True)


def freeze(find: Callable[[], list[psutil.Process]]) -> None:
    """Suspend all processes that `find` returns (SIGSTOP), including those just starting."""

    def all_stand() -> bool:
        stand = True
        for process in find():
            with suppress(psutil.NoSuchProcess):
                if process.status() not in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE):
                    process.suspend()
                    stand = False
        return stand

    wait_until(all_stand, "processes stand still")


def kill(find: Callable[[], list[psutil.Process]]) -> None:
    """Kill all processes that `find` returns, none of which notices the death of another."""
    freeze(find)
    processes = find()
    for process in processes:
        process.kill()
    wait_until(lambda: not any(map(lives, processes)), "killed processes end")


def with_descendants(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Return the living ones among processes and their descendants, each once."""
    found = list(processes)
    for process in list(found):
        with suppress(psutil.NoSuchProcess):
            found += process.children(recursive=True)
    return [process for process in dict.fromkeys(found) if lives(process)]


def job_steps(spool: Path) -> Iterator[psutil.Process]:
    """Yield the slurmstepd processes of a node: each has a socket in the node's spool folder."""
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if process.name() == "slurmstepd" and lives(process):
                sockets = process.net_connections(kind="unix")
                if any(str(one.laddr).startswith(f"{spool}/") for one in sockets):
                    yield process


def of_environment(wanted: dict[str, str]) -> Iterator[psutil.Process]:
    """Yield processes that were started with these environment variables."""
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if wanted.items() <= process.environ().items() and lives(process):
                yield process


def remove_group(group: Path) -> None:
    """Remove a control group and kill the processes that are still in it.

    Raises
    ------
    ClusterError
        If the kernel does not remove it in time.
    """

    def removed() -> bool:
        if not group.exists():
            return True
        for pid in (group / "cgroup.procs").read_text().split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        with suppress(OSError):  # busy for a moment after its last process
            group.rmdir()
        return not group.exists()

    wait_until(removed, f"control group {group} gone")
