"""A study's objectives, signals and DINO head: shipped, an entry point's, or the lab's own.

Each file of the lab's own is hashed and run once, and its objectives and signals are tested for
conformance.
"""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from pathlib import Path

from gradenc_core.signals.conformance import check_objective
from gradenc_core.signals.objectives import OBJECTIVES, Objective
from gradenc_core.signals.readout import Head
from hpc.config.phrases import given
from hpc.study.study import ENTRY_POINTS, SIGNAL_ENTRY_POINTS, Study
from jobs.plugins import CHECKPOINT, Modules
from jobs.spec import PluginSpec
from storage_schemas.sources import CONTROLS


@dataclass(frozen=True)
class FoundLoss:
    """An objective or signal of the study and, where they are not shipped, their files."""

    objective: Objective
    plugin: PluginSpec | None = None
    path: Path | None = None
    signal: PluginSpec | None = None
    signal_path: Path | None = None


@dataclass(frozen=True)
class FoundHead:
    """The head that the study gives for `dino`."""

    plugin: PluginSpec
    path: Path
    head: Head


@dataclass(frozen=True)
class Losses:
    """The losses and the head from which a study's gradient sources are made."""

    found: Mapping[str, FoundLoss]
    """Objectives, then own signals, in the study's order, by the name that their sources get."""
    dino_head: FoundHead | None

    @property
    def objectives(self) -> dict[str, Objective]:
        """The shipped objectives and those that were found."""
        return _with_shipped(self.found)

    @property
    def head(self) -> Head | None:
        """The study's own head."""
        return None if self.dino_head is None else self.dino_head.head

    @property
    def take_labels(self) -> bool:
        """Whether one of them takes the true classes."""
        return any("labels" in found.objective.needs for found in self.found.values())


def find_losses(study: Study, problems: list[str]) -> Losses:
    """Find, run and test the objectives, signals and head that the study names.

    `problems` gets a line for each that is missing or cannot be used.
    """
    modules, lines = Modules(), list[str]()
    found: dict[str, FoundLoss] = {}
    for j, name in enumerate(study.objectives):
        try:
            loss = _objective(study, name, modules)
            found[loss.objective.name] = loss
            if loss.plugin is not None:
                check_objective(loss.objective)
        except ValueError as error:
            lines.append(f"objectives[{j}]: given {given(name)}; {error}")
    objectives = dict(found)
    for name in study.own_signals:
        try:
            loss = _signal(study, name, objectives, modules)
            found[loss.objective.name] = loss
            check_objective(loss.objective)
        except ValueError as error:
            key = f"signals[{study.signals.index(name)}]"
            lines.append(f"{key}: given {given(name)}; {error}")
    losses = Losses(found, _head(study, modules, problems))
    if study.labels is not None and not lines and not losses.take_labels:
        lines.append(
            f"labels: given {given(study.labels)}; accepted: none, or classification (or one of "
            "your own that declares labels) among the objectives"
        )
    problems += lines
    return losses


def _objective(study: Study, name: str, modules: Modules) -> FoundLoss:
    """Return an entry of `objectives`: a shipped name, an entry point's or `module:function`.

    Raises
    ------
    ValueError
        There is no such module or function.
    """
    if name in OBJECTIVES:
        return FoundLoss(OBJECTIVES[name])
    plugin, path = _plugin(study, name, ENTRY_POINTS, modules)
    return FoundLoss(modules.objective(plugin, path), plugin, path)


def _signal(
    study: Study, name: str, objectives: Mapping[str, FoundLoss], modules: Modules
) -> FoundLoss:
    """Return an own entry of `signals`, made of the gradients of one of the objectives.

    Raises
    ------
    ValueError
        There is no such module, function or objective.
    """
    plugin, path = _plugin(study, name, SIGNAL_ENTRY_POINTS, modules)
    made = modules.signal(plugin, path, _with_shipped(objectives))
    shipped = FoundLoss(made)
    of = next((f for f in objectives.values() if f.objective.loss is made.loss), shipped)
    return replace(of, objective=made, signal=plugin, signal_path=path)


def _head(study: Study, modules: Modules, problems: list[str]) -> FoundHead | None:
    entry = study.dino_head
    if entry is None or "dino" not in study.objectives:
        return None
    try:
        if ":" in entry:
            plugin, path = _module(study, "dino", entry, modules)
        else:
            path = (study.folder / entry).resolve()
            if not path.is_file():
                raise ValueError(f"there is no file {study.folder / entry}")
            plugin = PluginSpec(name="dino", entry=CHECKPOINT, digest=modules.digest(path))
        return FoundHead(plugin, path, modules.head(plugin, path))
    except ValueError as error:
        problems.append(f"dino_head: given {given(entry)}; {error}")
        return None


def _with_shipped(found: Mapping[str, FoundLoss]) -> dict[str, Objective]:
    return {**OBJECTIVES, **{name: f.objective for name, f in found.items()}}


def _plugin(study: Study, name: str, group: str, modules: Modules) -> tuple[PluginSpec, Path]:
    entry, called = name, name.rpartition(":")[2]
    if called in CONTROLS:
        raise ValueError(
            f"{called} is what the results call activations; give the function another name"
        )
    if ":" not in name:
        (point,) = entry_points(group=group, name=name)
        entry = point.value
    return _module(study, called, entry, modules)


def _module(study: Study, name: str, entry: str, modules: Modules) -> tuple[PluginSpec, Path]:
    """Return what is known of a function and its file: beside the study file, or installed."""
    module = entry.partition(":")[0]
    path = study.folder / Path(*module.split(".")).with_suffix(".py")
    if not path.is_file():
        path = _installed(module, study.folder)
    path = path.resolve()
    return PluginSpec(name=name, entry=entry, digest=modules.digest(path)), path


def _installed(module: str, folder: Path) -> Path:
    reason = ""
    try:
        found = importlib.util.find_spec(module)
    except Exception as error:  # the packages above it are imported, which may raise anything
        found, reason = None, f" ({type(error).__name__}: {error})"
    if found is None or found.origin is None or not Path(found.origin).is_file():
        raise ValueError(
            f"there is no module {module!r} in {folder}, and none is installed{reason}; put its "
            "file there, or install its package"
        )
    return Path(found.origin)
