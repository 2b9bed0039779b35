"""Forward activations and backpropagated gradients of the same layers, from one pass."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from gradenc_core.models import VisionModel
from gradenc_core.objectives import Readout, parse_source
from gradenc_core.projection import sparse_projection
from gradenc_core.tokens import Layout, Tokens, layer_layout, pool

Scale = Literal["unit", "raw", "norm_only"]
SignalClass = Literal["ok", "zero", "constant", "identical_to_forward"]

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
    tokens : {"cls", "registers", "patches", "mean"}
        Tokens that enter the features.
    projection : int
        Number of features after the random projection.
    seed : int
        Of the projection and of the `random` objective.
    scale : {"unit", "raw", "norm_only"}
        `unit`: the pooled gradient divided by its L2 norm, whose log is appended as last feature;
        `norm_only`: that log alone. Forward features are never scaled.
    micro_batch : int
        Stimuli per pass; the last one is padded. Bytes are promised at equal micro-batch, device
        type and thread count.

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
        projection: int,
        seed: int,
        scale: Scale,
        micro_batch: int,
    ) -> None:
        if scale not in ("unit", "raw", "norm_only"):
            raise ValueError(f"scale is {scale!r}: use unit, raw or norm_only")
        if micro_batch < 1:
            raise ValueError(f"micro_batch is {micro_batch}: give at least 1 stimulus per pass")
        self.model, self.layers, self.sources = model, tuple(layers), tuple(sources)
        self.tokens, self.projection, self.seed = tokens, projection, seed
        self.scale, self.micro_batch = scale, micro_batch
        self._losses = {s: parse_source(model, s) for s in sources if s != "forward"}
        self._layouts = {name: layer_layout(model, name, tokens) for name in self.layers}
        self._readout = layer_layout(model, model.blocks[-1], "mean")
        device = next(model.module.parameters()).device
        self._projections = [
            sparse_projection(seed, name, layout.n_features(tokens), projection).to(device)
            for name, layout in self._layouts.items()
        ]

    def n_features(self, source: str) -> int:
        """Return the number of features per layer of a source."""
        if source == "forward" or self.scale == "raw":
            return self.projection
        return self.projection + 1 if self.scale == "unit" else 1

    def __call__(
        self, images: torch.Tensor, labels: torch.Tensor | None = None
    ) -> dict[str, np.ndarray]:
        """Return the features of preprocessed images.

        Parameters
        ----------
        images : torch.Tensor, (n_stimuli, 3, image_size, image_size) float32
        labels : torch.Tensor, (n_stimuli,) int64, optional
            True classes for the objective `classification`.

        Returns
        -------
        dict of str to np.ndarray, (n_layers, n_stimuli, n_features) float32
            By source.
        """
        features = {
            source: np.empty((len(self.layers), len(images), self.n_features(source)), np.float32)
            for source in self.sources
        }
        for rows, signals in self._passes(images, labels):
            for source, layers in signals.items():
                for index, pooled in enumerate(layers):
                    projected = self._features(source, index, pooled)
                    features[source][index, rows] = projected[: rows.stop - rows.start]
        return features

    def pooled(
        self, images: torch.Tensor, labels: torch.Tensor | None = None
    ) -> dict[str, list[torch.Tensor]]:
        """Return each layer's signal after pooling, before scale and projection.

        Returns
        -------
        dict of str to list of torch.Tensor, (n_stimuli, n_layer_features)
            By source, then layer.
        """
        batches = [
            {s: [x[: rows.stop - rows.start] for x in layers] for s, layers in signals.items()}
            for rows, signals in self._passes(images, labels)
        ]
        return {
            source: [torch.cat(parts) for parts in zip(*(b[source] for b in batches), strict=True)]
            for source in self.sources
        }

    def _passes(
        self, images: torch.Tensor, labels: torch.Tensor | None
    ) -> Iterator[tuple[slice, dict[str, list[torch.Tensor]]]]:
        """Yield the rows of each micro-batch and its signals, padded by its last stimulus."""
        for start in range(0, len(images), self.micro_batch):
            rows = slice(start, min(start + self.micro_batch, len(images)))
            index = torch.arange(start, start + self.micro_batch).clamp(max=rows.stop - 1)
            yield rows, self._pass(images[index], None if labels is None else labels[index])

    def _pass(
        self, images: torch.Tensor, labels: torch.Tensor | None
    ) -> dict[str, list[torch.Tensor]]:
        parameter = next(self.model.module.parameters())
        images = images.to(parameter)
        labels = None if labels is None else labels.to(parameter.device)
        with _reproducible(), torch.set_grad_enabled(bool(self._losses)):
            names = dict.fromkeys([*self.layers, self.model.blocks[-1]])
            with _capture(self.model.module, names, self._layouts, self.tokens) as captured:
                logits = self.model.module(images)
            signals = self._gradients(captured, logits, labels)
        forward = [captured.pooled[name] for name in self.layers]
        return {s: forward if s == "forward" else signals[s] for s in self.sources}
