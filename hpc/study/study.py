"""The study file: what a user writes, validated in full before anything runs.

`load_study` refuses a file with one message that names every problem of its keys and values;
`hpc.study.resolve` then looks for the files, networks and functions that it names. This module
imports nothing slow. `template.yaml` explains every key.
"""

import re
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from gradenc_core.signals.sizes import N_RANDOM_DRAWS
from gradenc_core.spelling import did_you_mean
from gradenc_errors import GradencError
from hpc.config.fields import Count, Name, Positive, Real, Section, Seed, Text, Window, once
from hpc.config.overrides import apply_overrides
from hpc.config.refusals import refusals
from hpc.config.yaml import dump_yaml, read_yaml
from hpc.study.encoding import Encoding
from hpc.study.images import Unrecorded
from hpc.study.readers import BidsResponses, EpochsResponses, Responses

OBJECTIVES = (
    *("classification", "contrastive", "dino", "energy", "masked", "random"),
    *("mismatched_contrastive", "mismatched_dino", "mismatched_energy"),
)
ENTRY_POINTS = "gradenc.objectives"
"""Group of entry points in which an installed package offers objectives."""
SIGNAL_ENTRY_POINTS = "gradenc.signals"
"""Group of entry points in which an installed package offers signals."""
_MODULE_FUNCTION = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")

LADDERS = {
    "ventral": ("V1", "V2", "V3", "V4", "LO", "VO", "PHC", "FFA"),
    "dorsal": ("V1", "V2", "V3", "V3A/B", "IPS0", "IPS1", "IPS2", "IPS3", "IPS4", "IPS5"),
}
"""Default ladders of regions, from the seed region upwards."""


class StudyError(GradencError, ValueError):
    """A study that cannot be run; its message has one line for every problem."""


def _offered(name: str, shipped: Sequence[str], group: str) -> str:
    """Return a name that is shipped, an installed package's, or `module:function`."""
    if name in shipped or _MODULE_FUNCTION.fullmatch(name):
        return name
    known = [*shipped, *sorted(set(entry_points(group=group).names))]  # takes 0.1 s and more
    if name in known:
        return name
    raise ValueError(f"{', '.join(known)}, module:function{did_you_mean(name, known)}")


def _one_of(shipped: Sequence[str], group: str) -> AfterValidator:
    return AfterValidator(lambda name: _offered(name, shipped, group))


Objective = Annotated[str, Field(strict=True), _one_of(OBJECTIVES, ENTRY_POINTS)]
Signal = Annotated[str, Field(strict=True), _one_of(("forward", "gradient"), SIGNAL_ENTRY_POINTS)]


class Model(Section):
    """A vision model."""

    name: Name
    """its name in labels and results: letters, digits, `_`, `.` and `-`"""
    library: Literal["torchvision", "timm", "transformers"]
    """library that builds it: torchvision, timm or transformers"""
    architecture: Text
    """the library's name for it, e.g. resnet18"""
    weights: Literal["pretrained", "checkpoint", "untrained", "shuffled"] = "pretrained"
    """pretrained; checkpoint (a file's); untrained: the published initialisation with every
    LayerScale set to 1; shuffled: the checkpoint's or pretrained ones, permuted in each tensor"""
    checkpoint: Text | None = None
    """file of weights (.safetensors, .pt or .pth), relative to the study file"""
    seed: Seed = 0
    """seed of untrained and shuffled weights"""
    image_size: Count | None = None
    """side of its input in pixels; null: what the weights were trained with"""
    control: Annotated[bool, Field(strict=True)] = False
    """whether it is shown as a control and gives no verdict of its own"""

    @field_validator("checkpoint")
    @classmethod
    def _goes_with_weights(cls, checkpoint: str | None, info: ValidationInfo) -> str | None:
        weights = info.data.get("weights")
        if weights == "checkpoint" and checkpoint is None:
            raise ValueError("a .safetensors, .pt or .pth file, because weights is checkpoint")
        if weights in ("pretrained", "untrained") and checkpoint is not None:
            raise ValueError("a file only where weights is checkpoint or shuffled")
        return checkpoint


class Depths(Section):
    """Layers by relative depth: the blocks nearest to each."""

    depths: Count | tuple[Real, ...]
    """how many depths, evenly spaced from 0 to 1, or a list of depths in (0, 1]"""


class Comparisons(Section):
    """The hierarchy comparisons."""

    search_window: Window = (0.0, 1.0)
    """where MEG peaks are looked for (s from stimulus onset)"""
    ladders: Annotated[dict[Text, tuple[Text, ...]], Field(min_length=1)] = LADDERS
    """orders of regions, lowest first, by name"""
    seed_region: Text = "V1"
    """region that cortical distance is measured from (mm)"""
    significance: Annotated[Positive, Field(lt=1)] = 0.05
    """level of every test"""
    smallest_effect: Annotated[Positive, Field(lt=1)] = 0.5
    """smallest order of interest, as a share of the forward one: backpropagation sweeps as fast"""

    @field_validator("ladders")
    @classmethod
    def _regions_once(cls, ladders: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        for name, regions in ladders.items():
            if len(regions) < 2:
                raise ValueError(f"at least two regions in {name}")
            once(regions, within=name)
        return ladders


class Extraction(Section):
    """How features are stored."""

    stimuli_per_shard: Count = 512
    """stimuli per file and unit of work"""


def _default_objectives(earlier: dict[str, Any]) -> tuple[Objective, ...]:
    """Return a self-supervised loss that every network can run, and its two controls."""
    return ("dino", "random", "mismatched_dino") if "gradient" in earlier["signals"] else ()


def _are_depths(layers: Any) -> bool:
    depths = layers.get("depths") if isinstance(layers, dict) and len(layers) == 1 else None
    if isinstance(depths, list | tuple) and depths:
        return all(type(depth) in (int, float) and 0 < depth <= 1 for depth in depths)
    return type(depths) is int and depths >= 1


class Study(Section):
    """A study: which models, objectives, stimuli and recordings, and how they are compared."""

    name: Name
    """the study's name: letters, digits, `_`, `.` and `-`"""
    seed: Seed = 0
    """seed of everything random but untrained weights"""
    stimuli: Text
    """folder of images, relative to the study file"""
    unrecorded_images: Unrecorded = None
    """images that no subject saw, for what must not depend on responses: a folder, or {generated:
    N}; null: the stimuli take their place"""
    models: Annotated[tuple[Model, ...], Field(min_length=1)]
    """a list of models, each with name, library and architecture"""
    layers: Literal["blocks"] | Depths | tuple[Text, ...] = "blocks"
    """blocks, a list of names of modules and globs over them, or depths"""
    tokens: Literal["cls", "registers", "patches", "mean", "all"] = "mean"
    """which tokens become features: cls, registers, patches, mean (of the patches), or all"""
    signals: tuple[Signal, ...] = ("forward", "gradient")
    """forward, gradient, and a lab's own as module:function; forward is needed"""
    objectives: tuple[Objective, ...] = Field(default_factory=_default_objectives)
    """losses whose gradients are taken: shipped ones, or a lab's own as module:function"""
    random_draws: Annotated[Count, Field(le=N_RANDOM_DRAWS)] = 3
    """linear functionals that `random` stands for; each costs as much as another objective"""
    bank: Text | None = None
    """folder of images that objectives compare with; null: 1,024 generated ones"""
    dino_head: Text | None = None
    """the model's own DINO head: module:function or a safetensors file; null: prototypes"""
    labels: Text | None = None
    """CSV of stimulus,label: true classes for classification; null: the model's own argmax"""
    categories: Text | None = None
    """CSV of stimulus,category, which encoding.fold_rule spreads over folds or keeps together"""
    gradient_scale: Literal["unit", "raw", "norm_only"] = "unit"
    """unit: divided by each stimulus's norm, its logarithm kept; raw; or norm_only (a control)"""
    projection: Count | None = 1024
    """dimensions of the seeded projection of a layer's features, or none: each as wide as it is"""
    projection_kind: Literal["random", "pca"] = "random"
    """random (sparse, seeded), or pca: components of each layer, fitted on some of the stimuli"""
    precision: Literal["float32", "bf16"] = "float32"
    """float32, or bf16: the network in bfloat16; its error is measured (stability)"""
    responses: Annotated[tuple[Responses, ...], Field(min_length=1)]
    """a list of folders of recordings, each with reader and path"""
    encoding: Encoding = Encoding()
    """ridge regression and its resampling"""
    comparisons: Comparisons = Comparisons()
    """the hierarchy comparisons"""
    extraction: Extraction = Extraction()
    """how features are stored"""
    store_root: Text | None = None
    """folder of stores that studies share, relative to the study file; null: inside the run"""
    paths_from: Text | None = None
    """folder that relative paths and own modules count from; null: the study file's"""

    _file: Path = PrivateAttr(default=Path("study.yaml"))

    @property
    def folder(self) -> Path:
        """Folder that the study's paths are relative to."""
        return self._file.parent / (self.paths_from or "")

    @property
    def digest_folders(self) -> list[Path]:
        """Folders that keep digests of the study's files, the one to write to last.

        It is the store root, once there is one, for every study that uses it; before that, the
        study's own. (A root that were made here would not be shared with its group.)
        """
        folders = [self.folder]
        if self.store_root and (self.folder / self.store_root).is_dir():
            folders.append(self.folder / self.store_root)
        return folders

    def checkpoint_of(self, model: Model) -> Path | None:
        """Return the absolute path of a model's file of weights."""
        return None if model.checkpoint is None else (self.folder / model.checkpoint).resolve()

    @property
    def own_signals(self) -> tuple[str, ...]:
        """The lab's own entries of `signals`."""
        return tuple(name for name in self.signals if name not in ("forward", "gradient"))

    @field_validator("layers", mode="before")
    @classmethod
    def _blocks_names_or_depths(cls, layers: Any) -> Any:
        names = list(layers) if isinstance(layers, list | tuple) else []
        named = names and all(isinstance(n, str) and n for n in names)
        if layers == "blocks" or named or isinstance(layers, Depths) or _are_depths(layers):
            return layers
        hint = did_you_mean(layers, ["blocks"])
        raise ValueError(
            "blocks, a list of names of modules and globs, or {depths: N}, N how many or a list of "
            f"depths in (0, 1]{hint}"
        )

    @field_validator("projection", mode="before")
    @classmethod
    def _number_or_none(cls, projection: Any) -> Any:
        if isinstance(projection, str) and projection != "none":
            raise ValueError("a whole number, or none")
        return None if projection == "none" else projection

    @field_validator("projection_kind")
    @classmethod
    def _goes_with_projection(cls, kind: str, info: ValidationInfo) -> str:
        if kind == "pca" and info.data.get("projection", 1) is None:
            raise ValueError("random, or a number of dimensions in projection")
        return kind

    @field_validator("models")
    @classmethod
    def _names_once(cls, models: tuple[Model, ...]) -> tuple[Model, ...]:
        once([model.name for model in models], within="name")
        return models

    @field_validator("signals")
    @classmethod
    def _with_forward(cls, signals: tuple[str, ...]) -> tuple[str, ...]:
        if "forward" not in signals:
            raise ValueError("a list with forward, which every comparison needs")
        once([name.rpartition(":")[2] for name in signals])
        return signals

    @field_validator("objectives")
    @classmethod
    def _go_with_gradient(cls, names: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        gradient = "gradient" in info.data.get("signals", ["gradient"] if names else [])
        if gradient and not names:
            raise ValueError("at least one objective, because signals has gradient")
        if names and not gradient:
            raise ValueError("no objectives, or gradient among the signals")
        own = [n for n in info.data.get("signals", ()) if n not in ("forward", "gradient")]
        once([name.rpartition(":")[2] for name in (*names, *own)], within="objectives and signals")
        return names

    @field_validator("dino_head")
    @classmethod
    def _goes_with_dino(cls, head: str | None, info: ValidationInfo) -> str | None:
        if head is not None and "dino" not in info.data.get("objectives", ["dino"]):
            raise ValueError("no head, or dino among the objectives")
        return head

    @field_validator("responses")
    @classmethod
    def _recorded_once(
        cls, responses: tuple[BidsResponses | EpochsResponses, ...]
    ) -> tuple[BidsResponses | EpochsResponses, ...]:
        for reader in ("bids", "epochs"):
            once([s for r in responses if r.reader == reader for s in r.subjects or ()], reader)
        return responses


def load_study(path: Path, overrides: Sequence[str] = ()) -> Study:
    """Read, override and validate a study file.

    Parameters
    ----------
    overrides : sequence of str
        Changes of single keys, as in `encoding.folds=4` or `models[0].seed=3`.

    Raises
    ------
    StudyError
        With a line for every problem: file or override, key, value, what is accepted.
    """
    try:
        data, applied, problems = apply_overrides(read_yaml(path), overrides, _DEFAULTS)
    except ValueError as error:
        raise StudyError(str(error)) from error
    try:
        study = Study.model_validate(data)
    except ValidationError as error:
        problems += refusals(error, Study, data, str(path), applied)
    if problems:
        raise StudyError("\n".join(problems))
    study._file = path.absolute()
    return study


def dump_study(study: Study) -> str:
    """Return the study as canonical YAML: every key, in the order of the models."""
    return dump_yaml(study.model_dump(mode="json"))


def anchored(study: Study) -> Study:
    """Return the study with the folder that its paths count from written into it.

    A copy of its file means the same study wherever it lies.
    """
    return study.model_copy(update={"paths_from": str(study.folder.absolute())})


_DEFAULTS = {
    name: field.default.model_dump(mode="json")
    for name, field in Study.model_fields.items()
    if isinstance(field.default, BaseModel)
}
