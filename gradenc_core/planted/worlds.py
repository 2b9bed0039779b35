"""Worlds: one network, one objective and one set of images, in which brains are planted.

A world holds what the pipeline would extract (baseline, forward and gradient features of recorded
and of unrecorded images), and what brains are tuned to: full layers, never the pipeline's
projection. Gradients of the truth lack what is linear in all activations over *further* images, so
that the truth does not depend on any sample that a test sees.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from timm.models.resnet import BasicBlock, ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from gradenc_core.models.layers import layers_at
from gradenc_core.models.model import VisionModel, from_module
from gradenc_core.models.preprocessing import Preprocessing
from gradenc_core.planted.brain import Array, Features, scaled
from gradenc_core.planted.reading import Raw, read_raw
from gradenc_core.stimuli.generated import dead_leaves

Network = Literal["resnet", "vit"]
NETWORKS: tuple[Network, ...] = get_args(Network)
IMAGE_SIZE = 64
CANVAS = 256
"""Side of the dead leaves from which images are cut, 16 at a time: drawing is what costs."""
N_CLASSES = 20
MICRO_BATCH = 50
N_COMMON = 30
"""Components of all layers' gradients together that the layers share."""
SMALLEST_COMPONENT = 1e-6
"""Components of a layer with a smaller share of the first one's variance are rounding."""
CONSTANT = 1e-6
"""Largest spread of the channels of a unit gradient that is the same for all images."""
TRUTH_RIDGE = 1e-3
"""Penalty per image of the projection on all activations, in units of standardised features."""
TRUTH_SEED = 7_000_000
"""Added to a world's seed: further images are never those of the study."""
UNRECORDED_SEED = 3_000_000
PREPROCESSING = Preprocessing(
    IMAGE_SIZE, IMAGE_SIZE, False, "BILINEAR", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
)


@dataclass(frozen=True)
class WorldSizes:
    """How many images a world has, how many layers, and how wide its projected features are."""

    recorded: int = 700
    unrecorded: int = 4000
    further: int = 5000
    layers: int | None = None
    projection: int = 64


@dataclass(frozen=True)
class Extracted:
    """What the pipeline would extract of some images.

    Attributes
    ----------
    baseline : list of array, each (n_images, n_columns)
        Per layer, and last the readout, unprojected.
    forward, gradient : list of array, each (n_images, n_features)
        Per layer whose gradient varies, as only such layers are compared.
    """

    baseline: list[Array]
    forward: list[Array]
    gradient: list[Array]


@dataclass(frozen=True)
class World:
    """A world; see the module. `features` are those of the recorded images."""

    name: str
    recorded: Extracted
    unrecorded: Extracted
    features: Features

    @property
    def n_stimuli(self) -> int:
        """Number of recorded stimuli."""
        return len(self.features.common)

    @property
    def n_scalars(self) -> list[int]:
        """Last columns of every entry of the baseline that are single values."""
        *layers, readout = self.recorded.baseline
        return [1] * len(layers) + [readout.shape[1] - 2 * N_CLASSES]


def make_worlds(
    network: Network, objectives: Sequence[str], seed: int, sizes: WorldSizes | None = None
) -> list[World]:
    """Make a world for each objective; they share the network and the images.

    Parameters
    ----------
    network : str
        One of `NETWORKS`.
    objectives : sequence of str
        Such as "energy", "classification" or "random.0".
    seed : int
        Of the network's weights and of all images.
    sizes : WorldSizes, optional
    """
    sizes = sizes or WorldSizes()
    model = random_network(network, seed, sizes.layers)
    n_layers = sizes.layers or len(model.blocks)
    layers = layers_at(model, [number / n_layers for number in range(1, n_layers + 1)])
    depth = np.array([layer.depth for layer in layers])
    names = [layer.name for layer in layers]

    def read(first: int, n_images: int) -> Raw:
        return read_raw(model, names, objectives, _batches(first + seed, n_images))

    recorded = read(0, sizes.recorded)
    unrecorded = read(UNRECORDED_SEED, sizes.unrecorded)
    further = read(TRUTH_SEED, sizes.further)
    worlds = []
    for objective in objectives:
        usable = _varying(further, objective)
        worlds.append(
            World(
                f"{network} {seed} {objective}",
                _extracted(recorded, unrecorded, objective, usable, sizes.projection, seed),
                _extracted(unrecorded, unrecorded, objective, usable, sizes.projection, seed),
                _truth(recorded, further, objective, usable, depth),
            )
        )
    return worlds


def _varying(raw: Raw, objective: str) -> list[int]:
    """Return the layers whose gradient depends on the image: that of a readout may not."""
    gradients = raw.gradient[objective]
    return [i for i, layer in enumerate(gradients) if layer.std(axis=0).max() > CONSTANT]


def random_network(network: Network, seed: int, n_layers: int | None = None) -> VisionModel:
    """Return a network of random weights; a vision transformer has as many blocks as asked for."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = _transformer(n_layers or 12) if network == "vit" else _convolutional()
    return from_module(module, PREPROCESSING, architecture=network, seed=seed)


def _convolutional() -> nn.Module:
    """Return a ResNet-18 of a quarter of its width, whose residual branches are open."""
    module: nn.Module = ResNet(
        BasicBlock,  # type: ignore[arg-type]  # timm annotates a class as its instance
        (2, 2, 2, 2),
        num_classes=N_CLASSES,
        channels=(16, 32, 64, 128),
        stem_width=16,
        zero_init_last=False,
    )
    return module


def _transformer(depth: int) -> nn.Module:
    """Return a small vision transformer whose blocks change the residual stream.

    timm draws weights with a standard deviation of 0.02, at which an untrained block hardly does.
    """
    module = VisionTransformer(
        img_size=IMAGE_SIZE,
        patch_size=16,
        embed_dim=48,
        depth=depth,
        num_heads=3,
        num_classes=N_CLASSES,
        global_pool="avg",  # gradients of a head that reads the class token miss the last patches
    )
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, std=part.in_features**-0.5)
    return module


def _batches(seed: int, n_images: int) -> Iterator[torch.Tensor]:
    """Yield generated images as the network takes them, (n, 3, size, size)."""
    mean, std = (np.array(x) for x in (PREPROCESSING.mean, PREPROCESSING.std))
    images = _tiles(seed, n_images)
    for start in range(0, n_images, MICRO_BATCH):
        batch = (images[start : start + MICRO_BATCH] / 255 - mean) / std
        yield torch.from_numpy(batch.transpose(0, 3, 1, 2).astype(np.float32))


def _tiles(seed: int, n_images: int) -> NDArray[np.uint8]:
    """Cut images out of larger dead leaves, (n_images, size, size, 3)."""
    side = CANVAS // IMAGE_SIZE
    tiles: list[NDArray[np.uint8]] = []
    for number in range(-(-n_images // side**2)):
        canvas = dead_leaves(np.random.default_rng([seed, number]), CANVAS)
        cut = canvas.reshape(side, IMAGE_SIZE, side, IMAGE_SIZE, 3).swapaxes(1, 2)
        tiles.extend(cut.reshape(-1, IMAGE_SIZE, IMAGE_SIZE, 3))
    return np.stack(tiles[:n_images])


def _extracted(
    own: Raw, bank: Raw, objective: str, usable: list[int], projection: int, seed: int
) -> Extracted:
    """Return features as the pipeline makes them: standardised over the bank, then projected."""

    def projected(layers: list[Array], over: list[Array]) -> list[Array]:
        return [_projected(layers[i], over[i], projection, [seed, i]) for i in usable]

    columns = zip(own.class_token, own.mean, own.spatial, own.norm, strict=True)
    gradient = projected(own.gradient[objective], bank.gradient[objective])
    norms = [own.gradient_norm[objective][i] for i in usable]
    return Extracted(
        [*(np.hstack(layer) for layer in columns), own.readout],
        projected(own.mean, bank.mean),
        [np.hstack(layer) for layer in zip(gradient, norms, strict=True)],
    )


def _projected(layer: Array, bank: Array, n: int, seed: list[int]) -> Array:
    """Divide channels by their standard deviation over the bank, then project at random."""
    spread = bank.std(axis=0)
    layer = layer / np.where(spread > 0, spread, 1.0)
    if layer.shape[1] <= n:
        return layer
    matrix = np.random.default_rng(seed).standard_normal((layer.shape[1], n))
    return np.asarray(layer @ matrix / np.sqrt(n))


def _truth(
    recorded: Raw, further: Raw, objective: str, usable: list[int], depth: Array
) -> Features:
    """Return what brains are tuned to, at the recorded stimuli."""
    unexplained = _unexplained(recorded, further, objective)
    gamma = [all_components(unexplained[i]) for i in usable]
    common = all_components(np.hstack(gamma))[:, :N_COMMON]
    return Features(
        [all_components(recorded.mean[i]) for i in usable],
        gamma,
        [all_components(recorded.aside[i]) for i in usable],
        scaled(common),
        depth[usable],
    )


def all_components(features: Array) -> Array:
    """Return principal components in falling order, of variance 1 in sum."""
    left, size, _ = np.linalg.svd(features - features.mean(axis=0), full_matrices=False)
    kept = size**2 > SMALLEST_COMPONENT * size[0] ** 2
    return scaled(left[:, kept] * size[kept])


def _unexplained(recorded: Raw, further: Raw, objective: str) -> list[Array]:
    """Return gradients less their best linear prediction from all activations, learned elsewhere.

    Ridge on further images alone: nothing is fitted to the recorded ones.
    """
    known, asked = (np.hstack([*raw.mean, *raw.aside]) for raw in (further, recorded))
    mean, spread = known.mean(axis=0), known.std(axis=0)
    spread[spread == 0] = 1.0
    known, asked = (known - mean) / spread, (asked - mean) / spread
    gram = known.T @ known
    gram[np.diag_indices_from(gram)] += TRUTH_RIDGE * len(known)
    target, own = (np.hstack(raw.gradient[objective]) for raw in (further, recorded))
    weights = np.linalg.solve(gram, known.T @ (target - target.mean(axis=0)))
    rest = own - target.mean(axis=0) - asked @ weights
    widths = [layer.shape[1] for layer in recorded.gradient[objective]]
    return np.split(rest, np.cumsum(widths)[:-1], axis=1)
