"""Partitions and nodes of the cluster, accounts of the user, and sbatch's opinion of a job."""

import os
import pwd
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from hpc.slurm.client import run
from hpc.slurm.notation import seconds
from hpc.slurm.sbatch import Options

_UNUSABLE = ("down", "drain", "drng", "fail", "maint", "unk", "inval", "futr", "npc")
"""Beginnings of sinfo's words for nodes on which no job can start now."""
_GPUS = re.compile(r"\bgpu(?::([^:,()]+))?:(\d+)")


@dataclass(frozen=True)
class Node:
    """A node with its resources."""

    name: str
    usable: bool
    memory_mb: int
    cpus: int
    gpus: int
    gpu_types: frozenset[str]
    features: frozenset[str]
    """names that a job's constraint may use"""


@dataclass(frozen=True)
class Partition:
    """A partition, its limits (None where there is none) and its nodes."""

    name: str
    default: bool
    up: bool
    max_time_s: float | None
    max_nodes: int | None
    max_memory_mb: int | None
    """for one job on one node"""
    preemptible: bool
    settings: dict[str, str]
    """all settings that `scontrol show partition` prints"""
    nodes: tuple[Node, ...]

    @property
    def gpu_nodes(self) -> tuple[Node, ...]:
        """Nodes with GPUs."""
        return tuple(node for node in self.nodes if node.gpus)

    @property
    def gpu_types(self) -> list[str]:
        """Types of its GPUs, as far as SLURM is configured with them."""
        return sorted({kind for node in self.nodes for kind in node.gpu_types})

    def admits(self, kind: str, name: str) -> bool:
        """Return whether an account (kind `Accounts`) or QOS (kind `Qos`) may use the partition."""
        allowed = self.settings.get(f"Allow{kind}", "ALL")
        denied = self.settings.get(f"Deny{kind}", "").split(",")
        return (allowed == "ALL" or name in allowed.split(",")) and name not in denied


@dataclass(frozen=True)
class Association:
    """An account that the user may charge."""

    account: str
    partition: str
    """the only partition that the account may be used in; empty: all"""
    qos: frozenset[str]


def configuration() -> dict[str, str]:
    """Return the controller's configuration as `scontrol show config` prints it."""
    lines = run("scontrol", "show", "config").splitlines()
    pairs = (line.partition("=") for line in lines if "=" in line)
    return {key.strip(): value.strip() for key, _, value in pairs}


def version() -> str:
    """Return the version of SLURM's commands."""
    return run("sinfo", "--version").strip()


def partitions() -> dict[str, Partition]:
    """Return all partitions that the user can see, by name."""
    nodes = _nodes()
    found = (
        _partition(line, nodes) for line in _records(run("scontrol", "-o", "show", "partition"))
    )
    return {partition.name: partition for partition in found}


def _records(text: str) -> Iterator[dict[str, str]]:
    for line in text.splitlines():
        fields = (field.partition("=") for field in line.split())
        record = {key: value for key, equals, value in fields if equals}
        if record:
            yield record


def _partition(settings: dict[str, str], nodes: dict[str, list[Node]]) -> Partition:
    name = settings["PartitionName"]
    return Partition(
        name=name,
        default=settings["Default"] == "YES",
        up=settings["State"] == "UP",
        max_time_s=seconds(settings["MaxTime"]),
        max_nodes=_number(settings["MaxNodes"]),
        max_memory_mb=_number(settings.get("MaxMemPerNode", "UNLIMITED")),
        preemptible=settings.get("PreemptMode", "OFF") not in ("OFF", "GANG"),
        settings=settings,
        nodes=tuple(nodes[name]),
    )


def _nodes() -> dict[str, list[Node]]:
    by_partition: dict[str, list[Node]] = defaultdict(list)
    for line in run("sinfo", "-h", "-a", "-N", "-o", "%R|%N|%t|%m|%c|%G|%f").splitlines():
        partition, name, state, memory, cpus, gres, features = line.split("|", 6)
        gpus = _GPUS.findall(gres)
        node = Node(
            name=name,
            usable=not state.startswith(_UNUSABLE),
            memory_mb=int(memory),
            cpus=int(cpus),
            gpus=sum(int(count) for _, count in gpus),
            gpu_types=frozenset(kind for kind, _ in gpus if kind),
            features=frozenset(features.split(",")) - {"(null)"},
        )
        by_partition[partition].append(node)
    return by_partition


def gpu_type_of_node(node: str) -> str:
    """Return the type of a node's GPUs as SLURM's configuration names it, else ``unknown``."""
    shown = run("scontrol", "show", "node", node)
    found = re.search(r"Gres=\S*gpu:([A-Za-z][^:,\s(]*):\d", shown)
    return found[1] if found else "unknown"


def _number(text: str) -> int | None:
    return int(text) if text.isdecimal() else None


def associations() -> list[Association]:
    """Return the accounts of this user; empty if accounting has none.

    Raises
    ------
    SlurmUnavailable
        Accounting is off, or slurmdbd does not answer.
    """
    fields = "format=Account,Partition,QOS"
    where = ("where", f"user={_user()}")
    found = []
    for line in run("sacctmgr", "-nP", "show", "associations", *where, fields).splitlines():
        account, partition, qos = line.split("|")
        found.append(Association(account, partition, frozenset(filter(None, qos.split(",")))))
    return found


def default_account() -> str:
    """Return the account of jobs that name none; empty if there is no default."""
    return run("sacctmgr", "-nP", "show", "user", _user(), "format=DefaultAccount").strip()


def _user() -> str:
    return pwd.getpwuid(os.getuid()).pw_name


def ask_only(options: Options) -> None:
    """Let SLURM check a job with these options without submitting it.

    Raises
    ------
    SlurmUnavailable
        If SLURM would refuse the job, with its reason.
    """
    flags = (f"--{key.replace('_', '-')}={value}" for key, value in options.items())
    run("sbatch", "--test-only", *flags, "--wrap=true")
