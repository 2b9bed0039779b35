"""Forward activations and backpropagated gradients of the same layers, from one pass.

A stimulus's features depend on nothing but its content and the options: not on the other stimuli
of the batch, nor on how calls are split.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import torch
from PIL import Image

from gradenc_core.models.layers import require_blocks
from gradenc_core.models.model import VisionModel
from gradenc_core.models.tokens import Tokens, layer_layout, pool
from gradenc_core.signals.baseline import Baseline
from gradenc_core.signals.objectives import OBJECTIVES, Objective
from gradenc_core.signals.passes import Passes, Precision
from gradenc_core.signals.projection import (
    Components,
    log_norms,
    sparse_projection,
    unit_norm,
)
from gradenc_core.signals.readout import Context
from gradenc_core.signals.sizes import BASELINE, MICRO_BATCH, READOUT, Scale, scaled_width
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
    scales : mapping of str to sequence of torch.Tensor, optional
        By source, what each layer's columns are divided by before they are projected: their
        standard deviations over the bank (`gradenc_core.signals.scales`).
    losses : sequence of str
        Gradient sources whose losses enter the source `baseline`.
    baseline_width : int or None
        Columns to which a wider part of the baseline is projected; None leaves all.

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
    scales: Mapping[str, Sequence[torch.Tensor]] | None = None
    losses: Sequence[str] = ()
    baseline_width: int | None = None

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
    depends on no other stimulus. Both are pooled over tokens, divided by the scales of their
    channels and projected by the same matrix.

    Parameters
    ----------
    model : VisionModel
    sources : sequence of str
        "forward", "gradient:<objective>", "gradient:random.0" ...; "baseline", which has one more
        layer, `readout`, and a width of its own in each (`gradenc_core.signals.baseline`).
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
            model,
            self.layers,
            sources,
            context,
            options.objectives,
            options.precision,
            options.losses,
        )
        self._baseline = Baseline(
            model,
            self.layers,
            options.seed,
            options.baseline_width,
            len(options.losses),
            self.passes.context,
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
        self._scales = {
            source: [layer.to(device) for layer in layers]
            for source, layers in (options.scales or {}).items()
        }

    def n_features(self, source: str) -> list[int]:
        """Return the number of features of each layer of a source."""
        if source == BASELINE:
            return [parts.width(self._baseline.width) for parts in self._baseline.parts]
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
            By source; without projection, and of the baseline, a list with each layer's
            (n_stimuli, n_features).

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
        for rows, signals in self.signals(batches):
            for source in self.sources:
                for index, pooled in enumerate(signals[source]):
                    projected = self._features(source, index, pooled)
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

        ahead = BATCHES_AHEAD * self.options.micro_batch
        yield from self.batched(prefetch(read, named, threads, ahead))

    def batched(self, stimuli: Iterable[Stimuli]) -> Iterator[Stimuli]:
        """Yield single stimuli as micro-batches; the last one may have fewer."""
        single = iter(stimuli)
        while batch := list(islice(single, self.options.micro_batch)):
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
            for rows, signals in self.signals(self._batches(_as_stimuli(stimuli)))
        ]
        return {
            source: [torch.cat(parts) for parts in zip(*(b[source] for b in batches), strict=True)]
            for source in batches[0]
        }

    def _batches(self, stimuli: Stimuli) -> Iterator[Stimuli]:
        size = self.options.micro_batch
        for start in range(0, len(stimuli), size):
            yield stimuli[torch.arange(start, min(start + size, len(stimuli)))]

    def signals(
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
        passed = self.passes.run(stimuli)
        pooled = {
            source: [
                pool(signal, layout, self.options.tokens)
                for signal, layout in zip(layers, self._layouts, strict=True)
            ]
            for source, layers in passed.signals.items()
        }
        if BASELINE in self.sources:
            images = stimuli.images.to(passed.readout.pooled.device)
            losses = {source: passed.losses[source] for source in self.options.losses}
            pooled[BASELINE] = self._baseline.columns(
                passed.signals["forward"], passed.readout, losses, images
            )
        return pooled

    def scaled(self, source: str, pooled: torch.Tensor) -> torch.Tensor:
        """Return a layer's pooled signal as it is before it is projected, without its log-norm."""
        if source in ("forward", BASELINE) or self.options.scale == "raw":
            return pooled.float()
        return unit_norm(pooled)[0]

    def _features(self, source: str, index: int, pooled: torch.Tensor) -> np.ndarray:
        """Scale and project one layer's pooled signal, (micro_batch, n_features) float32."""
        is_gradient = source not in ("forward", BASELINE)
        if is_gradient and self.options.scale == "norm_only":
            return log_norms(pooled).cpu().numpy()
        values = self.scaled(source, pooled)
        if source in self._scales:
            values = values / self._scales[source][index]
        projected = self._project(source, index, values)
        if is_gradient and self.options.scale == "unit":
            projected = torch.cat([projected, log_norms(pooled)], dim=1)
        return projected.cpu().numpy()

    def _project(self, source: str, index: int, values: torch.Tensor) -> torch.Tensor:
        if source == BASELINE:
            return self._baseline.compress(index, values)
        project = self._components.get(source, self._projections)[index]
        return values if project is None else project(values)

    def _empty(self, source: str, n_stimuli: int) -> Features:
        widths = self.n_features(source)
        if self.options.projection is None or source == BASELINE:
            return [np.empty((n_stimuli, width), np.float32) for width in widths]
        return np.empty((len(widths), n_stimuli, widths[0]), np.float32)

    def _require_finite(self, features: dict[str, Features]) -> None:
        for source in self.sources:
            for name, values in zip([*self.layers, READOUT], features[source], strict=False):
                n_bad = int((~np.isfinite(values)).any(axis=1).sum())
                if not n_bad:
                    continue
                raise ValueError(
                    f"{source} of layer {name!r} of {self.model.architecture} is not "
                    f"finite for {n_bad} stimuli; check the weights and the preprocessing"
                )


def _as_stimuli(stimuli: Stimuli | torch.Tensor) -> Stimuli:
    return Stimuli(stimuli) if isinstance(stimuli, torch.Tensor) else stimuli
