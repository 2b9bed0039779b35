"""Checks on the login node: whether the cluster has and permits what a profile asks for."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

from gradenc_core.spelling import did_you_mean
from hpc.config.profile import SECTIONS, Profile, StageProfile
from hpc.doctor.findings import Finding, Level, failure, ok, warning
from hpc.slurm import cluster_info
from hpc.slurm.client import SlurmUnavailable
from hpc.slurm.cluster_info import Association, Node, Partition
from hpc.slurm.limits import Limits, limits
from hpc.slurm.sbatch import sbatch_options


@dataclass(frozen=True)
class Cluster:
    """Partitions, accounts and limits of the cluster, for this user."""

    partitions: dict[str, Partition]
    associations: list[Association]
    """empty if accounting is off or does not answer"""
    default_account: str
    enforced: bool
    """whether SLURM refuses jobs of accounts that are not in its accounting database"""
    limits: Callable[[str, str | None, str | None], Limits]
    """of a partition, account and QOS"""

    @property
    def accounts(self) -> list[str]:
        """Accounts that the user may charge."""
        return sorted({association.account for association in self.associations})


def check_cluster(profile: Profile) -> list[Finding]:
    """Compare every stage of a SLURM profile with the cluster.

    Raises
    ------
    SlurmUnavailable
        If the controller does not answer.
    """
    config = cluster_info.configuration()
    partitions = cluster_info.partitions()
    name = config.get("ClusterName", "the cluster")
    found = [ok("slurm", f"{cluster_info.version()} answers for {name}"), *_limits(config)]
    accounts, about_accounts = _accounts()
    enforced = "associations" in _enforcement(config)
    found = [finding.at("login node") for finding in (*found, *about_accounts)]
    cluster = Cluster(partitions, *accounts, enforced, cache(limits))
    return found + merged(
        finding.at(stage)
        for stage in SECTIONS
        for finding in check_stage(profile.stage(stage), cluster)
    )


def merged(findings: Iterator[Finding]) -> list[Finding]:
    """Merge equal findings of several stages into one that names all of them."""
    places: dict[Finding, list[str]] = {}
    for finding in findings:
        places.setdefault(finding.at(""), []).append(finding.where)
    return [finding.at(", ".join(where)) for finding, where in places.items()]


def _limits(config: dict[str, str]) -> Iterator[Finding]:
    size = config.get("MaxArraySize", "")
    if size.isdecimal() and int(size) < 2:
        remedy = "ask the cluster's administrators to allow array jobs"
        yield failure("limits", f"MaxArraySize is {size}: there are no array jobs here", remedy)
    else:
        yield ok("limits", f"MaxArraySize is {size}: longer arrays are split")


def _enforcement(config: dict[str, str]) -> set[str]:
    """Return what AccountingStorageEnforce enforces: limits, qos, safe imply associations."""
    words = set(config.get("AccountingStorageEnforce", "none").lower().split(","))
    return words | (
        {"associations"} if words & {"limits", "qos", "safe", "wckeys", "all"} else set()
    )


def _accounts() -> tuple[tuple[list[Association], str], list[Finding]]:
    try:
        associations, default = cluster_info.associations(), cluster_info.default_account()
    except SlurmUnavailable as error:
        remedy = (
            "accounts and QOS were not checked; if accounting is only down, run the doctor again "
            "when it is back (a run itself works without it)"
        )
        return ([], ""), [warning("accounting", str(error), remedy)]
    names = ", ".join(sorted({association.account for association in associations})) or "none"
    sentence = f"accounts of yours: {names}; default: {default or 'none'}"
    return (associations, default), [ok("accounting", sentence)]


def check_stage(how: StageProfile, cluster: Cluster) -> list[Finding]:
    """Compare one stage with the cluster; if nothing is wrong, let sbatch judge it last."""
    partition, problem = _choose(how, cluster.partitions)
    if problem:
        return [problem]
    assert partition is not None
    found = [
        *_availability(partition),
        *_size(how, partition),
        *_permission(how, partition, cluster),
        *_allowance(how, cluster.limits(partition.name, how.account, how.qos), partition.name),
    ]
    # If all nodes of a partition are down, sbatch wrongly reports that there are no such nodes.
    in_use = any(node.usable for node in partition.nodes)
    if in_use and not any(finding.level is Level.FAILURE for finding in found):
        found.append(_ask_sbatch(how, partition))
    return found


def _choose(
    how: StageProfile, partitions: dict[str, Partition]
) -> tuple[Partition | None, Finding | None]:
    names = sorted(partitions)
    known = ", ".join(names) or "none that you can see"
    if how.partition is None:
        default = next((p for p in partitions.values() if p.default), None)
        sentence = "no partition is given, and the cluster has no default one"
        return default, None if default else failure(
            "partition", sentence, f"set partition to one of {known}"
        )
    # sbatch takes several partitions and starts the job in the first that is free.
    for name in how.partition.split(","):
        if name not in partitions:
            sentence = f'partition = "{name}": the cluster has no such partition'
            remedy = f"set partition to one of {known}{did_you_mean(name, names)}"
            return None, failure("partition", sentence, remedy)
    return partitions[how.partition.partition(",")[0]], None


def _availability(partition: Partition) -> Iterator[Finding]:
    usable = sum(node.usable for node in partition.nodes)
    if not partition.up:
        state = partition.settings["State"]
        remedy = "choose another partition, or wait until the administrators open it"
        yield failure("partition", f"partition {partition.name} is {state}", remedy)
    elif not usable:
        sentence = (
            f"no node of partition {partition.name} takes jobs now ({len(partition.nodes)} down)"
        )
        yield warning("partition", sentence, "jobs will wait; see `sinfo -R` for the reasons")
    else:
        yield ok("partition", f"partition {partition.name}: {usable} usable node(s)")


def _size(how: StageProfile, partition: Partition) -> Iterator[Finding]:
    """Compare the request of one task with the limits and nodes of its partition."""
    name = partition.name
    cpus = how.ranks_per_node * how.cpus
    memory_mb = round((how.memory_gb or 0) * 1024)
    largest_mb = _largest(partition, lambda node: node.memory_mb, partition.max_memory_mb)
    largest_gb = largest_mb / 1024
    most = min(partition.max_nodes or len(partition.nodes), len(partition.nodes))
    if how.nodes > most:
        sentence = f"nodes = {how.nodes}: partition {name} gives a job {most}"
        yield failure("nodes", sentence, f"set nodes to {most} or less")
    if memory_mb > largest_mb:
        sentence = f"memory_gb = {how.memory_gb:g}: partition {name} gives {largest_gb:.4g} a node"
        yield failure("memory", sentence, "ask for less, or choose a partition of larger nodes")
    elif how.max_memory_gb is not None and how.max_memory_gb > largest_gb:
        sentence = (
            f"max_memory_gb = {how.max_memory_gb:g}: partition {name} ends at {largest_gb:.4g}"
        )
        yield failure("memory", sentence, f"set max_memory_gb to {largest_gb:.4g} or less")
    gpus = _largest(partition, lambda node: node.gpus)
    types = ", ".join(partition.gpu_types)
    if how.gpus_per_node > gpus:
        sentence = f"gpus_per_node = {how.gpus_per_node}: partition {name} has {gpus} a node"
        yield failure("gpus", sentence, "ask for less, or choose a partition with such nodes")
    elif how.gpus_per_node and "," in types and how.constraint is None:
        sentence = f"partition {name} has GPUs of several types ({types}), which round differently"
        yield warning(
            "gpus", sentence, "set constraint to a feature of one type (`sinfo -o '%f %G'`)"
        )
    if cpus > (most_cpus := _largest(partition, lambda node: node.cpus)):
        sentence = f"{cpus} processors a node: partition {name} has {most_cpus}"
        yield failure("processors", sentence, "lower ranks_per_node, threads or dask_workers")


def _largest(partition: Partition, size: Callable[[Node], int], limit: int | None = None) -> int:
    largest = max((size(node) for node in partition.nodes), default=0)
    return largest if limit is None else min(largest, limit)


def _permission(how: StageProfile, partition: Partition, cluster: Cluster) -> Iterator[Finding]:
    """Compare account and QOS with the user's associations and the partition's rules."""
    account = how.account or cluster.default_account
    own = [a for a in cluster.associations if a.account == account]
    names = ", ".join(cluster.accounts)
    if how.account and cluster.associations and not own:
        sentence = f'account = "{account}" is not one of yours ({names})'
        remedy = f"set account to one of yours{did_you_mean(account, cluster.accounts)}"
        said = failure if cluster.enforced else warning
        yield said("account", sentence, remedy)
    elif account and not partition.admits("Accounts", account):
        sentence = f"partition {partition.name} does not admit account {account}"
        yield failure("account", sentence, f"set account (yours: {names}) or another partition")
    if how.qos is None:
        return
    allowed = sorted({qos for association in own for qos in association.qos})
    if allowed and how.qos not in allowed:
        sentence = f'qos = "{how.qos}": account {account} has {", ".join(allowed)}'
        remedy = f"set qos to one of them{did_you_mean(how.qos, allowed)}"
        said = failure if cluster.enforced else warning
        yield said("qos", sentence, remedy)
    elif not partition.admits("Qos", how.qos):
        sentence = f"partition {partition.name} does not admit QOS {how.qos}"
        yield failure("qos", sentence, "set another qos, or another partition")


def _allowance(how: StageProfile, allowed: Limits, partition: str) -> Iterator[Finding]:
    """Compare with the limits of partition, account and QOS together."""
    minutes = None if allowed.max_time_s is None else int(allowed.max_time_s // 60)
    if minutes is not None and how.timeout_minutes > minutes:
        whose = f"partition {partition} with your account and QOS"
        sentence = f"timeout_minutes = {how.timeout_minutes}: {whose} allows {minutes}"
        remedy = f"set timeout_minutes = {minutes}; unfinished units are submitted again"
        yield failure("time", sentence, remedy)
    most = allowed.max_submit_jobs
    if most is not None and most < 2:
        remedy = "ask the administrators for at least two (MaxSubmitJobs): a task and the gate"
        yield failure("limits", f"only {most} of your jobs may be in the queue", remedy)
    elif most is not None:
        sentence = f"{most} of your jobs may be in the queue ({allowed.queued} are now)"
        yield ok("limits", f"{sentence}: further ones are submitted later")


def _ask_sbatch(how: StageProfile, partition: Partition) -> Finding:
    try:
        cluster_info.ask_only(sbatch_options(how))
    except SlurmUnavailable as error:
        remedy = (
            "change the key of the stage that sbatch complains about (partition, account, qos, "
            "constraint, exclude, nodes, gpus_per_node, memory_gb, timeout_minutes)"
        )
        return failure("sbatch", f"sbatch refuses the stage's job: {error}", remedy)
    return ok("sbatch", f"sbatch accepts the stage's job in {partition.name}")
