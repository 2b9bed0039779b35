"""A resolved study: its files, networks and functions as `hpc.study.resolve` finds them here.

`resolved.json` in the run folder keeps it, and later stages are planned from that file. This module
imports nothing slow.
"""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from gradenc_core.recordings.repeats import ResponseDescription
from gradenc_core.signals.sizes import BASELINE, Parts
from hpc.study.study import Study
from jobs.spec import BankImages, GeneratedImages, ModelSpec, PluginSpec, SignalSpec
from storage_schemas.files import replace
from storage_schemas.identity import canonical_json


class ResolvedModel(BaseModel):
    """A model of the study with its layers found."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    control: bool
    spec: ModelSpec
    layers: tuple[tuple[str, float], ...]
    widths: tuple[int, ...]
    """Features of each layer before projection."""
    n_channels: int
    """Channels of the last block, which objectives read."""
    baseline_parts: tuple[Parts, ...]
    """Columns of each layer in the baseline."""
    n_classes: int
    """Outputs of its own classifier; 0 without one."""
    n_head: int
    """Outputs of the study's head for `dino`; 0 without one."""
    checkpoint: str | None = None
    """Absolute path of its file of weights."""
    n_parameters: int
    """Parameters of the whole network."""
    layer_values: tuple[int, ...]
    """Values of each layer's whole output for one image."""


class ResolvedSource(BaseModel):
    """The parts of a gradient source's loss and where their files lie."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    needs_bank: bool
    plugin: PluginSpec | None
    head: PluginSpec | None
    signal: PluginSpec | None = None
    labels: str | None = None
    """sha256 of the study's file of true classes, where the objective takes them."""
    locations: dict[str, str]
    """Absolute paths of the bank (`bank`), the plug-in (`objective`), the head (`head`), the signal
    (`signal`) and the true classes (`labels`)."""


class UnrecordedImages(BaseModel):
    """Images that no subject was shown."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ids: tuple[str, ...]
    digests: tuple[str, ...]
    folder: str | None = None
    """Absolute path of their folder; None for generated images."""
    generated: GeneratedImages | None = None
    """How they are drawn; None for images of a folder."""
    n_recorded: int = 0
    """Images of the folder that are left out, because a subject was shown them."""


class Resolved(BaseModel):
    """A study with its files, networks and functions found; written once into the run folder."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    study: dict[str, JsonValue]
    stimuli: str
    """Absolute path of the stimulus folder."""
    stimulus_ids: tuple[str, ...]
    stimulus_digests: tuple[str, ...]
    unrecorded: UnrecordedImages | None = None
    categories: tuple[str, ...] | None = None
    """Category of each stimulus; None where folds know no categories."""
    models: tuple[ResolvedModel, ...]
    gradients: dict[str, ResolvedSource]
    """By gradient source, in the study's order."""
    bank: BankImages
    bank_folder: str | None = None
    """Absolute path of the bank's folder; None for generated images."""
    class_images: BankImages
    """The first images of the bank, on which gradients are classed."""
    scale_images: BankImages
    """Those over which channels are scaled."""

    @property
    def sources(self) -> tuple[str, ...]:
        """The study's sources; `random` stands for one source per draw."""
        return ("forward", *self.gradients)

    @property
    def extracted(self) -> tuple[str, ...]:
        """The sources of which features are made: the baseline too, where gradients are judged."""
        return (*self.sources, BASELINE) if self.gradients else self.sources

    def write(self, path: Path) -> None:
        """Write atomically."""
        replace(path, canonical_json(self.model_dump(mode="json")))

    @classmethod
    def read(cls, path: Path) -> "Resolved":
        """Read what `write` wrote.

        Raises
        ------
        ValueError
            If it is damaged or another version's.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise ValueError(
                f"{path} is damaged or another version's; submit the study into a new run (--run), "
                "which reuses what it has in common with this one"
            ) from error


class Subject(BaseModel):
    """One subject's recordings in one modality, as described by their reader."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    reader: str
    options: dict[str, JsonValue]
    folder: Path
    description: ResponseDescription

    @property
    def ceiling(self) -> dict[str, JsonValue] | None:
        """Recipe of the data's owners for the noise ceiling."""
        recipe = self.options.get("ceiling")
        assert recipe is None or isinstance(recipe, dict)
        return recipe


def signal_spec(study: Study, model: ResolvedModel, source: str) -> SignalSpec:
    """Return how features of `source` are made from the model's layers.

    The baseline has tokens and a width of its own, whatever the study's other features have.
    """
    if source == BASELINE:
        return SignalSpec(
            layers=model.layers,
            tokens="mean",
            projection=None,
            projection_kind="random",
            seed=study.seed,
            precision=study.precision,
            gradient_scale=None,
        )
    return SignalSpec(
        layers=model.layers,
        tokens=study.tokens,
        projection=study.projection,
        projection_kind=study.projection_kind,
        seed=study.seed,
        precision=study.precision,
        gradient_scale=None if source == "forward" else study.gradient_scale,
    )
