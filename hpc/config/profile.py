"""Profiles: how one machine or cluster runs the stages. Nothing here changes a result's meaning.

A profile is a TOML file, shipped in the package `slurm_profiles` or a lab's own. Keys in `[common]`
hold for every stage that does not set them itself.
"""

import re
import tomllib
from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Literal

import psutil
from pydantic import AfterValidator, Field, ValidationError

from gradenc_core.spelling import did_you_mean
from gradenc_errors import GradencError
from hpc.config.fields import Count, Positive, Section, Text
from hpc.config.phrases import given
from hpc.config.refusals import refusals


def _filled_in(what: str) -> AfterValidator:
    """Refuse the `<placeholder>` that an example leaves to the user."""

    def check(value: str) -> str:
        if re.search(r"<\w[\w ]*\w>", value):
            raise ValueError(f"{what} of your cluster; this is still the example's placeholder")
        return value

    return AfterValidator(check)


def _one_word(value: str) -> str:
    """Refuse white space, which would end a value in a line of a batch file."""
    if re.search(r"\s", value):
        raise ValueError("a name without spaces")
    return value


SlurmName = Annotated[Text, _filled_in("a name"), AfterValidator(_one_word)]
Folder = Annotated[Text, _filled_in("a folder")]
Command = Annotated[Text, _filled_in("a command")]

GB = 2**30
"""Bytes of a GB, as SLURM and the profiles count it."""


class ProfileError(GradencError, ValueError):
    """A profile that cannot be used; its message has one line for every problem."""


class StageProfile(Section):
    """How the units of one stage are run."""

    slots: Count = 1
    """tasks at once (of an array job: its throttle)"""
    threads: Count = 1
    """threads of a process"""
    micro_batch: Count = 32
    """images in one pass through a network (the last pass is padded to it)"""
    timeout_minutes: Count = 1440
    """a task that runs longer is ended (minutes); its unit is done again on resume"""
    dask_workers: Count = 1
    """Dask worker processes inside a task on this machine, for stages that use them"""
    units_per_task: Count | None = None
    """slurm: units of one task of an array; default: all units, divided by `slots`"""
    partition: SlurmName | None = None
    """slurm: partition"""
    account: SlurmName | None = None
    """slurm: account that pays for the jobs"""
    qos: SlurmName | None = None
    """slurm: quality of service"""
    constraint: SlurmName | None = None
    """slurm: features that a node must have, e.g. one type of GPU"""
    exclude: SlurmName | None = None
    """slurm: nodes not to use"""
    nodes: Count = 1
    """slurm: nodes of one task"""
    ranks_per_node: Count = 1
    """slurm: processes on each node; with GPUs, each is bound to its own"""
    gpus_per_node: Annotated[int, Field(strict=True, ge=0)] = 0
    """slurm: GPUs on each node"""
    memory_gb: Positive | None = None
    """slurm: memory of each node (GB); default: the partition's"""
    max_memory_gb: Positive | None = None
    """slurm: most memory of a node (GB) that is tried after kills for memory; default: memory_gb"""
    setup: tuple[Command, ...] = ()
    """slurm: shell lines before the processes start (modules, conda, container)"""
    scratch: Folder | None = None
    """slurm: folder on the node for temporary files, as the node's shell expands it"""
    dask_interface: SlurmName | None = None
    """slurm: network interface of Dask between nodes, e.g. ib0; default: the host's own"""

    @property
    def cpus(self) -> int:
        """Processors of one process: its threads, or one for each Dask worker that it starts."""
        return max(self.threads, self.dask_workers)

    @property
    def ranks(self) -> int:
        """Processes of one task, over all its nodes."""
        return self.nodes * self.ranks_per_node


class GateProfile(StageProfile):
    """How the gate is run."""

    timeout_minutes: Count = 15
    """a gate that runs longer is ended (minutes); the next one goes on"""


class Profile(Section):
    """How one machine or cluster runs a study."""

    name: Text
    """the profile's name"""
    scheduler: Literal["local", "slurm"]
    """what starts tasks: local (processes on this machine) or slurm (array jobs)"""
    prepare: StageProfile = StageProfile()
    """weights, and classes of gradients"""
    ingest: StageProfile = StageProfile()
    """recordings"""
    extract: StageProfile = StageProfile()
    """activations and gradients"""
    encode: StageProfile = StageProfile()
    """ridge regression"""
    compare: StageProfile = StageProfile()
    """hierarchy comparisons"""
    gate: GateProfile = GateProfile()
    """slurm: the small job that looks after the stages when nobody is logged in"""

    def stage(self, name: str) -> StageProfile:
        """Return how the stage `name` is run."""
        profile: StageProfile = getattr(self, name)
        return profile


class _ProfileFile(Profile):
    """A profile as it is written."""

    common: StageProfile = StageProfile()
    """keys of every stage that does not set them itself"""

    def with_common_keys(self) -> Profile:
        """Return the profile whose stages have the keys of `[common]` that they do not set."""
        common = self.common.model_dump(exclude_unset=True)
        stages = {
            stage: common | self.stage(stage).model_dump(exclude_unset=True) for stage in SECTIONS
        }
        return Profile.model_validate({"name": self.name, "scheduler": self.scheduler, **stages})

    def place(self, stage: str, key: str) -> str:
        """Return where the file sets a key of a stage."""
        is_own = key in self.stage(stage).model_fields_set
        in_common = key in self.common.model_fields_set and not is_own
        return f"common.{key}" if in_common else f"{stage}.{key}"


SECTIONS = tuple(name for name in Profile.model_fields if name not in ("name", "scheduler"))
"""Sections of a profile file: the stages of a run, and the gate between them."""

SLURM_KEYS = {
    name
    for name, field in StageProfile.model_fields.items()
    if (field.description or "").startswith("slurm:")
}
"""Keys that only a profile of a SLURM cluster may have."""


def process_memory(scheduler: str, how: StageProfile) -> float | None:
    """Return the memory of one process of a stage (bytes), None where nothing says it."""
    if scheduler == "local":
        return psutil.virtual_memory().total / (how.slots * how.dask_workers)
    if how.memory_gb is None:
        return None
    workers = 1 if how.ranks > 1 else how.dask_workers
    return how.memory_gb * GB / (how.ranks_per_node * workers)


def n_tasks(scheduler: str, how: StageProfile, n_items: int) -> int:
    """Return how many tasks a stage's items are cut into, at least one."""
    if scheduler == "local":
        return max(1, min(how.slots, n_items))
    return max(1, -(-n_items // items_per_task(how, n_items)))


def items_per_task(how: StageProfile, n_items: int) -> int:
    """Return how many of a stage's items one task of an array job is given, at least one."""
    return how.units_per_task or max(1, -(-n_items // how.slots))


def load_profile(name: str) -> Profile:
    """Load a shipped profile by its name, or a TOML file by its path.

    Raises
    ------
    ProfileError
        With a line for every problem: file, key, value, what is accepted.
    """
    data = _read(locate(name), name)
    try:
        file = _ProfileFile.model_validate(data)
    except ValidationError as error:
        raise ProfileError("\n".join(refusals(error, _ProfileFile, data, name))) from error
    profile = file.with_common_keys()
    lines = dict.fromkeys(
        f"{name}: {file.place(stage, key)}: given {given(getattr(profile.stage(stage), key))}; "
        f"accepted: {accepted}"
        for stage in SECTIONS
        for key, accepted in _misfits(profile, stage)
    )
    if lines:
        raise ProfileError("\n".join(lines))
    return profile


def _misfits(profile: Profile, stage: str) -> Iterator[tuple[str, str]]:
    """Yield (key, what would be accepted) where the keys of a stage do not go together."""
    how = profile.stage(stage)
    if profile.scheduler != "slurm":
        for key in sorted(how.model_fields_set & SLURM_KEYS):
            yield key, 'only with scheduler = "slurm"'
        return
    if how.max_memory_gb is not None and how.memory_gb is None:
        yield "max_memory_gb", "only beside memory_gb, which it raises"
    elif how.max_memory_gb is not None and how.max_memory_gb < (how.memory_gb or 0):
        yield "max_memory_gb", "at least memory_gb, which it raises"
    if how.ranks_per_node > how.gpus_per_node > 0:
        yield "ranks_per_node", f"at most gpus_per_node ({how.gpus_per_node}), one GPU for each"
    if stage == "gate" and how.ranks > 1:
        key = "nodes" if how.nodes > 1 else "ranks_per_node"
        yield key, "1 for the gate, which is one process"
    if stage == "encode":
        yield from _dask_misfits(how)


def _dask_misfits(how: StageProfile) -> Iterator[tuple[str, str]]:
    if how.ranks == 2:
        key = "nodes" if how.nodes > 1 else "ranks_per_node"
        what = "it starts dask_workers itself), or 3 and more (Dask's scheduler, client and workers"
        yield key, f"1 rank in all ({what})"
    if how.ranks > 2 and how.dask_workers > 1:
        yield "dask_workers", f"1, since {how.ranks - 2} of the {how.ranks} ranks are the workers"


def locate(name: str) -> Traversable:
    """Return the file of a shipped profile, or the one at a path, refusing unknown ones."""
    path = Path(name)
    if path.suffix == ".toml" or path.name != name:
        if not path.is_file():
            near = did_you_mean(path.name, [p.name for p in path.parent.glob("*.toml")])
            raise ProfileError(f"{name}: no such file; accepted: a profile (TOML){near}")
        return path
    shipped = {p.name.removesuffix(".toml"): p for p in files("slurm_profiles").iterdir()}
    known = sorted(key for key, p in shipped.items() if p.name.endswith(".toml"))
    if name not in known:
        raise ProfileError(
            f"profile {name!r} is not shipped; accepted: {', '.join(known)}, or the path of a TOML "
            f"file{did_you_mean(name, known)}"
        )
    return shipped[name]


def _read(source: Traversable, name: str) -> dict[str, object]:
    try:
        return tomllib.loads(source.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ProfileError(f"{name}: not TOML: {error}") from error
