"""Standard deviations of channels over the bank, by which features are divided.

Large networks have a few channels a hundred times larger than the others. Without this, every
column of a projection would be those few, and no later scaling could bring the others back.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from gradenc_core.signals.extractor import SignalExtractor
from gradenc_core.signals.stimulus import Stimuli

Scales = list[NDArray[np.float32]]
"""Of every layer, the scale of each channel."""

NO_VARIANCE = 1e-6
"""A channel does not vary whose sd is below this share of its root mean square, or of the largest
sd of its layer: float32's rounding must not be brought up to the size of a signal."""


class _Moments:
    """Mean and sum of squares about it, of batches that are added one by one."""

    def __init__(self) -> None:
        self.n, self.mean, self.squares = 0, np.zeros(1), np.zeros(1)

    def add(self, rows: NDArray[np.float64]) -> None:
        n, mean = len(rows), rows.mean(axis=0)
        change, total = mean - self.mean, self.n + n
        within = ((rows - mean) ** 2).sum(axis=0)
        self.squares = self.squares + within + change**2 * self.n * n / total
        self.mean, self.n = self.mean + change * n / total, total

    def scale(self) -> NDArray[np.float32]:
        """Return the sd of every channel; 1 where it does not vary."""
        sd = np.sqrt(self.squares / self.n)
        size = np.maximum(np.sqrt(sd**2 + self.mean**2), sd.max(initial=0.0))
        return np.where(sd > NO_VARIANCE * size, sd, 1.0).astype(np.float32)


def channel_scales(
    extractor: SignalExtractor, batches: Iterable[Stimuli], sources: Sequence[str]
) -> dict[str, Scales]:
    """Return the sd of every channel over images, by source and layer.

    Parameters
    ----------
    extractor : SignalExtractor
        Without scales of its own.
    batches : iterable of Stimuli
        Micro-batches of the images.
    sources : sequence of str
        Sources of the extractor.

    Returns
    -------
    dict of str to list of arrays, (n_layer_features,) float32
        Of signals as they are before they are projected, pooled and, of gradients of unit scale,
        divided by their norm; log-norms are left as they are.
    """
    moments: dict[str, list[_Moments]] = {}
    for rows, signals in extractor.signals(batches):
        n = rows.stop - rows.start
        for source in sources:
            of_layers = moments.setdefault(source, [_Moments() for _ in signals[source]])
            for layer, pooled in zip(of_layers, signals[source], strict=True):
                layer.add(extractor.scaled(source, pooled)[:n].double().cpu().numpy())
    return {source: [layer.scale() for layer in layers] for source, layers in moments.items()}


def as_tensors(scales: dict[str, Scales]) -> dict[str, list[torch.Tensor]]:
    """Return scales as an extractor takes them."""
    return {s: [torch.from_numpy(layer) for layer in layers] for s, layers in scales.items()}
