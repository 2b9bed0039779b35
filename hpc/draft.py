"""A first profile for the cluster at hand: the generic one, fitted to its partitions."""

import json
from collections.abc import Iterator, Sequence

from hpc.profile import STAGES, Profile, StageProfile, load_profile
from hpc.slurm.client import SlurmUnavailable
from hpc.slurm.cluster_info import (
    Node,
    Partition,
    ask_only,
    configuration,
    default_account,
    partitions,
)
from hpc.slurm.options import sbatch_options

SHARE = 0.9
"""Of the smallest node's memory, since nodes keep some for themselves."""


def draft_profile() -> str:
    """Return the text of a profile for this cluster.

    Raises
    ------
    SlurmUnavailable
        If the controller does not answer, or accepts no job at all.
    ValueError
        If there is no partition.
    """
    found = [partition for partition in partitions().values() if partition.up]
    if not found:
        raise ValueError("this cluster has no partition that you can see and that is up (`sinfo`)")
    with_gpus = [partition for partition in found if _gpu_nodes(partition)]
    generic = load_profile("generic-gpu" if with_gpus else "generic-cpu")
    account = _account()
    chosen = {
        needs_gpu: _choose(candidates, generic.stage("extract" if needs_gpu else "gate"), account)
        for needs_gpu, candidates in ((False, _ranked_for_cpu(found)), (True, _ranked(with_gpus)))
        if candidates
    }
    return "\n".join(_lines(generic, chosen, account))


def _account() -> str | None:
    try:
        return default_account() or None
    except SlurmUnavailable:  # no accounting: no accounts either
        return None


def _ranked_for_cpu(found: Sequence[Partition]) -> list[Partition]:
    """Put partitions first that waste no GPU on jobs without."""
    return sorted(_ranked(found), key=lambda partition: bool(_gpu_nodes(partition)))


def _ranked(found: Sequence[Partition]) -> list[Partition]:
    """Best first: not preemptible, the default, with long time limits and many nodes."""
    return sorted(
        found,
        key=lambda partition: (
            partition.preemptible,
            not partition.default,
            -(partition.max_time_s or float("inf")),
            -sum(node.usable for node in partition.nodes),
        ),
    )


def _choose(candidates: Sequence[Partition], how: StageProfile, account: str | None) -> Partition:
    """Return the first partition in which sbatch accepts a job like this."""
    for partition in candidates:
        try:
            ask_only(sbatch_options(_fitted(how, partition, account)))
        except SlurmUnavailable as error:
            refusal = error
        else:
            return partition
    raise refusal


def _gpu_nodes(partition: Partition) -> tuple[Node, ...]:
    return tuple(node for node in partition.nodes if node.gpus)


def _fitted(how: StageProfile, partition: Partition, account: str | None) -> StageProfile:
    """Lower what the generic profile asks for to what the smallest suitable node has."""
    nodes = _gpu_nodes(partition) if how.gpus_per_node else partition.nodes
    memory_mb = min((node.memory_mb for node in nodes), default=0)
    largest_mb = max((node.memory_mb for node in nodes), default=0)
    limit_mb = partition.max_memory_mb or largest_mb
    cpus = min((node.cpus for node in nodes), default=1)
    memory = min(how.memory_gb or 0, _gigabytes(min(memory_mb, limit_mb)))
    highest = min(how.max_memory_gb or 0, _gigabytes(min(largest_mb, limit_mb)))
    minutes = int((partition.max_time_s or float("inf")) // 60)
    return how.model_copy(
        update={
            "partition": partition.name,
            "account": account,
            "threads": min(how.threads, cpus),
            "dask_workers": min(how.dask_workers, cpus),
            "memory_gb": memory,
            "max_memory_gb": max(memory, highest),
            "timeout_minutes": min(how.timeout_minutes, minutes),
        }
    )


def _gigabytes(megabytes: int) -> float:
    return max(0.1, int(SHARE * megabytes / 1024 * 10) / 10)


def _lines(generic: Profile, chosen: dict[bool, Partition], account: str | None) -> Iterator[str]:
    name = configuration().get("ClusterName", "cluster")
    yield f"# A first profile for {name}, from what it says of itself. Look it over, then"
    yield "# run `gradenc doctor --profile FILE --folder RUNS`. All keys: docs/profiles.md."
    yield from dict.fromkeys(f"# {_describe(partition)}" for partition in chosen.values())
    yield f'\nname = "{name}"\nscheduler = "slurm"\n\n[common]'
    if account is not None:
        yield f'account = "{account}"  # your default; sacctmgr show associations where user=$USER'
    yield '# setup = ["module load ...", "source .../bin/activate"]  # each entry a whole command'
    yield '# scratch = "/..."  # folder on the node for temporary files; may use $SLURM_JOB_ID'
    for stage in STAGES:
        how = generic.stage(stage)
        fitted = _fitted(how, chosen[bool(how.gpus_per_node)], None)
        yield f"\n[{stage}]"
        for key, value in fitted.model_dump(exclude_defaults=True).items():
            yield f"{key} = {json.dumps(value)}"


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
