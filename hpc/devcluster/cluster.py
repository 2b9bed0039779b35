"""A real SLURM on one machine, for development and tests: nodes, accounting, fake GPUs.

Everything is in one folder: configuration, logs, pid files, database. Several clusters run side by
side, as root or as an ordinary user, without an init system.
"""

import json
import os
import pwd
import re
import shutil
import socket
import subprocess
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path

import psutil
from jinja2 import Environment, StrictUndefined

from hpc.devcluster.processes import (
    ClusterError,
    daemon,
    free_ports,
    freeze,
    is_free,
    job_steps,
    kill,
    of_environment,
    program,
    remove_group,
    run,
    start,
    stop,
    wait_until,
    with_descendants,
)

_PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol")
_ACCOUNTING_PROGRAMS = ("slurmdbd", "mariadbd", "sacct", "sacctmgr")
_MARIADB_TABLES = Path("/usr/share/mysql")
_LONGEST_FOLDER = 60
"""Characters of a cluster's path: sockets lie below it, and a socket's path may have 107."""
_ACCOUNT = "dev"
_PACKAGES = "slurm-wlm slurmdbd munge mariadb-server-core"
_CGROUPS = Path("/sys/fs/cgroup/memory")


@dataclass(frozen=True)
class DevCluster:
    """A development cluster; its methods need it to be up."""

    folder: Path
    nodes: int
    gpus: int
    """of each node"""
    accounting: bool
    cgroups: bool
    """whether the kernel enforces memory limits: a job over its limit ends OUT_OF_MEMORY"""
    first_port: int

    @property
    def conf(self) -> Path:
        """The file for `SLURM_CONF`."""
        return self.folder / "etc" / "slurm.conf"

    @property
    def env(self) -> dict[str, str]:
        """The environment in which SLURM's commands use this cluster."""
        return {**os.environ, "SLURM_CONF": str(self.conf)}

    @property
    def node_names(self) -> list[str]:
        """Names of its nodes: ``n1``, ``n2`` and so on."""
        return [f"n{number}" for number in range(1, self.nodes + 1)]

    def is_up(self) -> bool:
        """Whether its controller runs."""
        return daemon(self._pid_file("slurmctld")) is not None

    def command(self, *words: str) -> str:
        """Run one of SLURM's commands on this cluster and return its output.

        Raises
        ------
        ClusterError
            If the command fails, with its stderr.
        """
        done = subprocess.run(
            words, env=self.env, capture_output=True, text=True, timeout=60, check=False
        )
        if done.returncode:
            raise ClusterError(f"{' '.join(words)}: {done.stderr.strip()}")
        return done.stdout

    # nodes

    def start_node(self, node: str) -> None:
        """Switch a node on."""
        if daemon(self._slurmd(node)) is None:
            self._run("slurmd", "-N", node, SLURMD_NODENAME=node)

    def fail_node(self, node: str) -> None:
        """Switch a node off as a power cut does: slurmd, job steps and their children at once."""
        pid_file = self._slurmd(node)
        kill(lambda: self._processes_of(node))
        pid_file.unlink(missing_ok=True)
        # a job that returns to this node must not find files of its first run
        spool = self.folder / "spool" / node
        for leftover in [*spool.glob(f"{node}_*"), *spool.glob("job*")]:
            job = re.findall(r"\d+", leftover.name.removeprefix(node))[0]
            for group in sorted(_CGROUPS.glob(f"slurm_{node}/uid_*/job_{job}/**"), reverse=True):
                remove_group(group)
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()

    def freeze_node(self, node: str) -> None:
        """Suspend a node and its jobs (SIGSTOP): silent to the controller, but not dead."""
        freeze(lambda: self._processes_of(node))

    def thaw_node(self, node: str) -> None:
        """Let a frozen node go on."""
        for process in self._processes_of(node):
            process.resume()

    def wait_for_nodes(self) -> None:
        """Wait until every node is idle."""
        wait_until(
            lambda: self._idle_nodes() == self.nodes,
            f"all {self.nodes} nodes idle ({self.folder}/log)",
        )

    # daemons

    def stop_slurmctld(self) -> None:
        """Stop the controller, which saves its state."""
        stop(self._pid_file("slurmctld"))

    def start_slurmctld(self) -> None:
        """Start the controller with its saved state."""
        self._run("slurmctld")
        wait_until(
            lambda: self.is_up() and not is_free(self.first_port),
            f"slurmctld listens ({self.folder}/log)",
        )

    def stop_slurmdbd(self) -> None:
        """Stop the accounting daemon: sacct fails until it is started again."""
        stop(self._pid_file("slurmdbd"))

    def start_slurmdbd(self) -> None:
        """Start the accounting daemon and wait until it answers."""
        self._run("slurmdbd")
        wait_until(
            lambda: self._answers("sacctmgr", "-n", "show", "cluster"),
            f"slurmdbd answers ({self.folder}/log)",
        )

    def down(self) -> None:
        """Stop everything; no process is left."""
        for node in self.node_names:
            self.fail_node(node)
        for name in ("slurmctld", "slurmdbd", "mariadbd", "munged"):
            stop(self._pid_file(name))

    def _up(self) -> None:
        self._write_configuration()
        self._start_munged()
        if self.accounting:
            self._start_mariadbd()
            self.start_slurmdbd()
            self.command("sacctmgr", "-i", "add", "cluster", "gradenc")
        self.start_slurmctld()
        for node in self.node_names:
            self.start_node(node)
        if self.accounting:
            self._register_users()
        self.wait_for_nodes()

    def _write_configuration(self) -> None:
        for name in ("etc", "run", "log", "state", "db", "dev"):
            (self.folder / name).mkdir(mode=0o700 if name in ("state", "db") else 0o755)
        for node in self.node_names:
            (self.folder / "spool" / node).mkdir(parents=True)
        for gpu in range(self.gpus):
            # a device that slurmd accepts, whose number jobs are given
            (self.folder / "dev" / f"gpu{gpu}").symlink_to("/dev/null")
        facts = asdict(self) | {"user": _user(), "host": socket.gethostname().split(".")[0]}
        jinja = Environment(undefined=StrictUndefined, keep_trailing_newline=True)
        for template in (files("hpc.devcluster") / "templates").iterdir():
            path = self.folder / "etc" / template.name.removesuffix(".j2")
            path.touch(mode=0o600 if path.name == "slurmdbd.conf" else 0o644)
            path.write_text(jinja.from_string(template.read_text()).render(facts))
        (self.folder / "cluster.json").write_text(json.dumps(asdict(self), default=str, indent=1))

    def _start_munged(self) -> None:
        key = self.folder / "etc" / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))
        self._run(
            "munged",
            "--force",  # only warn where the folder is not open to other users
            f"--key-file={key}",
            f"--socket={self.folder}/run/munge.socket",
            f"--pid-file={self._pid_file('munged')}",
            f"--log-file={self.folder}/log/munged.log",
            f"--seed-file={self.folder}/run/munged.seed",
        )

    def _start_mariadbd(self) -> None:
        options = [
            "mariadbd",
            "--no-defaults",
            f"--user={_user()}",
            f"--datadir={self.folder}/db",
            "--innodb-log-file-size=16M",
            "--innodb-buffer-pool-size=32M",
            "--skip-log-bin",
        ]
        tables = ["mysql_system_tables", "mysql_performance_tables", "mysql_system_tables_data"]
        run(
            [*options, "--bootstrap"],
            log=self.folder / "log" / "mariadbd-bootstrap.log",
            env=self.env,
            stdin="CREATE DATABASE mysql;\nUSE mysql;\n"
            + "".join((_MARIADB_TABLES / f"{name}.sql").read_text() for name in tables),
        )
        start(
            [
                *options,
                "--skip-networking",
                f"--socket={self._database_socket}",
                f"--pid-file={self._pid_file('mariadbd')}",
                f"--init-file={self.folder}/etc/init.sql",
                "--performance-schema=OFF",
                "--innodb-flush-log-at-trx-commit=0",
                "--innodb-lock-wait-timeout=900",
            ],
            log=self.folder / "log" / "mariadbd.log",
            env=self.env,
        )
        pid_file = self._pid_file("mariadbd")
        wait_until(
            lambda: daemon(pid_file) is not None and self._database_socket.exists(),
            f"mariadbd listens ({self.folder}/log)",
        )

    def _register_users(self) -> None:
        """Give every user an account, and a QOS that limits the number of submitted jobs."""
        users = [_user(), *(["nobody"] if os.getuid() == 0 else [])]
        for words in (
            ["add", "qos", "small", "MaxSubmitJobsPerUser=5"],
            ["add", "account", _ACCOUNT],
            ["add", "user", ",".join(users), f"account={_ACCOUNT}", "qos=normal,small"],
            ["modify", "user", _user(), "set", f"defaultaccount={_ACCOUNT}"],  # root has another
        ):
            self.command("sacctmgr", "-i", *words)

    def _run(self, name: str, *options: str, **variables: str) -> None:
        log = self.folder / "log" / f"start-{name}.log"
        # slurmdbd finds its database by this variable
        env = self.env | variables | {"MYSQL_UNIX_PORT": str(self._database_socket)}
        run([name, *options], log=log, env=env)

    @property
    def _database_socket(self) -> Path:
        return self.folder / "db" / "mariadb.socket"

    def _pid_file(self, name: str) -> Path:
        return self.folder / "run" / f"{name}.pid"

    def _slurmd(self, node: str) -> Path:
        if node not in self.node_names:
            raise ClusterError(f"no node {node!r}; accepted: {', '.join(self.node_names)}")
        return self._pid_file(f"slurmd.{node}")

    def _processes_of(self, node: str) -> list[psutil.Process]:
        """Return slurmd, job steps and all their descendants, detached ones included."""
        found = list(job_steps(self.folder / "spool" / node))
        # SLURM sets both for every process of a job; slurmd was started with them
        found += of_environment({"SLURM_CONF": str(self.conf), "SLURMD_NODENAME": node})
        return with_descendants(found)

    def _answers(self, *words: str) -> bool:
        try:
            self.command(*words)
        except ClusterError:
            return False
        return True

    def _idle_nodes(self) -> int:
        return len(self.command("sinfo", "-h", "-N", "-p", "main", "-t", "idle").splitlines())


def start_cluster(
    folder: Path, *, nodes: int = 4, gpus: int = 2, accounting: bool = True, cgroups: bool = True
) -> DevCluster:
    """Start a new cluster in a folder and wait until all its nodes are idle.

    Files of an earlier cluster in the folder are removed. Memory is limited by control groups
    where possible (as root, version 1); elsewhere SLURM itself watches memory and kills.

    Raises
    ------
    ClusterError
        If SLURM is not installed, the folder belongs to no cluster, or a daemon does not start.
    """
    folder = folder.resolve()
    _refuse(folder, accounting)
    if folder.exists():
        if any(folder.iterdir()):
            open_cluster(folder).down()
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    cluster = DevCluster(
        folder, nodes, gpus, accounting, cgroups and _has_cgroups(), free_ports(nodes + 2)
    )
    try:
        cluster._up()
    except BaseException:
        cluster.down()
        raise
    return cluster


def open_cluster(folder: Path) -> DevCluster:
    """Return the cluster that was started in a folder.

    Raises
    ------
    ClusterError
        If there is none.
    """
    facts = folder.resolve() / "cluster.json"
    if not facts.is_file():
        raise ClusterError(
            f"{folder} holds no development cluster; `gradenc cluster up {folder}` starts one"
        )
    return DevCluster(**{**json.loads(facts.read_text()), "folder": folder.resolve()})


def running_cluster(folder: Path) -> DevCluster | None:
    """Return the cluster that runs in a folder, or None."""
    if not (folder / "cluster.json").is_file():
        return None
    cluster = open_cluster(folder)
    return cluster if cluster.is_up() else None


def missing_programs(*, accounting: bool = True) -> list[str]:
    """Return the programs that a cluster needs and this machine does not have."""
    needed = _PROGRAMS + (_ACCOUNTING_PROGRAMS if accounting else ())
    return [name for name in needed if program(name) is None]


def _refuse(folder: Path, accounting: bool) -> None:
    missing = missing_programs(accounting=accounting)
    if missing:
        raise ClusterError(
            f"SLURM is not on this machine (no {', '.join(missing)}); install it as root: "
            f"apt-get install --no-install-recommends {_PACKAGES}"
        )
    if len(str(folder)) > _LONGEST_FOLDER:
        raise ClusterError(
            f"{folder}: the paths of sockets below it would be too long; "
            f"use a folder of at most {_LONGEST_FOLDER} characters"
        )


def _has_cgroups() -> bool:
    """Return whether we may create control groups for memory (version 1) here."""
    return os.access(_CGROUPS, os.W_OK) and os.getuid() == 0


def _user() -> str:
    return pwd.getpwuid(os.getuid()).pw_name
