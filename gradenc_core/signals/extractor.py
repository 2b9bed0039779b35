"""Forward activations and backpropagated gradients of the same layers, from one pass."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import Literal

import numpy as np
import torch

from gradenc_core.models.model import VisionModel
from gradenc_core.models.tokens import Tokens, layer_layout, pool
from gradenc_core.signals.objectives import OBJECTIVES, Objective
from gradenc_core.signals.passes import Passes, Precision, Stimuli
from gradenc_core.signals.projection import Components, sparse_projection
from gradenc_core.signals.readout import Context
from gradenc_core.signals.sizes import Scale, scaled_width

SignalClass = Literal["ok", "zero", "constant", "identical_to_forward"]

Features = np.ndarray | list[np.ndarray]
"""Of all layers, (n_layers, n_stimuli, n_features) float32, or each layer's own array."""

ZERO_NORM = 1e-12
"""A gradient whose largest norm is below this share of the largest layer's is `zero`."""
CONSTANT_VARIANCE = 1e-10
"""Relative variance over stimuli at which a gradient is `constant` (float32 rounding: 1e-14)."""
IDENTICAL = 1 - 1e-6
"""Cosine between centred feature matrices above which a gradient is `identical_to_forward`."""


class SignalExtractor:
    """Extracts features of activations and gradients, the same bytes however calls are split.

    For stimulus s and layer l with output h_l(s), `forward` is h_l(s) and `gradient:<objective>` is
    dL_s/dh_l(s). Losses are summed over the batch in eval mode, so that a stimulus's gradient
    depends on no other stimulus. Both are pooled over tokens and projected by the same matrix.

    Parameters
    ----------
    layers : sequence of str
        Names of modules, as in `resolve_layers`.
    sources : sequence of str
        "forward", "gradient:<objective>", "gradient:random.0" ...
    tokens : {"cls", "registers", "patches", "mean", "all"}
        Tokens that enter the features.
    projection : int or None
        Number of features after the projection; None leaves every layer as wide as it is.
    seed : int
        Of the projection and of the `random` objective.
    scale : {"unit", "raw", "norm_only"}
        `unit`: the pooled gradient divided by its L2 norm, whose log is appended as last feature;
        `norm_only`: that log alone. Forward features are never scaled.
    micro_batch : int
        Stimuli per pass; the last one is padded. Bytes are promised at equal micro-batch, device
        type and thread count.
    context : Context, optional
        Bank and head, for objectives that need them; without it, only the seed.
    objectives : mapping of str to Objective
        By name; a user's own beside the shipped ones.
    precision : {"float32", "bf16"}
        Of the passes through the network; pooling, scale and projection are float32.
    components : mapping of str to sequence of Components, optional
        Of some sources, each layer's principal components; others are projected at random.

    Attributes
    ----------
    passes : Passes
        What runs the network; `passes.needs` says whether stimuli need views and digests.

    Raises
    ------
    ValueError
        A source, layer, token or scale that the model does not have.
    """

    def __init__(
        self,
        model: VisionModel,
        layers: Sequence[str],
        sources: Sequence[str],
        tokens: Tokens,
        projection: int | None,
        seed: int,
        scale: Scale,
        micro_batch: int,
        context: Context | None = None,
        objectives: Mapping[str, Objective] = OBJECTIVES,
        precision: Precision = "float32",
        components: Mapping[str, Sequence[Components]] | None = None,
    ) -> None:
        if scale not in ("unit", "raw", "norm_only"):
            raise ValueError(f"scale is {scale!r}: use unit, raw or norm_only")
        if micro_batch < 1:
            raise ValueError(f"micro_batch is {micro_batch}: give at least 1 stimulus per pass")
        self.model, self.layers, self.sources = model, tuple(layers), tuple(sources)
        self.tokens, self.projection, self.seed = tokens, projection, seed
        self.scale, self.micro_batch = scale, micro_batch
        self.passes = Passes(
            model, layers, sources, context or Context(seed), objectives, precision
        )
        self._layouts = [layer_layout(model, name, tokens) for name in self.layers]
        device = next(model.module.parameters()).device
        self._projections = [
            None
            if projection is None
            else sparse_projection(seed, name, layout.n_features(tokens), projection).to(device)
            for name, layout in zip(self.layers, self._layouts, strict=True)
        ]
        self._components = {
            source: [layer.to(device) for layer in layers]
            for source, layers in (components or {}).items()
        }

    def n_features(self, source: str) -> list[int]:
        """Return the number of features of each layer of a source."""
        widths = [self.projection or layout.n_features(self.tokens) for layout in self._layouts]
        return [scaled_width(width, source, self.scale) for width in widths]

    def __call__(
        self,
        images: torch.Tensor,
        labels: torch.Tensor | None = None,
        digests: Sequence[str] | None = None,
        views: torch.Tensor | None = None,
    ) -> dict[str, Features]:
        """Return the features of preprocessed images.

        Parameters
        ----------
        images, labels, digests, views
            As in `Stimuli`: `digests` and `views` are needed where `passes.needs` names them.

        Returns
        -------
        dict of str to np.ndarray, (n_layers, n_stimuli, n_features) float32
            By source; without projection a list with each layer's (n_stimuli, n_features).

        Raises
        ------
        ValueError
            A feature is not finite, or the images come without what an objective needs.
        """
        return self.stream(self._batches(Stimuli(images, labels, digests, views)), len(images))

    def stream(self, batches: Iterable[Stimuli], n_stimuli: int) -> dict[str, Features]:
        """Return the features of micro-batches as they come; see `__call__`.

        Parameters
        ----------
        batches : iterable of Stimuli
            Of `micro_batch` stimuli each; the last one may have fewer.
        n_stimuli : int
            Of all batches together.
        """
        features = {source: self._empty(source, n_stimuli) for source in self.sources}
        for rows, signals in self._passes(batches):
            for source, index in product(self.sources, range(len(self.layers))):
                projected = self._features(source, index, signals[source][index])
                features[source][index][rows] = projected[: rows.stop - rows.start]
        self._require_finite(features)
        return features

    def pooled(
        self,
        images: torch.Tensor,
        labels: torch.Tensor | None = None,
        digests: Sequence[str] | None = None,
        views: torch.Tensor | None = None,
        masks: torch.Tensor | None = None,
    ) -> dict[str, list[torch.Tensor]]:
        """Return each layer's signal after pooling, before scale and projection.

        Returns
        -------
        dict of str to list of torch.Tensor, (n_stimuli, n_layer_features)
            By source, then layer; `forward` is always among the sources.
        """
        stimuli = Stimuli(images, labels, digests, views, masks)
        batches = [
            {s: [x[: rows.stop - rows.start] for x in layers] for s, layers in signals.items()}
            for rows, signals in self._passes(self._batches(stimuli))
        ]
        return {
            source: [torch.cat(parts) for parts in zip(*(b[source] for b in batches), strict=True)]
            for source in batches[0]
        }

    def _batches(self, stimuli: Stimuli) -> Iterator[Stimuli]:
        for start in range(0, len(stimuli), self.micro_batch):
            yield stimuli[torch.arange(start, min(start + self.micro_batch, len(stimuli)))]

    def _passes(
        self, batches: Iterable[Stimuli]
    ) -> Iterator[tuple[slice, dict[str, list[torch.Tensor]]]]:
        """Yield the rows of each micro-batch and its signals, padded by its last stimulus."""
        start = 0
        for batch in batches:
            rows = slice(start, start + len(batch))
            index = torch.arange(self.micro_batch).clamp(max=len(batch) - 1)
            yield rows, self._pass(batch[index])
            start = rows.stop

    def _pass(self, stimuli: Stimuli) -> dict[str, list[torch.Tensor]]:
        """Run one micro-batch and return the pooled signals of every source, by layer."""
        return {
            source: [
                pool(signal, layout, self.tokens)
                for signal, layout in zip(layers, self._layouts, strict=True)
            ]
            for source, layers in self.passes.signals(stimuli).items()
        }

    def _features(self, source: str, index: int, pooled: torch.Tensor) -> np.ndarray:
        """Scale and project one layer's pooled signal, (micro_batch, n_features) float32."""
        projections = self._components.get(source, self._projections)
        project = projections[index] or torch.Tensor.float
        if source == "forward" or self.scale == "raw":
            return project(pooled.float()).cpu().numpy()
        unit, log_norm = _unit_norm(pooled)
        if self.scale == "norm_only":
            return log_norm.cpu().numpy()
        return torch.cat([project(unit), log_norm], dim=1).cpu().numpy()

    def _empty(self, source: str, n_stimuli: int) -> Features:
        widths = self.n_features(source)
        if self.projection is None:
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


def classify_signals(
    extractor: SignalExtractor,
    images: torch.Tensor,
    digests: Sequence[str] | None = None,
    views: torch.Tensor | None = None,
) -> dict[str, list[SignalClass]]:
    """Say of every gradient and layer whether it carries a signal of its own.

    Classes are decided on the pooled signals, before scale and projection:
    `zero`: the largest norm over stimuli is below 1e-12 of the largest layer's.
    `constant`: the variance over stimuli is below 1e-10 of the mean square.
    `identical_to_forward`: after unit normalisation of every stimulus and centring, the matrices of
    gradient and forward features have a cosine beyond ±(1 - 1e-6). (Linear CKA, which forgives any
    rotation, tends to 1 for unrelated signals with far more features than stimuli.)

    Parameters
    ----------
    images : torch.Tensor, (n_stimuli, 3, image_size, image_size)
        At least 3 distinct stimuli; 16 in `prepare`.
    digests, views
        As in `Stimuli`.

    Returns
    -------
    dict of str to list
        By gradient source, one class per layer.

    Raises
    ------
    ValueError
        There are fewer than 3 images, or a gradient is not finite.
    """
    if len(images) < 3:
        raise ValueError(f"{len(images)} images cannot class a signal; give at least 3")
    signals = extractor.pooled(images, None, digests, views)
    forward = signals.pop("forward")
    return {source: _classes(source, layers, forward) for source, layers in signals.items()}


def _classes(
    source: str, gradients: Sequence[torch.Tensor], forward: Sequence[torch.Tensor]
) -> list[SignalClass]:
    norms = [float(_norm(gradient).max()) for gradient in gradients]
    if not np.isfinite(norms).all():
        raise ValueError(f"{source} is not finite; check the weights and the preprocessing")
    return [
        "zero" if norm <= ZERO_NORM * max(norms) else _class(gradient.double(), activation.double())
        for norm, gradient, activation in zip(norms, gradients, forward, strict=True)
    ]


def _class(gradient: torch.Tensor, activation: torch.Tensor) -> SignalClass:
    """Class one layer's non-zero gradient, (n_stimuli, n_features) float64."""
    gradient = gradient / _norm(gradient).max()  # tiny gradients must not underflow when squared
    centred = gradient - gradient.mean(dim=0)
    if centred.square().sum() <= CONSTANT_VARIANCE * gradient.square().sum():
        return "constant"
    first, second = (_unit_norm(x)[0].double() for x in (gradient, activation))
    first, second = first - first.mean(dim=0), second - second.mean(dim=0)
    cosine = (first * second).sum() / (first.norm() * second.norm())
    return "identical_to_forward" if abs(float(cosine)) > IDENTICAL else "ok"


def _norm(pooled: torch.Tensor) -> torch.Tensor:
    """Return each stimulus's L2 norm, (n_stimuli, 1); float64, in which no square underflows."""
    return torch.linalg.vector_norm(pooled, dim=1, keepdim=True, dtype=torch.float64)


def _unit_norm(pooled: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return float32 rows of norm 1 and their log-norms, (n_stimuli, 1); a zero row stays zero."""
    norm = _norm(pooled).clamp(min=torch.finfo(torch.float32).tiny)
    return (pooled / norm).float(), norm.log().float()
