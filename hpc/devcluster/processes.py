"""Processes of the development cluster: started, found and stopped without an init system."""

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

FIRST_PORT = 22000
LAST_PORT = 32000
"""Ports are looked for between these: below those that the kernel gives to outgoing connections."""


class ClusterError(GradencError, OSError):
    """The development cluster cannot do what was asked; one sentence says why."""


def program(name: str) -> str | None:
    """Return the path of a program, wherever Debian put it."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def run(command: list[str], *, log: Path, env: dict[str, str], stdin: str | None = None) -> None:
    """Run a program until it ends or has put itself into the background.

    Raises
    ------
    ClusterError
        With the end of its output, which is in `log`.
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
    """Return the first of `count` consecutive TCP ports that nobody uses.

    The search starts at a place of this process's own, so two clusters started at once do not
    choose the same ports.
    """
    blocks = (LAST_PORT - FIRST_PORT) // count
    for block in range(blocks):
        first = FIRST_PORT + (os.getpid() + block) % blocks * count
        if all(is_free(port) for port in range(first, first + count)):
            return first
    raise ClusterError(
        f"no {count} free TCP ports in a row between {FIRST_PORT} and {LAST_PORT}; stop a cluster"
    )


def is_free(port: int) -> bool:
    """Whether nobody listens on a TCP port of this machine."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def wait_until(happened: Callable[[], bool], what: str, seconds: float = 30.0) -> None:
    """Look every 50 ms until something has happened.

    Raises
    ------
    ClusterError
        When it has not within `seconds`.
    """
    end = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > end:
            raise ClusterError(f"{what}: not within {seconds:.0f} s")
        time.sleep(0.05)


def daemon(pid_file: Path) -> psutil.Process | None:
    """Return the living process whose number is in `pid_file`; None if there is none."""
    try:
        process = psutil.Process(int(pid_file.read_text()))
        # the number may be another process's by now: the file carries its program's name
        ours = process.name().startswith(pid_file.name.split(".")[0])
    except (FileNotFoundError, ValueError, psutil.NoSuchProcess):
        return None
    return process if ours and lives(process) else None


def lives(process: psutil.Process) -> bool:
    """Whether a process runs; one that only waits to be reaped does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def stop(pid_file: Path) -> None:
    """End a daemon with SIGTERM and wait until it is gone."""
    process = daemon(pid_file)
    if process is None:
        return
    process.resume()  # a frozen one would not hear the signal
    process.terminate()
    wait_until(lambda: not lives(process), f"{pid_file.stem} (pid {process.pid}) ends")
    pid_file.unlink(missing_ok=True)


def freeze(find: Callable[[], list[psutil.Process]]) -> None:
    """Stop all processes that `find` finds in mid-air (SIGSTOP), also those just being started."""

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
    """End all processes that `find` finds (SIGKILL), none of which sees another one die."""
    freeze(find)
    processes = find()
    for process in processes:
        process.kill()
    wait_until(lambda: not any(map(lives, processes)), "killed processes end")


def with_descendants(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Return processes and all that they started and that live, without repeats."""
    found = list(processes)
    for process in list(found):
        with suppress(psutil.NoSuchProcess):
            found += process.children(recursive=True)
    return [process for process in dict.fromkeys(found) if lives(process)]


def job_steps(spool: Path) -> Iterator[psutil.Process]:
    """Yield a node's slurmstepds: each has a socket in the node's spool folder."""
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if process.name() == "slurmstepd" and lives(process):
                sockets = process.net_connections(kind="unix")
                if any(str(one.laddr).startswith(f"{spool}/") for one in sockets):
                    yield process


def of_environment(wanted: dict[str, str]) -> Iterator[psutil.Process]:
    """Yield processes that were started with these variables and values in their environment."""
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if wanted.items() <= process.environ().items() and lives(process):
                yield process


def remove_group(group: Path) -> None:
    """Remove a control group with whatever process is still in it.

    Raises
    ------
    ClusterError
        If the kernel does not let it go.
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
