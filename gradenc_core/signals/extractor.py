"""Forward activations and backpropagated gradients of the same layers, from one pass.

A stimulus's features depend on nothing but its content and the options: not on the other stimuli
of the batch, nor on how calls are split.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, product

import numpy as np
import torch
from PIL import Image

from gradenc_core.models.layers import require_blocks
from gradenc_core.models.model import VisionModel
from gradenc_core.models.tokens import Tokens, layer_layout, pool
from gradenc_core.signals.objectives import OBJECTIVES, Objective
from gradenc_core.signals.passes import Passes, Precision
from gradenc_core.signals.projection import Components, sparse_projection
from gradenc_core.signals.readout import Context
from gradenc_core.signals.sizes import MICRO_BATCH, Scale, scaled_width
from gradenc_core.signals.stimulus import Stimuli, stimulus
from gradenc_core.stimuli.prefetch import prefetch

Features = np.ndarray | list[np.ndarray]
"""Features of all layers, (n_layers, n_stimuli, n_features) float32, or each layer's own array."""

BATCHES_AHEAD = 2
"""Micro-batches that are decoded while the network has another."""


@dataclass(frozen=True)
class ExtractionOptions:
    """How signals are read, pooled, scaled and projected.

    Attributes
    ----------
    layers : sequence of str or None
        Names of modules, as in `resolve_layers`; None takes every block.
    tokens : {"mean", "patches", "cls", "registers", "all"}
        Tokens that enter the features.
    projection : int or None
        Number of features after the projection; None leaves every layer as wide as it is.
    seed : int
        Seed of the projection, the teacher views, the masks and the `random` objective.
    scale : {"unit", "raw", "norm_only"}
        `unit`: the pooled gradient divided by its L2 norm, whose log is appended as last feature;
        `norm_only`: that log alone. Forward features are never scaled.
    precision : {"float32", "bf16"}
        Precision of the passes through the network; pooling, scale and projection are float32.
    micro_batch : int
        Stimuli per pass; the last one is padded. Bytes are promised at equal micro-batch, device
        type and thread count.
    context : Context, optional
        Bank and head, for objectives that need them; None gives the seed alone.
    objectives : mapping of str to Objective
        Objectives by name: the shipped ones, and a user's own beside them.
    components : mapping of str to sequence of Components, optional
        By source, each layer's principal components; other sources are projected at random.

    Raises
    ------
    ValueError
        An unknown scale, or a micro-batch without a stimulus.
    """

    layers: Sequence[str] | None = None
    tokens: Tokens = "mean"
    projection: int | None = None
    seed: int = 0
    scale: Scale = "unit"
    precision: Precision = "float32"
    micro_batch: int = MICRO_BATCH
    context: Context | None = None
    objectives: Mapping[str, Objective] = field(default_factory=lambda: OBJECTIVES)
    components: Mapping[str, Sequence[Components]] | None = None

    def __post_init__(self) -> None:
        if self.scale not in ("unit", "raw", "norm_only"):
            raise ValueError(f"scale is {self.scale!r}: use unit, raw or norm_only")
        if self.micro_batch < 1:
            raise ValueError(
                f"micro_batch is {self.micro_batch}: give at least 1 stimulus per pass"
            )


class SignalExtractor:
    """Extracts features of activations and gradients, the same bytes however calls are split.

    For stimulus s and layer l with output h_l(s), `forward` is h_l(s) and `gradient:<objective>` is
    dL_s/dh_l(s). Losses are summed over the batch in eval mode, so that a stimulus's gradient
    depends on no other stimulus. Both are pooled over tokens and projected by the same matrix.

    Parameters
    ----------
    model : VisionModel
    sources : sequence of str
        "forward", "gradient:<objective>", "gradient:random.0" ...
    options : ExtractionOptions, optional

    Attributes
    ----------
    layers : tuple of str
        Names of the layers that are read.
    passes : Passes
        Runs the network; `passes.needs` says whether stimuli need views and digests.

    Raises
    ------
    ValueError
        A source, layer or token that the model does not have.

    Examples
    --------
    >>> import torch
    >>> from gradenc_core.models.model import load_model
    >>> model = load_model("torchvision", "resnet18", "untrained", image_size=32)
    >>> options = ExtractionOptions(projection=16, micro_batch=2)
    >>> extractor = SignalExtractor(model, ["forward", "gradient:energy"], options)
    >>> features = extractor(torch.zeros(3, 3, 32, 32))
    >>> features["forward"].shape, features["gradient:energy"].shape
    ((8, 3, 16), (8, 3, 17))
    """

    def __init__(
        self,
        model: VisionModel,
        sources: Sequence[str],
        options: ExtractionOptions = ExtractionOptions(),
    ) -> None:
        self.model, self.sources, self.options = model, tuple(sources), options
        layers = require_blocks(model) if options.layers is None else options.layers
        self.layers = tuple(layers)
        context = options.context or Context(options.seed)
        self.passes = Passes(
            model, self.layers, sources, context, options.objectives, options.precision
        )
        self._layouts = [layer_layout(model, name, options.tokens) for name in self.layers]
        device = next(model.module.parameters()).device
        self._projections = [
            None
            if options.projection is None
            else sparse_projection(
                options.seed, name, layout.n_features(options.tokens), options.projection
            ).to(device)
            for name, layout in zip(self.layers, self._layouts, strict=True)
        ]
        self._components = {
            source: [layer.to(device) for layer in layers]
            for source, layers in (options.components or {}).items()
        }

    def n_features(self, source: str) -> list[int]:
        """Return the number of features of each layer of a source."""
        tokens, projection = self.options.tokens, self.options.projection
        widths = [projection or layout.n_features(tokens) for layout in self._layouts]
        return [scaled_width(width, source, self.options.scale) for width in widths]

    def __call__(self, stimuli: Stimuli | torch.Tensor) -> dict[str, Features]:
        """Return the features of stimuli.

        Parameters
        ----------
        stimuli : Stimuli or torch.Tensor, (n_stimuli, 3, image_size, image_size)
            Preprocessed images alone where no objective needs more: `passes.needs` says so.

        Returns
        -------
        dict of str to np.ndarray, (n_layers, n_stimuli, n_features) float32
            By source; without projection a list with each layer's (n_stimuli, n_features).

        Raises
        ------
        ValueError
            A feature is not finite, or the stimuli come without what an objective needs.
        """
        return self.stream(self._batches(_as_stimuli(stimuli)), len(stimuli))

    def stream(self, batches: Iterable[Stimuli], n_stimuli: int) -> dict[str, Features]:
        """Return the features of micro-batches as they come; see `__call__`.

        Parameters
        ----------
        batches : iterable of Stimuli
            `micro_batch` stimuli each; the last one may have fewer.
        n_stimuli : int
            Stimuli of all batches together.
        """
        features = {source: self._empty(source, n_stimuli) for source in self.sources}
        for rows, signals in self._passes(batches):
            for source, index in product(self.sources, range(len(self.layers))):
                projected = self._features(source, index, signals[source][index])
                features[source][index][rows] = projected[: rows.stop - rows.start]
        self._require_finite(features)
        return features

    def load(
        self,
        decode: Callable[[str, str], Image.Image],
        named: Iterable[tuple[str, str]],
        threads: int = 1,
        labels: Mapping[str, int] | None = None,
    ) -> Iterator[Stimuli]:
        """Yield stimuli in micro-batches, decoded ahead of the network.

        Parameters
        ----------
        decode : callable
            Returns the image of an id and digest, such as `partial(read_stimulus, folder)`.
        named : iterable of (str, str)
            Id and digest of each stimulus, as `read_manifest` lists them.
        threads : int
            Threads that decode.
        labels : mapping of str to int, optional
            True class of every stimulus.

        Raises
        ------
        FileNotFoundError, ValueError
            By `read_stimulus`: a stimulus is gone, or its content no longer has its digest.
        """

        def read(item: tuple[str, str]) -> Stimuli:
            name, digest = map(str, item)
            label = None if labels is None else labels[name]
            return self.present(decode(name, digest), digest, label)

        size = self.options.micro_batch
        single = prefetch(read, named, threads, BATCHES_AHEAD * size)
        while batch := list(islice(single, size)):
            yield Stimuli.joined(batch)

    def present(self, image: Image.Image, digest: str, label: int | None = None) -> Stimuli:
        """Return a decoded image as one stimulus, with views where an objective needs them.

        Parameters
        ----------
        image : PIL.Image.Image
        digest : str
            SHA-256 of the stimulus's content, which keys its views.
        label : int, optional
            True class.
        """
        seed = self.options.seed if "views" in self.passes.needs else None
        return stimulus(self.model, image, digest, seed, label)

    def pooled(self, stimuli: Stimuli | torch.Tensor) -> dict[str, list[torch.Tensor]]:
        """Return each layer's signal after pooling, before scale and projection.

        Returns
        -------
        dict of str to list of torch.Tensor, (n_stimuli, n_layer_features)
            By source, then layer; `forward` is always among the sources.
        """
        batches = [
            {s: [x[: rows.stop - rows.start] for x in layers] for s, layers in signals.items()}
            for rows, signals in self._passes(self._batches(_as_stimuli(stimuli)))
        ]
        return {
            source: [torch.cat(parts) for parts in zip(*(b[source] for b in batches), strict=True)]
            for source in batches[0]
        }

    def _batches(self, stimuli: Stimuli) -> Iterator[Stimuli]:
        size = self.options.micro_batch
        for start in range(0, len(stimuli), size):
            yield stimuli[torch.arange(start, min(start + size, len(stimuli)))]

    def _passes(
        self, batches: Iterable[Stimuli]
    ) -> Iterator[tuple[slice, dict[str, list[torch.Tensor]]]]:
        """Yield the rows of each micro-batch and its signals, padded by its last stimulus."""
        start = 0
        for batch in batches:
            rows = slice(start, start + len(batch))
            index = torch.arange(self.options.micro_batch).clamp(max=len(batch) - 1)
            yield rows, self._pass(batch[index])
            start = rows.stop

    def _pass(self, stimuli: Stimuli) -> dict[str, list[torch.Tensor]]:
        """Run one micro-batch and return the pooled signals of every source, by layer."""
        return {
            source: [
                pool(signal, layout, self.options.tokens)
                for signal, layout in zip(layers, self._layouts, strict=True)
            ]
            for source, layers in self.passes.signals(stimuli).items()
        }

    def _features(self, source: str, index: int, pooled: torch.Tensor) -> np.ndarray:
        """Scale and project one layer's pooled signal, (micro_batch, n_features) float32."""
        projections = self._components.get(source, self._projections)
        project = projections[index] or torch.Tensor.float
        if source == "forward" or self.options.scale == "raw":
            return project(pooled.float()).cpu().numpy()
        unit, log_norm = unit_norm(pooled)
        if self.options.scale == "norm_only":
            return log_norm.cpu().numpy()
        return torch.cat([project(unit), log_norm], dim=1).cpu().numpy()

    def _empty(self, source: str, n_stimuli: int) -> Features:
        widths = self.n_features(source)
        if self.options.projection is None:
            return [np.empty((n_stimuli, width), np.float32) for width in widths]
        return np.empty((len(widths), n_stimuli, widths[0]), np.float32)

    def _require_finite(self, features: dict[str, Features]) -> None:
        for source, index in product(self.sources, range(len(self.layers))):
            n_bad = int((~np.isfinite(features[source][index])).any(axis=1).sum())
            if n_bad:
                raise ValueError(
                    f"{source} of layer {self.layers[index]!r} of {self.model.architecture} is not "
                    f"finite for {n_bad} stimuli; check the weights and the preprocessing"
                )


def _as_stimuli(stimuli: Stimuli | torch.Tensor) -> Stimuli:
    return Stimuli(stimuli) if isinstance(stimuli, torch.Tensor) else stimuli


def row_norms(pooled: torch.Tensor) -> torch.Tensor:
    """Return each stimulus's L2 norm, (n_stimuli, 1); float64, in which no square underflows."""
    return torch.linalg.vector_norm(pooled, dim=1, keepdim=True, dtype=torch.float64)


def unit_norm(pooled: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return float32 rows of norm 1 and their log-norms, (n_stimuli, 1); a zero row stays zero."""
    norm = row_norms(pooled).clamp(min=torch.finfo(torch.float32).tiny)
    return (pooled / norm).float(), norm.log().float()
