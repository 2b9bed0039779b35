"""Raw signals of a network's layers, from which the truth and the features of worlds are made.

One pass per image gives activations (mean of patches, and what it lacks), gradients of every
objective, and the readout behind the last layer. Nothing is projected here.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from gradenc_core.models.model import VisionModel
from gradenc_core.models.tokens import layer_layout, pool
from gradenc_core.planted.brain import Array
from gradenc_core.signals.objectives import parse_source
from gradenc_core.signals.passes import Passes
from gradenc_core.signals.projection import sparse_projection, unit_norm
from gradenc_core.signals.readout import Context, Readout
from gradenc_core.signals.stimulus import Stimuli

SPATIAL_WIDTH = 32


@dataclass(frozen=True)
class Raw:
    """Raw signals of some images: per layer, and gradients also by objective.

    Attributes
    ----------
    mean : list of array, each (n_images, n_channels)
        Mean over patches.
    aside : list of array, each (n_images, n_channels)
        What that mean lacks: the class token, or one corner of a map.
    class_token : list of array, each (n_images, n_channels or 0)
    spatial : list of array, each (n_images, SPATIAL_WIDTH)
        A seeded projection of all patches.
    norm : list of array, each (n_images, 1)
        Logarithm of the norm of `mean`.
    gradient : dict of str to list of array, each (n_images, n_channels)
        Mean over patches, divided by its norm.
    gradient_norm : dict of str to list of array, each (n_images, 1)
        Logarithm of that norm.
    readout : array, (n_images, n_columns)
        Logits, probabilities, losses, confidence and contrast.
    """

    mean: list[Array]
    aside: list[Array]
    class_token: list[Array]
    spatial: list[Array]
    norm: list[Array]
    gradient: dict[str, list[Array]]
    gradient_norm: dict[str, list[Array]]
    readout: Array


def read_raw(
    model: VisionModel,
    layers: Sequence[str],
    objectives: Sequence[str],
    batches: Iterable[torch.Tensor],
) -> Raw:
    """Run preprocessed images through the network, batch by batch.

    Parameters
    ----------
    layers : sequence of str
        Names of layers, the last block among them at the end.
    objectives : sequence of str
        Such as "energy" or "random.0"; without views or a bank.
    batches : iterable of torch.Tensor, (n, 3, size, size)
    """
    sources = [f"gradient:{objective}" for objective in objectives]
    passes = Passes(model, layers, ["forward", *sources], Context(seed=0))
    parts = [_batch(passes, sources, images) for images in batches]
    joined = {
        name: [np.concatenate(layer) for layer in zip(*(part[name] for part in parts), strict=True)]
        for name in parts[0]
    }
    return Raw(
        joined["mean"],
        joined["aside"],
        joined["class token"],
        joined["spatial"],
        joined["norm"],
        {objective: joined[f"gradient:{objective}"] for objective in objectives},
        {objective: joined[f"norm of gradient:{objective}"] for objective in objectives},
        joined["readout"][0],
    )


def _batch(passes: Passes, sources: Sequence[str], images: torch.Tensor) -> dict[str, list[Array]]:
    """Return the raw signals of one batch by name, then layer."""
    logits: list[torch.Tensor] = []
    handle = passes.model.module.register_forward_hook(lambda *call: logits.append(call[2]))
    signals = passes.run(Stimuli(images)).signals
    handle.remove()
    out: dict[str, list[Array]] = defaultdict(list)

    def keep(name: str, values: torch.Tensor) -> None:
        out[name].append(values.detach().numpy().astype(np.float64))

    for index, name in enumerate(passes.layers):
        layout = layer_layout(passes.model, name, "mean")
        forward = signals["forward"][index]
        patches, mean = pool(forward, layout, "patches"), pool(forward, layout, "mean")
        token = pool(forward, layout, "cls") if layout.n_class else mean[:, :0]
        corner = patches[:, : mean.shape[1]]
        keep("mean", mean)
        keep("class token", token)
        keep("aside", token if layout.n_class else corner)
        keep("spatial", sparse_projection(0, name, patches.shape[1], SPATIAL_WIDTH)(patches))
        keep("norm", unit_norm(mean)[1])
        for source in sources:
            unit, log_norm = unit_norm(pool(signals[source][index], layout, "mean"))
            keep(source, unit)
            keep(f"norm of {source}", log_norm)
    last = Readout(mean, patches.unflatten(1, (-1, mean.shape[1])), None, logits[0].detach())
    keep("readout", _readout(passes, sources, images, last))
    return out


def _readout(
    passes: Passes, sources: Sequence[str], images: torch.Tensor, last: Readout
) -> torch.Tensor:
    """Return logits, probabilities, losses, the confidence and the contrast of images."""
    assert last.logits is not None
    losses = []
    for source in sources:
        objective, draw = parse_source(passes.model, source)
        losses.append(objective.loss(last, passes.context, draw))
    probabilities = last.logits.softmax(dim=1)
    confidence, contrast = probabilities.max(dim=1).values, images.flatten(1).std(dim=1)
    scalars = torch.stack([*losses, confidence, contrast], dim=1)
    return torch.cat([last.logits, probabilities, scalars], dim=1)
