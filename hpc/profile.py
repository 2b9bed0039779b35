"""Profiles: how one machine or cluster runs the stages. Nothing here changes a result's meaning.

A profile is a TOML file, shipped in the package `slurm_profiles` or a lab's own. Keys in `[common]`
hold for every stage that does not set them itself.
"""

import tomllib
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from hpc.overrides import did_you_mean, refusals

Count = Annotated[int, Field(strict=True, ge=1)]
Text = Annotated[str, Field(strict=True, min_length=1)]


class ProfileError(ValueError):
    """A profile that cannot be used; its message has one line for every problem."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class StageProfile(_Section):
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
    """slurm: units that one task of an array is given; default: all, divided by `slots`"""
    partition: Text | None = None
    """slurm: partition"""
    account: Text | None = None
    """slurm: account that is charged"""
    qos: Text | None = None
    """slurm: quality of service"""
    constraint: Text | None = None
    """slurm: features that a node must have, e.g. one type of GPU"""
    exclude: Text | None = None
    """slurm: nodes not to use"""
    nodes: Count = 1
    """slurm: nodes of one task"""
    ranks_per_node: Count = 1
    """slurm: processes on each node; with GPUs, each is bound to its own"""
    gpus_per_node: Annotated[int, Field(strict=True, ge=0)] = 0
    """slurm: GPUs on each node"""
    memory_gb: Annotated[float, Field(gt=0)] | None = None
    """slurm: memory of each node (GB); default: the partition's"""
    max_memory_gb: Annotated[float, Field(gt=0)] | None = None
    """slurm: to how much memory a node is raised after a kill for memory; default: not at all"""
    setup: tuple[Text, ...] = ()
    """slurm: shell lines before the processes start (modules, conda, container)"""
    scratch: Text | None = None
    """slurm: folder on the node for temporary files, as the node's shell expands it"""
    dask_interface: Text | None = None
    """slurm: network interface of Dask between nodes, e.g. ib0; default: the host's own"""


class Profile(_Section):
    """How one machine or cluster runs a study."""

    name: Annotated[str, Field(strict=True, min_length=1)]
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
    gate: StageProfile = StageProfile(timeout_minutes=15)
    """slurm: the small job that looks after the stages when nobody is logged in"""

    def stage(self, name: str) -> StageProfile:
        """Return how the stage `name` is run."""
        profile: StageProfile = getattr(self, name)
        return profile

    @model_validator(mode="after")
    def _slurm_keys_need_slurm(self) -> "Profile":
        if self.scheduler == "slurm":
            return self
        for stage in (
            name for name in type(self).model_fields if name not in ("name", "scheduler")
        ):
            for key in self.stage(stage).model_fields_set & SLURM_KEYS:
                raise ValueError(
                    f'{stage}.{key}: only for scheduler = "slurm"; this profile\'s is '
                    f'"{self.scheduler}"'
                )
        return self


SLURM_KEYS = {
    name
    for name, field in StageProfile.model_fields.items()
    if (field.description or "").startswith("slurm:")
}
"""Keys that only a profile of a SLURM cluster may have."""


def load_profile(name: str) -> Profile:
    """Load a shipped profile by its name, or a TOML file by its path.

    Raises
    ------
    ProfileError
        With a line for every problem: file, key, value, what is accepted.
    """
    data = _with_common(_read(_locate(name), name))
    try:
        return Profile.model_validate(data)
    except ValidationError as error:
        raise ProfileError("\n".join(refusals(error, Profile, data, name))) from error


def _with_common(data: dict[str, Any]) -> dict[str, Any]:
    """Give every stage the keys of `[common]` that it does not set itself."""
    common = data.pop("common", {})
    if not isinstance(common, dict) or not common:
        return data
    stages = [name for name in Profile.model_fields if name not in ("name", "scheduler")]
    return data | {stage: {**common, **data.get(stage, {})} for stage in stages}


def _locate(name: str) -> Traversable:
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


def _read(source: Traversable, name: str) -> dict[str, Any]:
    try:
        return tomllib.loads(source.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ProfileError(f"{name}: not TOML: {error}") from error
