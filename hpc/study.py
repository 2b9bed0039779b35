"""The study file: what a user writes, validated in full before anything runs.

`load_study` refuses a file with one message that names every problem; `hpc.checks` looks for what
it names. `study_template.yaml` explains every key.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from hpc.objective_names import Objective
from hpc.overrides import (
    apply_overrides,
    did_you_mean,
    dump_yaml,
    read_yaml,
    refusals,
)

Text = Annotated[str, Field(strict=True, min_length=1)]
Name = Annotated[Text, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
Real = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Positive = Annotated[Real, Field(gt=0)]
Seed = Annotated[int, Field(strict=True, ge=0)]
Count = Annotated[int, Field(strict=True, ge=1)]

LADDERS = {
    "ventral": ("V1", "V2", "V3", "V4", "LO", "VO", "PHC", "FFA"),
    "dorsal": ("V1", "V2", "V3", "V3A/B", "IPS0", "IPS1", "IPS2", "IPS3", "IPS4", "IPS5"),
}
"""Default ladders of regions, from the seed region upwards."""


class StudyError(ValueError):
    """A study that cannot be run; its message has one line for every problem."""


Values = TypeVar("Values", bound=Sequence[Any])


def _once(values: Values, within: str = "the list") -> Values:
    """Return `values`, or refuse those that are given twice."""
    twice = sorted(str(value) for value, n in Counter(values).items() if n > 1)
    if twice:
        raise ValueError(f"every entry of {within} once (twice: {', '.join(twice)})")
    return values


def _above(value: float, info: ValidationInfo, lower: str) -> float:
    """Return `value`, or refuse one that is not above the key `lower`, where that is valid."""
    if value <= info.data.get(lower, float("-inf")):
        raise ValueError(f"more than {lower} ({info.data[lower]:g})")
    return value


class _Section(BaseModel):
    """Base of all parts of a study: frozen, refuses unknown keys, keys described by docstrings."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=True
    )


class Model(_Section):
    """A vision model."""

    name: Name
    """its name in labels and results: letters, digits, `_`, `.` and `-`"""
    library: Literal["torchvision", "timm"]
    """library that builds it: torchvision or timm"""
    architecture: Text
    """the library's name for it, e.g. resnet18"""
    weights: Literal["pretrained", "untrained"] = "pretrained"
    """pretrained, or untrained: the published initialisation with every LayerScale set to 1"""
    seed: Seed = 0
    """seed of untrained weights"""
    image_size: Count | None = None
    """side of its input in pixels; null: what the weights were trained with"""
    control: Annotated[bool, Field(strict=True)] = False
    """whether it is shown as a control and gives no verdict of its own"""


class _Responses(_Section):
    path: Text
    """folder of the recordings, relative to the study file"""
    subjects: Annotated[tuple[Text, ...], Field(min_length=1)] | None = None
    """subjects to read; null: all that the folder has"""
    normalise: Literal["session", "none"] = "session"
    """session: z-score every target within each session; none: as recorded"""

    @field_validator("subjects")
    @classmethod
    def _subjects_once(cls, subjects: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return None if subjects is None else _once(subjects)


class BidsResponses(_Responses):
    """fMRI: single-trial betas in a BIDS-like folder."""

    reader: Literal["bids"]
    """bids"""
    sessions: Annotated[tuple[Text, ...], Field(min_length=1)] | None = None
    """sessions to read, such as [ses-01]; null: all"""
    rois: Annotated[tuple[Text, ...], Field(min_length=1)] | None = None
    """regions to read; null: all that the label volume names"""


class EpochsResponses(_Responses):
    """MEG: one file of epochs per subject."""

    reader: Literal["epochs"]
    """epochs"""
    picks: Literal["meg", "mag", "grad"] = "meg"
    """which sensors are targets: all of meg, or its mag or grad alone"""
    tmin: Real | None = None
    """first time to read (s from stimulus onset); null: the file's"""
    tmax: Real | None = None
    """last time to read (s from stimulus onset); null: the file's"""

    @field_validator("tmax")
    @classmethod
    def _after_tmin(cls, tmax: float | None, info: ValidationInfo) -> float | None:
        tmin = info.data.get("tmin")
        if tmax is not None and tmin is not None and tmax <= tmin:
            raise ValueError(f"more than tmin ({tmin} s)")
        return tmax


Responses = Annotated[BidsResponses | EpochsResponses, Field(discriminator="reader")]


class Alphas(_Section):
    """Grid of ridge penalties, spaced evenly in the logarithm."""

    low: Positive = 1.0
    """smallest penalty"""
    high: Positive = 1.0e8
    """largest penalty"""
    count: Annotated[Count, Field(ge=2)] = 10
    """number of penalties"""

    @field_validator("high")
    @classmethod
    def _above_low(cls, high: float, info: ValidationInfo) -> float:
        return _above(high, info, "low")


class Windows(_Section):
    """Sliding windows of MEG whose mean is tested; s from stimulus onset."""

    start: Real = 0.0
    """start of the first window (s)"""
    stop: Real = 1.0
    """no window ends later than this (s)"""
    width: Positive = 0.05
    """width of a window (s)"""
    step: Positive = 0.025
    """from one window's start to the next one's (s)"""

    @field_validator("stop")
    @classmethod
    def _after_start(cls, stop: float, info: ValidationInfo) -> float:
        return _above(stop, info, "start")

    @field_validator("width")
    @classmethod
    def _fits(cls, width: float, info: ValidationInfo) -> float:
        if {"start", "stop"} <= info.data.keys():
            room = info.data["stop"] - info.data["start"]
            if width > room * (1 + 1e-9):
                raise ValueError(f"at most stop - start ({room:g} s)")
        return width


class Encoding(_Section):
    """Ridge regression from features to responses, and its resampling."""

    folds: Annotated[Count, Field(ge=3)] = 5
    """outer folds that score; the penalty is chosen in the others"""
    alphas: Alphas = Alphas()
    """grid of penalties"""
    alpha_choice: Literal["kfold", "gcv", "loo"] = "kfold"
    """how a target's penalty is chosen in the training set: kfold (the other folds), gcv or loo"""
    forward_all: Count = 1024
    """dimensions of the joint projection of all layers' forward features"""
    band_ratios: Annotated[tuple[Annotated[Real, Field(ge=0)], ...], Field(min_length=2)] = (
        0.0,
        0.01,
        0.1,
        1.0,
        10.0,
        100.0,
    )
    """scales of the gradient band beside the forward band; 0 switches it off and is required"""
    blocks: Annotated[Count, Field(ge=2)] = 20
    """blocks of stimuli per fold, which the bootstrap resamples"""
    bootstrap: Count = 200
    """bootstrap replicates over blocks of stimuli"""
    permutations: Count = 1000
    """permutations of stimuli before fitting"""
    windows: Windows = Windows()
    """MEG windows for inference"""

    @field_validator("band_ratios")
    @classmethod
    def _can_be_off(cls, ratios: tuple[float, ...]) -> tuple[float, ...]:
        if 0 not in ratios:
            raise ValueError("a list with 0, so that the gradient band can be switched off")
        return _once(ratios)


class Comparisons(_Section):
    """The hierarchy comparisons."""

    search_window: tuple[Real, Real] = (0.0, 1.0)
    """where MEG peaks are looked for (s from stimulus onset)"""
    ladders: Annotated[dict[Text, tuple[Text, ...]], Field(min_length=1)] = LADDERS
    """orders of regions, lowest first, by name"""
    seed_region: Text = "V1"
    """region that cortical distance is measured from (mm)"""
    significance: Annotated[Positive, Field(lt=1)] = 0.05
    """level of every test"""
    smallest_effect: Annotated[Positive, Field(lt=1)] = 0.5
    """a gradient's order departs where its score is below this share of the forward score"""

    @field_validator("search_window")
    @classmethod
    def _not_empty(cls, window: tuple[float, float]) -> tuple[float, float]:
        if window[1] <= window[0]:
            raise ValueError("[start, stop] with start < stop (s)")
        return window

    @field_validator("ladders")
    @classmethod
    def _regions_once(cls, ladders: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        for name, regions in ladders.items():
            if len(regions) < 2:
                raise ValueError(f"at least two regions in {name}")
            _once(regions, within=name)
        return ladders


class Extraction(_Section):
    """How features are stored."""

    stimuli_per_shard: Count = 512
    """stimuli per file and unit of work"""


def _default_objectives(earlier: dict[str, Any]) -> tuple[Objective, ...]:
    return ("energy",) if "gradient" in earlier["signals"] else ()


class Study(_Section):
    """A study: which models, objectives, stimuli and recordings, and how they are compared."""

    name: Name
    """the study's name: letters, digits, `_`, `.` and `-`"""
    seed: Seed = 0
    """seed of everything random but untrained weights"""
    stimuli: Text
    """folder of images, relative to the study file"""
    models: Annotated[tuple[Model, ...], Field(min_length=1)]
    """a list of models, each with name, library and architecture"""
    layers: Literal["blocks"] | tuple[Text, ...] = "blocks"
    """blocks, or a list of names of modules and globs over them"""
    tokens: Literal["cls", "registers", "patches", "mean"] = "mean"
    """which tokens become features: cls, registers, patches, or mean (of the patches)"""
    signals: tuple[Literal["forward", "gradient"], ...] = ("forward", "gradient")
    """forward alone, or forward and gradient"""
    objectives: tuple[Objective, ...] = Field(default_factory=_default_objectives)
    """losses whose gradients are taken: shipped ones, or a lab's own as module:function"""
    bank: Text | None = None
    """folder of images that objectives compare with; null: 1,024 generated ones"""
    dino_head: Text | None = None
    """the model's own DINO head: module:function or a safetensors file; null: prototypes"""
    gradient_scale: Literal["unit", "raw", "norm_only"] = "unit"
    """unit: divided by each stimulus's norm, its logarithm kept; raw; or norm_only (a control)"""
    projection: Count = 1024
    """dimensions of the seeded projection of a layer's features"""
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

    _file: Path = PrivateAttr(default=Path("study.yaml"))

    @property
    def folder(self) -> Path:
        """Folder of the study file, which its paths are relative to."""
        return self._file.parent

    @field_validator("layers", mode="before")
    @classmethod
    def _blocks_or_names(cls, layers: Any) -> Any:
        names = list(layers) if isinstance(layers, list | tuple) else []
        if layers == "blocks" or (names and all(isinstance(n, str) and n for n in names)):
            return layers
        hint = did_you_mean(layers, ["blocks"])
        raise ValueError(f"blocks, or a list of names of modules and globs{hint}")

    @field_validator("models")
    @classmethod
    def _names_once(cls, models: tuple[Model, ...]) -> tuple[Model, ...]:
        _once([model.name for model in models], within="name")
        return models

    @field_validator("signals")
    @classmethod
    def _with_forward(cls, signals: tuple[str, ...]) -> tuple[str, ...]:
        if "forward" not in signals:
            raise ValueError("a list with forward, which every comparison needs")
        return _once(signals)

    @field_validator("objectives")
    @classmethod
    def _go_with_gradient(cls, names: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        gradient = "gradient" in info.data.get("signals", ["gradient"] if names else [])
        if gradient and not names:
            raise ValueError("at least one objective, because signals has gradient")
        if names and not gradient:
            raise ValueError("no objectives, or gradient among the signals")
        _once([name.rpartition(":")[2] for name in names], within="objectives")
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
            _once([s for r in responses if r.reader == reader for s in r.subjects or ()], reader)
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


_DEFAULTS = {
    name: field.default.model_dump(mode="json")
    for name, field in Study.model_fields.items()
    if isinstance(field.default, BaseModel)
}
