"""A study's networks, one in memory at a time: built, checked and described in one turn."""

import time
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass
from math import prod

import numpy as np
import torch

from gradenc_core.models.layers import Layer, layers_at, resolve_layers
from gradenc_core.models.model import VisionModel
from gradenc_core.models.tokens import TokenLayout, layer_layout
from gradenc_core.signals.baseline import layer_parts
from gradenc_core.signals.objectives import supported_objectives
from gradenc_core.signals.readout import Head
from hpc.config.phrases import given
from hpc.study.plugins import Losses
from hpc.study.resolved import ResolvedModel
from hpc.study.stimuli import Labels
from hpc.study.study import Depths, Model, Study
from jobs import models
from jobs.spec import ModelSpec


@dataclass(frozen=True)
class BuiltNetwork:
    """A network while it is in memory."""

    network: VisionModel
    described: ResolvedModel
    build_s: float
    """Time that building took, its weights loaded and hashed (s)."""


@dataclass(frozen=True)
class _Measured:
    """What is asked of a network once, so that checks and its description need no second look."""

    layers: Sequence[tuple[Layer, TokenLayout]]
    """The study's layers; none if one of them was refused."""
    objectives: Sequence[str]
    """Those of the study's and the shipped objectives that it supports."""
    n_channels: int
    """Features of its last block; 0 where it has none, and its layers were refused."""


Visit = Callable[[BuiltNetwork], None]


def resolve_networks(
    study: Study,
    losses: Losses,
    labels: Labels | None,
    problems: list[str],
    visit: Visit | None = None,
) -> list[ResolvedModel]:
    """Build, check and describe each network once; no two are in memory at the same time.

    Parameters
    ----------
    visit : callable, optional
        Called with each network before the next is built, unless there are problems. Without it,
        untrained networks are built without memory for weights (torch's meta device).
    """
    described = []
    for i, model in enumerate(study.models):
        started = time.perf_counter()
        built = _build(study, i, problems, skeleton=visit is None)
        if built is None:
            continue
        network, spec = built
        build_s = time.perf_counter() - started
        found: list[str] = []
        measured = _measure(study, network, f"model {model.name}", losses, found)
        found += _problems(study, network, f"model {model.name}", measured, losses, labels)
        problems += found
        if not found:
            described.append(_describe(study, model, network, spec, measured, losses.head))
        if visit is not None and not problems:
            visit(BuiltNetwork(network, described[-1], build_s))
        del network, built  # the next one is built when this one's memory is free
    return described


def _build(
    study: Study, i: int, problems: list[str], skeleton: bool
) -> tuple[VisionModel, ModelSpec] | None:
    model = study.models[i]
    on_meta = skeleton and model.weights == "untrained"
    try:
        with torch.device("meta" if on_meta else "cpu"):
            return _built(model, study)
    except (ValueError, OSError) as error:
        keys = ("checkpoint", "image_size", "weights", "architecture")
        named = next((key for key in keys if key in str(error)), None)
        key = f"models[{i}].{named}" if named else f"models[{i}]"
        value = getattr(model, named) if named else model.name
        problems.append(f"{key}: given {given(value)}; {error}")
        return None


def _built(model: Model, study: Study) -> tuple[VisionModel, ModelSpec]:
    try:
        return models.build(
            model.library,
            model.architecture,
            model.weights,
            model.seed,
            model.image_size,
            study.checkpoint_of(model),
        )
    except (RuntimeError, AssertionError) as error:  # how networks refuse an image's size
        if model.image_size is None:
            raise
        raise ValueError(f"image_size does not fit {model.architecture}: {error}") from error


def layers_of(layers: str | Sequence[str] | Depths, network: VisionModel) -> tuple[Layer, ...]:
    """Return the layers of a network that a study's key `layers` means, in order of execution."""
    if isinstance(layers, Depths):
        return layers_at(network, layers.depths)
    return resolve_layers(network, layers)


def _measure(
    study: Study, network: VisionModel, about: str, losses: Losses, problems: list[str]
) -> _Measured:
    return _Measured(
        layers=_layers(study, network, about, problems),
        objectives=supported_objectives(network, losses.objectives),
        n_channels=_n_channels(study, network, about, problems),
    )


def _layers(
    study: Study, network: VisionModel, about: str, problems: list[str]
) -> list[tuple[Layer, TokenLayout]]:
    """Return the study's layers of a network with the layout of each."""
    try:
        layers = layers_of(study.layers, network)
    except ValueError as error:
        problems += _wrong_names(study, network, about) or [
            f"layers: given {given(study.layers)}; {about}: {error}"
        ]
        return []
    found = []
    for layer in layers:
        try:
            layout = layer_layout(network, layer.name, study.tokens)
        except ValueError as error:
            problems.append(f"tokens: given {given(study.tokens)}; {about}: {error}")
            return []
        width = layout.n_features(study.tokens)
        if study.projection_kind == "pca" and width < (study.projection or 0):
            problems.append(
                f"projection: given {study.projection}; accepted with projection_kind pca for "
                f"{about}: at most {width}, the features of its layer {layer.name}"
            )
            return []
        found.append((layer, layout))
    return found


def _n_channels(study: Study, network: VisionModel, about: str, problems: list[str]) -> int:
    if not network.blocks:
        return 0
    try:
        return layer_layout(network, network.blocks[-1], "mean").n_features("mean")
    except ValueError as error:
        line = f"layers: given {given(study.layers)}; {about}: {error}"
        if line not in problems:  # where its layers were refused for the same reason
            problems.append(line)
        return 0


def _wrong_names(study: Study, network: VisionModel, about: str) -> list[str]:
    """Name each entry of a list of layers that the network does not have."""
    lines = []
    for j, name in enumerate(study.layers if isinstance(study.layers, tuple) else ()):
        try:
            layers_of(name, network)
        except ValueError as error:
            lines.append(f"layers[{j}]: given {given(name)}; {about}: {error}")
    return lines


def _problems(
    study: Study,
    network: VisionModel,
    about: str,
    measured: _Measured,
    losses: Losses,
    labels: Labels | None,
) -> Iterator[str]:
    lacking = set(losses.found) - set(measured.objectives)
    yield from _objective_problems(
        study, f"{about} ({network.architecture})", lacking, ", ".join(measured.objectives)
    )
    yield from _class_problems(study, network, about, labels)
    if losses.head is not None and measured.n_channels:
        yield from _head_problems(study, measured.n_channels, about, losses.head)


def _objective_problems(
    study: Study, about: str, lacking: Set[str], supported: str
) -> Iterator[str]:
    for j, name in enumerate(study.objectives):
        if name.rpartition(":")[2] in lacking:
            yield f"objectives[{j}]: given {given(name)}; accepted for {about}: {supported}"
    for name in study.own_signals:
        if name.rpartition(":")[2] in lacking:
            yield (
                f"signals[{study.signals.index(name)}]: given {given(name)}; {about} lacks what "
                f"its objective needs; accepted: signals of {supported}"
            )


def _class_problems(
    study: Study, network: VisionModel, about: str, labels: Labels | None
) -> Iterator[str]:
    """Refuse true classes that the network's head does not have."""
    if labels is None or not network.n_classes:
        return
    highest = max(labels.classes.values(), default=0)
    if highest >= network.n_classes:
        yield (
            f"labels: given {given(study.labels)}; accepted for {about}: classes from 0 to "
            f"{network.n_classes - 1}, the outputs of its head; the highest is {highest}"
        )


def _head_problems(study: Study, width: int, about: str, head: Head) -> Iterator[str]:
    """Try the study's DINO head on embeddings of a network's width."""
    noise = np.random.default_rng(0).standard_normal((3, width), dtype=np.float32)
    embeddings = torch.from_numpy(noise)
    given_head = f"dino_head: given {given(study.dino_head)}; accepted for {about}: a head "
    if isinstance(head, torch.nn.Module):
        head.eval()
    try:
        with torch.no_grad():
            logits = head(embeddings)
            alone = head(embeddings[:1])
    except (RuntimeError, ValueError) as error:
        yield f"{given_head}that maps embeddings (n, {width}) to logits (n, n_logits); {error}"
        return
    if embeddings._version:
        yield f"{given_head}that does not work in place on the embeddings; copy them first"
    elif logits.ndim != 2 or len(logits) != len(embeddings):
        yield (
            f"{given_head}that maps embeddings (n, {width}) to logits (n, n_logits); of "
            f"(3, {width}) it made {tuple(logits.shape)}"
        )
    elif not bool(logits.isfinite().all()):
        yield f"{given_head}whose logits are finite; of noise they are not"
    elif not torch.allclose(logits[:1], alone, rtol=1e-4, atol=1e-5):
        yield (
            f"{given_head}whose logits of an embedding depend on nothing else in the batch; take "
            "no statistic over the first axis"
        )


def _describe(
    study: Study,
    model: Model,
    network: VisionModel,
    spec: ModelSpec,
    measured: _Measured,
    head: Head | None,
) -> ResolvedModel:
    checkpoint = study.checkpoint_of(model)
    return ResolvedModel(
        name=model.name,
        control=model.control,
        spec=spec,
        layers=tuple((layer.name, layer.depth) for layer, _ in measured.layers),
        widths=tuple(layout.n_features(study.tokens) for _, layout in measured.layers),
        n_channels=measured.n_channels,
        checkpoint=None if checkpoint is None else str(checkpoint),
        n_parameters=sum(p.numel() for p in network.module.parameters()),
        layer_values=tuple(prod(layout.shape) for _, layout in measured.layers),
        baseline_parts=tuple(layer_parts(layout) for _, layout in measured.layers),
        n_classes=network.n_classes,
        n_head=_n_logits(head, measured.n_channels),
    )


def _n_logits(head: Head | None, width: int) -> int:
    """Return the logits that the study's head makes of an embedding; 0 without a head."""
    if head is None:
        return 0
    with torch.no_grad():
        return head(torch.zeros(1, width)).shape[1]
