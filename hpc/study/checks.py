"""What a study names, looked for before anything runs: folders, subjects, models, layers."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch

from gradenc_core.models.model import VisionModel, load_model
from gradenc_core.models.tokens import layer_layout
from gradenc_core.recordings import bids, epochs
from gradenc_core.signals.conformance import check_objective
from gradenc_core.signals.objectives import Objective, supported_objectives
from gradenc_core.signals.readout import Head
from gradenc_core.signals.sizes import N_PROTOTYPES
from gradenc_core.spelling import did_you_mean
from gradenc_core.stimuli.classes import read_labels
from gradenc_core.stimuli.images import read_manifest
from hpc.config.phrases import given
from hpc.study.plugins import (
    Found,
    all_objectives,
    find_objective,
    find_signal,
    find_sources,
    loaded_head,
)
from hpc.study.resolve import layers_of
from hpc.study.study import BidsResponses, EpochsResponses, Model, Study, StudyError


def _refuse(study: Study, problems: Iterable[str]) -> None:
    lines = [f"{study._file}: {problem}" for problem in problems]
    if lines:
        raise StudyError("\n".join(lines))


def check_paths(study: Study) -> None:
    """Refuse a study whose folders of stimuli, recordings or subjects are missing.

    Raises
    ------
    StudyError
        With a line for every path that is missing.
    """
    problems = list(_missing_folder(study, "stimuli", study.stimuli, "a folder of images"))
    if study.bank is not None:
        problems += _bank_problems(study, study.bank)
    if study.labels is not None:
        problems += _label_problems(study, study.labels)
    for i, responses in enumerate(study.responses):
        key = f"responses[{i}].path"
        missing = list(_missing_folder(study, key, responses.path, "a folder of recordings"))
        problems += missing or _missing_subjects(study, i, responses)
    _refuse(study, problems)


def _bank_problems(study: Study, path: str) -> list[str]:
    missing = list(_missing_folder(study, "bank", path, "a folder of images"))
    if missing:
        return missing
    try:
        n_images = len(read_manifest(study.folder / path).digests)
    except ValueError as error:
        return [f"bank: given {given(path)}; {error}"]
    if n_images >= N_PROTOTYPES:
        return []
    return [
        f"bank: given {given(path)}; accepted: at least {N_PROTOTYPES} distinct images, as many as "
        f"there are prototypes; it holds {n_images}"
    ]


def _label_problems(study: Study, path: str) -> Iterator[str]:
    try:
        read_labels(study.folder / path)
    except (ValueError, OSError) as error:
        yield f"labels: given {given(path)}; {error}"


def _missing_folder(study: Study, key: str, path: str, what: str) -> Iterator[str]:
    folder = study.folder / path
    if not folder.is_dir():
        siblings = folder.parent.iterdir() if folder.parent.is_dir() else []
        near = did_you_mean(folder.name, [p.name for p in siblings if p.is_dir()])
        yield f"{key}: given {given(path)}; accepted: {what}; there is none at {folder}{near}"


def _missing_subjects(
    study: Study, i: int, responses: BidsResponses | EpochsResponses
) -> Iterator[str]:
    reader = {"bids": bids, "epochs": epochs}[responses.reader]
    try:
        found = reader.list_subjects(study.folder / responses.path)
    except FileNotFoundError as error:
        yield f"responses[{i}].path: given {given(responses.path)}; {error}"
        return
    for j, subject in enumerate(responses.subjects or ()):
        if subject not in found:
            yield (
                f"responses[{i}].subjects[{j}]: given {given(subject)}; accepted: "
                f"{', '.join(found)}{did_you_mean(subject, found)}"
            )


def check_objectives(study: Study) -> None:
    """Run the conformance test on every objective and signal of the user's own.

    Raises
    ------
    StudyError
        With a line for every objective that is missing or does not conform, and for a missing head.
    """
    _refuse(study, _plugin_problems(study))


def _plugin_problems(study: Study) -> Iterator[str]:
    problems = list(_nonconforming(study))
    yield from problems
    if study.labels is not None and not problems and not _takes_labels(study):
        yield (
            f"labels: given {given(study.labels)}; accepted: none, or classification (or one of "
            "your own that declares labels) among the objectives"
        )
    try:
        loaded_head(study)
    except ValueError as error:
        yield f"dino_head: given {given(study.dino_head)}; {error}"


def _nonconforming(study: Study) -> Iterator[str]:
    """Name the user's own objectives, then signals, that are missing or do not conform."""
    objectives: dict[str, Found] = {}
    for j, name in enumerate(study.objectives):
        try:
            found = find_objective(study, name)
            objectives[found.objective.name] = found
            if found.plugin is not None:
                check_objective(found.objective)
        except ValueError as error:
            yield f"objectives[{j}]: given {given(name)}; {error}"
    for name in study.own_signals:
        try:
            check_objective(find_signal(study, name, objectives).objective)
        except ValueError as error:
            yield f"signals[{study.signals.index(name)}]: given {given(name)}; {error}"


def _takes_labels(study: Study) -> bool:
    found = find_sources(study).values()
    return any("labels" in f.objective.needs for f in found)


def check_models(study: Study) -> None:
    """Build every model and refuse layers, tokens, objectives and heads that do not fit one.

    Untrained models are built without memory for weights (torch's meta device).

    Raises
    ------
    StudyError
        With a line for every problem of every model.
    """
    objectives = all_objectives(find_sources(study))
    head = loaded_head(study)
    problems: list[str] = []
    for i in range(len(study.models)):
        problems += _model_problems(study, i, objectives, head)
    _refuse(study, problems)


def _model_problems(
    study: Study, i: int, objectives: Mapping[str, Objective], head: Head | None
) -> Iterator[str]:
    spec = study.models[i]
    try:
        model = _build(spec, study.checkpoint_of(spec))
    except (ValueError, OSError) as error:
        keys = ("checkpoint", "image_size", "weights", "architecture")
        named = [k for k in keys if k in str(error)]
        key = ".".join([f"models[{i}]", *named[:1]])
        yield f"{key}: given {given(getattr(spec, named[0])) if named else spec.name}; {error}"
        return
    about = f"model {spec.name}"
    yield from _layer_problems(study, model, about)
    yield from _objective_problems(study, model, about, objectives)
    yield from _class_problems(study, model, about)
    if head is not None:
        yield from _head_problems(study, model, about, head)


def _build(spec: Model, checkpoint: Path | None) -> VisionModel:
    size = spec.image_size
    with torch.device("meta" if spec.weights == "untrained" else "cpu"):
        try:
            return load_model(
                spec.library,
                spec.architecture,
                spec.weights,
                spec.seed,
                image_size=size,
                checkpoint=checkpoint,
            )
        except (RuntimeError, AssertionError) as error:  # how networks refuse an image's size
            if size is None:
                raise
            raise ValueError(f"image_size does not fit {spec.architecture}: {error}") from error


def _layer_problems(study: Study, model: VisionModel, about: str) -> Iterator[str]:
    names = []
    listed = isinstance(study.layers, tuple)
    for j, layers in enumerate(study.layers if listed else [study.layers]):
        try:
            names += [layer.name for layer in layers_of(layers, model)]
        except ValueError as error:
            key = f"layers[{j}]" if listed else "layers"
            yield f"{key}: given {given(layers)}; {about}: {error}"
    for name in names:
        try:
            width = layer_layout(model, name, study.tokens).n_features(study.tokens)
        except ValueError as error:
            yield f"tokens: given {given(study.tokens)}; {about}: {error}"
            return
        if study.projection_kind == "pca" and width < (study.projection or 0):
            yield (
                f"projection: given {study.projection}; accepted with projection_kind pca for "
                f"{about}: at most {width}, the features of its layer {name}"
            )
            return


def _objective_problems(
    study: Study, model: VisionModel, about: str, objectives: Mapping[str, Objective]
) -> Iterator[str]:
    supported = supported_objectives(model, objectives)
    for j, name in enumerate(study.objectives):
        if name.rpartition(":")[2] not in supported:
            yield (
                f"objectives[{j}]: given {given(name)}; accepted for {about} "
                f"({model.architecture}): {', '.join(supported)}"
            )
    for name in study.own_signals:
        if name.rpartition(":")[2] not in supported:
            yield (
                f"signals[{study.signals.index(name)}]: given {given(name)}; {about} "
                f"({model.architecture}) lacks what its objective needs; accepted: signals of "
                f"{', '.join(supported)}"
            )


def _class_problems(study: Study, model: VisionModel, about: str) -> Iterator[str]:
    """Refuse true classes that the model's head does not have."""
    if study.labels is None or not model.n_classes:
        return
    highest = max(read_labels(study.folder / study.labels).values(), default=0)
    if highest >= model.n_classes:
        yield (
            f"labels: given {given(study.labels)}; accepted for {about}: classes from 0 to "
            f"{model.n_classes - 1}, the outputs of its head; the highest is {highest}"
        )


def _head_problems(study: Study, model: VisionModel, about: str, head: Head) -> Iterator[str]:
    """Try the head on embeddings of the model's width."""
    width = layer_layout(model, model.blocks[-1], "mean").n_features("mean")
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
