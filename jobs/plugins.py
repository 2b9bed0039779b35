"""A lab's own functions, named by `module:function` and identified by the digest of their file."""

import importlib.util
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from gradenc_core.models.heads import load_dino_head
from gradenc_core.signals.objectives import OBJECTIVES, Objective, as_objective, as_signal
from gradenc_core.signals.readout import Head
from jobs.spec import ObjectiveSpec, PluginSpec
from storage_schemas.files import file_digest

CHECKPOINT = "checkpoint"


class Modules:
    """The lab's own files, each hashed and run once, however many of its functions are used."""

    def __init__(self) -> None:
        """Begin without any file."""
        self._digests: dict[Path, str] = {}
        self._modules: dict[Path, ModuleType] = {}

    def digest(self, path: Path) -> str:
        """Return the sha256 of a file."""
        if path not in self._digests:
            self._digests[path] = file_digest(path)
        return self._digests[path]

    def objective(self, spec: PluginSpec, path: Path) -> Objective:
        """Return the user's objective."""
        function = self._function(spec, path)
        return as_objective(function, spec.name)

    def signal(
        self, spec: PluginSpec, path: Path, objectives: Mapping[str, Objective]
    ) -> Objective:
        """Return the user's signal, made of the gradients of one of these objectives."""
        function = self._function(spec, path)
        return as_signal(function, spec.name, objectives)

    def head(self, spec: PluginSpec, path: Path) -> Head:
        """Return the user's head: a function or module that maps embeddings, or a checkpoint's."""
        if spec.entry != CHECKPOINT:
            return self._function(spec, path)
        self._require_unchanged(spec, path)
        return load_dino_head(path)

    def _function(self, spec: PluginSpec, path: Path) -> Callable[..., Any]:
        """Return a function of a module.

        Raises
        ------
        ValueError
            The file is not the one that the study was planned with, cannot be imported, or has no
            such function.
        """
        self._require_unchanged(spec, path)
        module_name, _, name = spec.entry.partition(":")
        if path not in self._modules:
            self._modules[path] = _run(module_name, path)
        function = getattr(self._modules[path], name, None)
        if not callable(function):
            raise ValueError(f"{path} has no function {name!r}; give module:function")
        return function

    def _require_unchanged(self, spec: PluginSpec, path: Path) -> None:
        require_unchanged(path, spec.digest, spec.name, self.digest)


def load(
    parts: Iterable[tuple[ObjectiveSpec, Mapping[str, str]]],
) -> tuple[dict[str, Objective], Head | None]:
    """Return all objectives and signals that the specifications name, and the head if one has it.

    Parameters
    ----------
    parts : iterable of (ObjectiveSpec, mapping of str to str)
        With the locations of its store: the files of its plug-in (`objective`), its `head` and its
        `signal`.
    """
    objectives, head, modules = dict(OBJECTIVES), None, Modules()
    for spec, locations in parts:
        if spec.plugin is not None:
            path = Path(locations["objective"])
            objectives[spec.plugin.name] = modules.objective(spec.plugin, path)
        if spec.signal is not None:
            path = Path(locations["signal"])
            objectives[spec.signal.name] = modules.signal(spec.signal, path, objectives)
        if spec.head is not None:
            head = modules.head(spec.head, Path(locations["head"]))
    return objectives, head


def _run(module_name: str, path: Path) -> ModuleType:
    """Run a file as a module of this name."""
    location = importlib.util.spec_from_file_location(module_name, path)
    if location is None or location.loader is None:
        raise ValueError(f"{path} is no Python module; give module:function")
    module = importlib.util.module_from_spec(location)
    sys.modules.setdefault(module_name, module)  # dataclasses and pickles look their module up
    try:
        location.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise ValueError(
            f"{path} cannot be imported ({type(error).__name__}: {error}); correct it, or install "
            "what it imports"
        ) from error
    return module


def require_unchanged(
    path: Path, digest: str, name: str, digest_of: Callable[[Path], str] = file_digest
) -> None:
    """Refuse a file that is gone, or not the one that the study was planned with."""
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}, with which the study was planned for {name}, is gone; put it back, or submit "
            "the study again into a new run"
        )
    if digest_of(path) != digest:
        raise ValueError(
            f"{path} has changed since the study was planned with {name}; put the old file "
            "back, or submit the study again into a new run"
        )
