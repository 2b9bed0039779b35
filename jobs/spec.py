"""The specification of every kind of store: all that determines its bytes, hashed as its identity.

How a unit runs (micro-batch, workers, memory) is in the profile and never here. Inputs enter by the
digest of their content, earlier stages by a `Reference` that carries the digest of their seal.
"""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, JsonValue

from gradenc_core.models.preprocessing import Preprocessing
from gradenc_core.ridge.options import RidgeOptions
from gradenc_core.signals.sizes import BANK_IMAGE_SIZE, BANK_SEED
from gradenc_errors import GradencError, Remedy
from storage_schemas.protocol.store import Store
from storage_schemas.sources import CONTROLS, source_of

Kind = Literal[
    "prepared",
    "bank",
    "pca",
    "classes",
    "scales",
    "responses",
    "features",
    "stability",
    "collinearity",
    "scores",
    "comparisons",
    "drill",
]

STAGES: dict[str, tuple[str, ...]] = {
    "prepare": (),
    "ingest": (),
    "extract": ("prepare",),
    "encode": ("extract", "ingest"),
    "compare": ("encode",),
}
"""The stages in the order in which a run reports them, with what each waits for."""


SAME_LAYER = "forward+"
"""Prefix of a gradient source in the name of bands: one layer's activations and its gradient."""


class Spec(BaseModel):
    """Base of all specifications: frozen, and refuses unknown fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def canonical(self) -> dict[str, JsonValue]:
        """Return the plain JSON form that is hashed and stored."""
        return self.model_dump(mode="json")


class Unsealed(GradencError, ValueError):
    """A store of an earlier stage is not sealed as it was when this one was planned."""

    remedy = Remedy.RESUME


class Reference(Spec):
    """A sealed store of an earlier stage: what it is, and the digest of its seal."""

    stage: str
    identity: str
    seal: str

    @classmethod
    def of(cls, store: Store) -> "Reference | None":
        """Return the reference to a store, or None if it is not sealed."""
        seal = store.sealed()
        if seal is None:
            return None
        stage = store.path.parent.name
        return cls(stage=stage, identity=store.identity, seal=seal.digest)

    def open(self, root: Path) -> Store:
        """Open the store, refusing one that is not sealed as this reference says."""
        store = Store.find(root, self.stage, self.identity)
        seal = store.sealed()
        if seal is None or seal.digest != self.seal:
            raise Unsealed(
                f"{store.path} is not sealed with the digest {self.seal[:12]} that this unit was "
                "planned with, so it must be planned again"
            )
        return store


class ModelSpec(Spec):
    """A vision model: where it comes from, its weights and its input size (pixels).

    A checkpoint is identified by its tensors (`weights_digest`); a store's locations have its path.

    A library decides which weights and which preprocessing a name stands for, and its next version
    may decide differently. Both are therefore here as they were when the study was planned.
    """

    library: Literal["torchvision", "timm", "transformers"]
    architecture: str
    weights: Literal["pretrained", "checkpoint", "untrained", "shuffled"]
    weights_digest: str | None
    """None if untrained: the seed determines the weights, but for last bits that processors round
    differently."""
    seed: int
    image_size: int | None
    preprocessing: Preprocessing


class SignalSpec(Spec):
    """How a layer's activation or gradient becomes a row of features."""

    layers: tuple[tuple[str, float], ...]
    """Module names in network order, with their relative depth: i/N for block i of N."""
    tokens: Literal["cls", "registers", "patches", "mean", "all"]
    projection: int | None
    """None: every layer as wide as it is."""
    projection_kind: Literal["random", "pca"]
    seed: int
    precision: Literal["float32", "bf16"]
    gradient_scale: Literal["unit", "raw", "norm_only"] | None
    """None for the forward signal, which has no scale option."""


class PreparedSpec(Spec):
    """The digest of a model's weights."""

    model: ModelSpec


class BankImages(Spec):
    """The images of a reference bank: a folder's, or the shipped generator's fixed ones."""

    manifest: str | None = None
    """Digest of the folder's content digests, in order; None for generated images."""
    n_images: int
    size: int = BANK_IMAGE_SIZE
    """Side of generated images (pixels)."""
    seed: int = BANK_SEED
    """Seed of generated images."""


class BankSpec(Spec):
    """A model's reference bank and its prototypes."""

    model: ModelSpec
    images: BankImages
    prototypes: int
    seed: int
    """Seed of the first guess of the prototypes."""


class PluginSpec(Spec):
    """A user's own objective, signal, or head for `dino`."""

    name: str
    entry: str
    """`module:function`, or `checkpoint`."""
    digest: str
    """sha256 of the module's file, or of the checkpoint."""


class ObjectiveSpec(Spec):
    """The parts of a gradient source's loss apart from the model."""

    plugin: PluginSpec | None = None
    """None for a shipped objective."""
    head: PluginSpec | None = None
    signal: PluginSpec | None = None
    """Function that makes the signal from gradients; None: the gradients are the signal."""
    bank: Reference | None = None
    """None where the objective needs none, and for classes, which have a small bank of their own.
    """


Losses = tuple[tuple[str, ObjectiveSpec], ...]
"""Gradient sources whose losses enter the baseline, with the parts of each; empty elsewhere."""


class ScalesSpec(Spec):
    """Standard deviations of a source's channels over the first images of the bank."""

    model: ModelSpec
    source: str
    signal: SignalSpec
    """Without projection."""
    objective: ObjectiveSpec | None
    losses: Losses
    bank: BankSpec | None
    """None where no objective needs one; the job makes it, as for components."""
    images: BankImages


class PcaSpec(Spec):
    """Principal components of every layer of a source, on some of a study's stimuli."""

    model: ModelSpec
    source: str
    signal: SignalSpec
    objective: ObjectiveSpec | None
    """Without its bank, which the job makes from `bank`: stores of one stage do not wait for each
    other."""
    bank: BankSpec | None
    images: BankImages
    """Images over which channels are scaled before components are fitted."""
    stimuli: str
    """Digest of the stimuli: ids and content digests, in order."""
    labels: str | None

    @property
    def losses(self) -> Losses:
        """None: the baseline has no components."""
        return ()


class ClassesSpec(Spec):
    """Which layers of a gradient source carry a signal of their own."""

    model: ModelSpec
    source: str
    signal: SignalSpec
    images: BankImages
    objective: ObjectiveSpec


class SourceSpec(Spec):
    """One source of a model, as extraction needs it."""

    model: ModelSpec
    source: str
    signal: SignalSpec
    prepared: Reference
    objective: ObjectiveSpec | None
    """None for the forward signal and the baseline."""

    @property
    def losses(self) -> Losses:
        """Losses whose values are features."""
        return ()


class GeneratedImages(Spec):
    """Images that the shipped generator draws, numbered from 0."""

    size: int
    """Side (pixels)."""
    seed: int


class BaselineSpec(Spec):
    """What the complete forward baseline has beside the layers' tokens."""

    width: int
    """Parts that are wider are projected to as many columns."""
    losses: Losses


class FeaturesSpec(SourceSpec):
    """Features of one source for one stimulus set."""

    stimuli: str
    """Digest of the stimulus set: ids and content digests, in order."""
    generated: GeneratedImages | None
    """None for images of a folder."""
    stimuli_per_shard: int
    labels: str | None
    """sha256 of the file of true classes; None where the source takes none."""
    pca: Reference | None
    """None for a random projection, or none."""
    scales: Reference | None
    """None for a lone log-norm, which is no channel."""
    baseline: BaselineSpec | None
    """None for other sources."""

    @property
    def losses(self) -> Losses:
        """Losses whose values are features."""
        return () if self.baseline is None else self.baseline.losses


class StabilitySpec(SourceSpec):
    """How much one source changes under invisible changes of images, and between random seeds."""

    images: BankImages


class ResponsesSpec(Spec):
    """One subject's responses in one modality, averaged over repeats."""

    reader: Literal["bids", "epochs"]
    subject: str
    options: dict[str, JsonValue]
    stimuli: str
    files: dict[str, str]
    """sha256 of every file read, by its path below the responses folder."""


class CollinearitySpec(Spec):
    """Linear CKA between the layers of one source."""

    features: Reference


class EncodingSpec(Spec):
    """The ridge fit, its folds and its resampling (docs/methods.md)."""

    folds: int
    fold_rule: Literal["stimulus", "spread_categories", "keep_categories"]
    blocks: int
    seed: int
    alphas: tuple[float, ...]
    alpha_choice: Literal["kfold", "gcv", "loo"]
    band_ratios: tuple[float, ...]
    bootstrap: int
    permutations: int
    permute_within: Literal["session", "all"]
    windows: tuple[tuple[str, float, float], ...]
    """MEG windows: name, start and stop (s), in order of start."""
    meg_targets: Literal["samples", "windows"]
    """Targets of MEG: every sensor's samples, or its window means."""

    @property
    def ridge_options(self) -> RidgeOptions:
        """The solver's options."""
        return RidgeOptions(self.alphas, self.alpha_choice, self.band_ratios)


class UnrecordedSpec(Spec):
    """Features of images without recordings."""

    baseline: Reference
    features: Reference


class BeyondSpec(Spec):
    """The baseline beyond which a source is scored; each layer ends in so many single values."""

    baseline: Reference
    n_scalars: tuple[int, ...]
    unrecorded: UnrecordedSpec | None


class ScoresSpec(Spec):
    """Encoding scores of one bands specification for all subjects who saw one stimulus set."""

    bands: str
    features: tuple[Reference, ...]  # of one source, or of two as bands
    beyond: BeyondSpec | None
    layers: tuple[tuple[str, float], ...]
    responses: tuple[Reference, ...]
    partition: str
    """Digest of the folds and blocks of the stimuli (coordinates of the store)."""
    encoding: EncodingSpec

    @property
    def banded(self) -> bool:
        """Whether a layer's activations and its gradient are fitted as two bands."""
        return len(self.features) == 2

    @property
    def is_control(self) -> bool:
        """Whether the features are forward ones, which must add nothing to the baseline."""
        return self.beyond is not None and source_of(self.bands) in CONTROLS


class CompareOptions(Spec):
    """Hierarchy comparisons (docs/methods.md)."""

    search_window: tuple[float, float]
    ladders: dict[str, tuple[str, ...]]
    seed_region: str
    significance: float
    smallest_effect: float
    folds: int
    seed: int


class ComparisonsSpec(Spec):
    """The hierarchy comparisons of one model."""

    scores: dict[str, tuple[Reference, ...]]
    """References by bands."""
    classes: dict[str, Reference]
    """References by gradient source."""
    collinearity: dict[str, tuple[Reference, ...]]
    """References by source."""
    responses: tuple[Reference, ...]
    options: CompareOptions


class DrillSpec(Spec):
    """The noise that one stage of a drill commits (jobs/drill.py)."""

    stage: str
    units: int
    values: int
    seed: int
    upstream: tuple[Reference, ...]
