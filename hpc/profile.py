"""Profiles: how one machine or cluster runs the stages. Nothing here changes a result's meaning.

A profile is a TOML file, shipped in the package `slurm_profiles` or a lab's own.
"""

import tomllib
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hpc.overrides import did_you_mean, refusals

Count = Annotated[int, Field(strict=True, ge=1)]


class ProfileError(ValueError):
    """A profile that cannot be used; its message has one line for every problem."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class StageProfile(_Section):
    """How the units of one stage are run."""

    slots: Count = 1
    """tasks at once"""
    threads: Count = 1
    """threads of a process"""
    micro_batch: Count = 32
    """images in one pass through a network (the last pass is padded to it)"""
    timeout_minutes: Count = 1440
    """a task that runs longer is ended (minutes); its unit is done again on resume"""
    dask_workers: Count = 1
    """Dask worker processes inside a task, for stages that use them"""


class Profile(_Section):
    """How one machine or cluster runs a study."""

    name: Annotated[str, Field(strict=True, min_length=1)]
    """the profile's name"""
    scheduler: Literal["local"]
    """what starts tasks: local (processes on this machine)"""
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

    def stage(self, name: str) -> StageProfile:
        """Return how the stage `name` is run."""
        profile: StageProfile = getattr(self, name)
        return profile


def load_profile(name: str) -> Profile:
    """Load a shipped profile by its name, or a TOML file by its path.

    Raises
    ------
    ProfileError
        With a line for every problem: file, key, value, what is accepted.
    """
    source = _locate(name)
    data = _read(source, name)
    try:
        return Profile.model_validate(data)
    except ValidationError as error:
        raise ProfileError("\n".join(refusals(error, Profile, data, name))) from error


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
