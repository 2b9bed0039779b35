"""A first profile for this cluster: the generic profile, fitted to the cluster's partitions."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from hpc.config.profile import SECTIONS, Profile, StageProfile, load_profile
from hpc.slurm.client import SlurmUnavailable
from hpc.slurm.cluster_info import (
    Partition,
    ask_only,
    associations,
    configuration,
    default_account,
    partitions,
)
from hpc.slurm.sbatch import sbatch_options

Accounts = Sequence[str | None]

_SHARE = 0.9
"""Share of the smallest node's memory that a job asks for: nodes keep some for themselves."""


@dataclass(frozen=True)
class _Choice:
    """Partition of jobs and the account that pays for them (None: the default one)."""

    partition: Partition
    account: str | None


def draft_profile() -> str:
    """Return the text of a profile for this cluster.

    Raises
    ------
    SlurmUnavailable
        If the controller does not answer or accepts no job at all.
    ValueError
        If no partition is up.
    """
    found = [partition for partition in partitions().values() if partition.up]
    if not found:
        raise ValueError(
            "no partition that you can see is up (`sinfo` lists them); try again when one is"
        )
    with_gpus = [partition for partition in found if partition.gpu_nodes]
    generic = load_profile("generic-gpu" if with_gpus else "generic-cpu")
    accounts = _accounts()
    chosen = {False: _choose(_ranked_for_cpu(found), generic.stage("gate"), accounts)}
    if with_gpus:
        chosen[True] = _choose(_ranked(with_gpus), generic.stage("extract"), accounts)
    return "\n".join(_lines(generic, chosen))


def _accounts() -> list[str | None]:
    """Return the accounts that the user may charge, the default one first."""
    try:
        default = default_account()
        others = {association.account for association in associations()} - {default}
    except SlurmUnavailable:  # without accounting there are no accounts
        return [None]
    return [default or None, *sorted(others)]


def _ranked_for_cpu(found: Sequence[Partition]) -> list[Partition]:
    """Return partitions without GPUs first: jobs without GPUs should not block them."""
    return sorted(_ranked(found), key=lambda partition: bool(partition.gpu_nodes))


def _ranked(found: Sequence[Partition]) -> list[Partition]:
    """Sort partitions: not preemptible, default, long time limit, many usable nodes first."""
    return sorted(
        found,
        key=lambda partition: (
            partition.preemptible,
            not partition.default,
            -(partition.max_time_s or float("inf")),
            -sum(node.usable for node in partition.nodes),
        ),
    )


def _choose(candidates: Sequence[Partition], how: StageProfile, accounts: Accounts) -> _Choice:
    """Return the first pair of partition and account with which sbatch accepts a job."""
    refusals = []
    for partition, account in product(candidates, accounts):
        try:
            ask_only(sbatch_options(_fitted(how, _Choice(partition, account))))
        except SlurmUnavailable as error:
            refusals.append(error)
        else:
            return _Choice(partition, account)
    raise refusals[0]


def _fitted(how: StageProfile, choice: _Choice) -> StageProfile:
    """Lower the requests of the generic profile to the smallest suitable node."""
    partition = choice.partition
    nodes = partition.gpu_nodes if how.gpus_per_node else partition.nodes
    memory_mb = min((node.memory_mb for node in nodes), default=0)
    largest_mb = max((node.memory_mb for node in nodes), default=0)
    limit_mb = partition.max_memory_mb or largest_mb
    cpus = min((node.cpus for node in nodes), default=1)
    memory = min(how.memory_gb or 0, _gigabytes(min(memory_mb, limit_mb)))
    highest = min(how.max_memory_gb or 0, _gigabytes(min(largest_mb, limit_mb)))
    minutes = how.timeout_minutes
    if partition.max_time_s is not None:
        minutes = min(minutes, int(partition.max_time_s // 60))
    return how.model_copy(
        update={
            "partition": partition.name,
            "account": choice.account,
            "threads": min(how.threads, cpus),
            "dask_workers": min(how.dask_workers, cpus),
            "memory_gb": memory,
            "max_memory_gb": max(memory, highest),
            "timeout_minutes": minutes,
        }
    )


def _gigabytes(megabytes: int) -> float:
    return max(0.1, int(_SHARE * megabytes / 1024 * 10) / 10)


def _lines(generic: Profile, chosen: dict[bool, _Choice]) -> Iterator[str]:
    name = configuration().get("ClusterName", "cluster")
    yield f"# A first profile for {name}, from its partitions and limits. Check it, then"
    yield "# run `gradenc doctor --profile FILE --folder RUNS`. All keys: docs/profiles.md."
    yield from dict.fromkeys(f"# {_describe(choice.partition)}" for choice in chosen.values())
    yield f'\nname = "{name}"\nscheduler = "slurm"\n\n[common]'
    yield '# setup = ["module load ...", "source .../bin/activate"]  # each entry a whole command'
    yield '# scratch = "/..."  # folder on the node for temporary files; may use $SLURM_JOB_ID'
    for stage in SECTIONS:
        how = generic.stage(stage)
        choice = chosen[bool(how.gpus_per_node)]
        yield f"\n[{stage}]"
        for key, value in _fitted(how, choice).model_dump(exclude_defaults=True).items():
            yield f"{key} = {json.dumps(value)}"
        if how.gpus_per_node and len(choice.partition.gpu_types) > 1:
            features = sorted({f for node in choice.partition.gpu_nodes for f in node.features})
            yield f'# constraint = ""  # one type of GPU gives equal bytes: {", ".join(features)}'


def _describe(partition: Partition) -> str:
    usable = [node for node in partition.nodes if node.usable] or list(partition.nodes)
    parts = [
        f"{len(usable)} node(s)",
        f"{_range([node.cpus for node in usable])} processors",
        f"{_range([node.memory_mb // 1024 for node in usable])} GB",
        f"{_range([node.gpus for node in usable])} GPU(s)",
        f"at most {partition.max_time_s / 60:.0f} min" if partition.max_time_s else "no time limit",
    ]
    return f"partition {partition.name}: {', '.join(parts)}"


def _range(values: Sequence[int]) -> str:
    low, high = min(values, default=0), max(values, default=0)
    return str(low) if low == high else f"{low}-{high}"
