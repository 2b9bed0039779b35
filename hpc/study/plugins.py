"""Where a study's objectives come from: shipped, an entry point, or a module of the lab's own."""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from pathlib import Path

from gradenc_core.signals.objectives import OBJECTIVES, Objective
from gradenc_core.signals.readout import Head
from hpc.study.objective_names import ENTRY_POINTS, SIGNAL_ENTRY_POINTS
from hpc.study.study import Study
from jobs.plugins import CHECKPOINT, load_head, load_objective, load_signal
from jobs.spec import PluginSpec
from storage_schemas.files import file_digest


@dataclass(frozen=True)
class Found:
    """An objective or signal of the study and, where they are not shipped, their files."""

    objective: Objective
    plugin: PluginSpec | None = None
    path: Path | None = None
    signal: PluginSpec | None = None
    signal_path: Path | None = None


def find_objective(study: Study, name: str) -> Found:
    """Return an entry of `objectives`: a shipped name, an entry point's or `module:function`.

    A module is looked for beside the study file, then where Python imports from.

    Raises
    ------
    ValueError
        There is no such module or function.
    """
    if name in OBJECTIVES:
        return Found(OBJECTIVES[name])
    plugin, path = _plugin(study, name, ENTRY_POINTS)
    return Found(load_objective(plugin, path), plugin, path)


def find_signal(study: Study, name: str, objectives: Mapping[str, Found]) -> Found:
    """Return an own entry of `signals`: an entry point's name or `module:function`.

    Parameters
    ----------
    objectives : mapping of str to Found
        Of the study, whose gradients it may take, beside the shipped ones.

    Raises
    ------
    ValueError
        There is no such module, function or objective.
    """
    plugin, path = _plugin(study, name, SIGNAL_ENTRY_POINTS)
    made = load_signal(plugin, path, all_objectives(objectives))
    shipped = Found(made)
    of = next((f for f in objectives.values() if f.objective.loss is made.loss), shipped)
    return replace(of, objective=made, signal=plugin, signal_path=path)


def find_sources(study: Study) -> dict[str, Found]:
    """Return the objectives and own signals of a study by the name that their sources get."""
    found = {f.objective.name: f for f in (find_objective(study, n) for n in study.objectives)}
    own = [find_signal(study, name, found) for name in study.own_signals]
    return found | {f.objective.name: f for f in own}


def find_head(study: Study) -> tuple[PluginSpec, Path] | None:
    """Return the head that the study gives for `dino`, if it does.

    Raises
    ------
    ValueError
        There is no such module or file.
    """
    entry = study.dino_head
    if entry is None or "dino" not in study.objectives:
        return None
    if ":" in entry:
        return _module(study, "dino", entry)
    path = study.folder / entry
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    return PluginSpec(name="dino", entry=CHECKPOINT, digest=file_digest(path)), path.resolve()


def loaded_head(study: Study) -> Head | None:
    """Return the study's head, loaded."""
    found = find_head(study)
    return None if found is None else load_head(*found)


def all_objectives(found: Mapping[str, Found]) -> dict[str, Objective]:
    """Return the shipped objectives and those that were found."""
    return {**OBJECTIVES, **{name: f.objective for name, f in found.items()}}


def _plugin(study: Study, name: str, group: str) -> tuple[PluginSpec, Path]:
    entry = name
    if ":" not in name:
        (point,) = entry_points(group=group, name=name)
        entry = point.value
    return _module(study, name.rpartition(":")[2], entry)


def _module(study: Study, name: str, entry: str) -> tuple[PluginSpec, Path]:
    module = entry.partition(":")[0]
    path = study.folder / Path(*module.split(".")).with_suffix(".py")
    if not path.is_file():
        path = _installed(module, study.folder)
    return PluginSpec(name=name, entry=entry, digest=file_digest(path)), path.resolve()


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
