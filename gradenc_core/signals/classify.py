"""Whether the gradient at each layer carries a signal of its own.

A gradient that vanishes, does not vary over stimuli or repeats the activations would still get
encoding scores; stage prepare names such layers so that no comparison rests on them.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch

from gradenc_core.signals.extractor import SignalExtractor
from gradenc_core.signals.projection import row_norms, unit_norm
from gradenc_core.signals.stimulus import Stimuli

SignalClass = Literal["ok", "zero", "constant", "identical_to_forward"]

ZERO_NORM = 1e-12
"""A gradient whose largest norm is below this share of the largest layer's is `zero`."""
CONSTANT_VARIANCE = 1e-10
"""Relative variance over stimuli at which a gradient is `constant` (float32 rounding: 1e-14)."""
IDENTICAL = 1 - 1e-6
"""Cosine between centred feature matrices above which a gradient is `identical_to_forward`."""

LEAST_STIMULI = 3
"""Fewer stimuli cannot tell a constant from a varying signal."""


def classify_signals(
    extractor: SignalExtractor, stimuli: Stimuli | torch.Tensor
) -> dict[str, list[SignalClass]]:
    """Return whether each gradient and layer carries a signal of its own.

    Classes are decided on the pooled signals, before scale and projection:
    `zero`: the largest norm over stimuli is below 1e-12 of the largest layer's.
    `constant`: the variance over stimuli is below 1e-10 of the mean square.
    `identical_to_forward`: after unit normalisation of every stimulus and centring, the matrices of
    gradient and forward features have a cosine beyond ±(1 - 1e-6). (Linear CKA, which forgives any
    rotation, tends to 1 for unrelated signals with far more features than stimuli.)

    Parameters
    ----------
    extractor : SignalExtractor
    stimuli : Stimuli or torch.Tensor, (n_stimuli, 3, image_size, image_size)
        At least 3 distinct stimuli, without true classes; stage prepare takes 16.

    Returns
    -------
    dict of str to list
        By gradient source, one class per layer.

    Raises
    ------
    ValueError
        There are fewer than 3 stimuli, or a gradient is not finite.
    """
    if len(stimuli) < LEAST_STIMULI:
        raise ValueError(f"{len(stimuli)} images cannot class a signal; give at least 3")
    signals = extractor.pooled(stimuli)
    forward = signals.pop("forward")
    return {source: _classes(source, layers, forward) for source, layers in signals.items()}


def _classes(
    source: str, gradients: Sequence[torch.Tensor], forward: Sequence[torch.Tensor]
) -> list[SignalClass]:
    norms = [float(row_norms(gradient).max()) for gradient in gradients]
    if not np.isfinite(norms).all():
        raise ValueError(f"{source} is not finite; check the weights and the preprocessing")
    return [
        "zero" if norm <= ZERO_NORM * max(norms) else _class(gradient.double(), activation.double())
        for norm, gradient, activation in zip(norms, gradients, forward, strict=True)
    ]


def _class(gradient: torch.Tensor, activation: torch.Tensor) -> SignalClass:
    """Class one layer's non-zero gradient, (n_stimuli, n_features) float64."""
    gradient = gradient / row_norms(gradient).max()  # else tiny ones underflow when squared
    centred = gradient - gradient.mean(dim=0)
    if centred.square().sum() <= CONSTANT_VARIANCE * gradient.square().sum():
        return "constant"
    first, second = (unit_norm(x)[0].double() for x in (gradient, activation))
    first, second = first - first.mean(dim=0), second - second.mean(dim=0)
    cosine = (first * second).sum() / (first.norm() * second.norm())
    return "identical_to_forward" if abs(float(cosine)) > IDENTICAL else "ok"
