"""The reference bank: fixed images that objectives compare a stimulus with, and their prototypes.

The default bank's images are drawn by the shipped generator and never change; a study may name a
folder of its own instead. A bank depends on its images, the network and one seed.
"""

import hashlib
from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from gradenc_core.keyed import keyed_generator
from gradenc_core.models.model import VisionModel
from gradenc_core.signals.passes import Passes
from gradenc_core.signals.readout import Bank, Context
from gradenc_core.signals.sizes import (
    BANK_IMAGE_SIZE,
    BANK_SEED,
    MICRO_BATCH,
    N_ITEMS,
    N_PROTOTYPES,
)
from gradenc_core.stimuli.generated import numbered_image

MAX_ITERATIONS = 100

Array = NDArray[np.float64]


def generated_images(
    n_images: int = N_ITEMS, size: int = BANK_IMAGE_SIZE, seed: int = BANK_SEED
) -> Iterator[tuple[str, Image.Image]]:
    """Yield the default bank's images, each with the SHA-256 of its pixels.

    Parameters
    ----------
    n_images : int
        Image i depends on i, `size` and `seed`, not on `n_images`.
    size : int
        Side of an image (pixels).
    seed : int
    """
    for number in range(n_images):
        image = numbered_image(number, size, seed)
        yield hashlib.sha256(image.tobytes()).hexdigest(), image


def build_bank(
    model: VisionModel,
    items: Iterable[tuple[str, torch.Tensor]],
    seed: int,
    micro_batch: int = MICRO_BATCH,
    n_prototypes: int = N_PROTOTYPES,
) -> Bank:
    """Embed the bank's images and find their prototypes.

    Parameters
    ----------
    items : iterable of (str, torch.Tensor)
        Digest and preprocessed image, (3, image_size, image_size).
    micro_batch : int
        Images per pass; the last one is padded.

    Returns
    -------
    Bank
        In float64.
    """
    passes = Passes(model, (), (), Context(seed))
    digests: list[str] = []
    read = []
    for batch in _batches(items, micro_batch):
        digests += [digest for digest, _ in batch]
        read.append(_read(passes, [image for _, image in batch], micro_batch))
    pooled, embedding = (torch.cat(parts) for parts in zip(*read, strict=True))
    mean = pooled.mean(dim=0)
    prototypes = spherical_kmeans((pooled - mean).numpy(), n_prototypes, seed)
    return Bank(tuple(digests), pooled, embedding, mean, torch.from_numpy(prototypes))


def spherical_kmeans(points: Array, n_clusters: int, seed: int) -> Array:
    """Return unit vectors that the points' directions cluster around, (n_clusters, n_channels).

    Lloyd's iterations on directions until no point changes its cluster (at most 100), from
    `n_clusters` distinct points drawn with `seed`; a cluster that loses all points takes the one
    that is farthest from its centre. After Dhillon and Modha (2001, Machine Learning 42).

    Parameters
    ----------
    points : array, (n_points, n_channels)

    Raises
    ------
    ValueError
        There are fewer points than clusters.
    """
    if len(points) < n_clusters:
        raise ValueError(
            f"the reference bank has {len(points)} images; give at least {n_clusters}, as many as "
            "there are prototypes"
        )
    directions = _unit(points)
    rng = keyed_generator("prototypes", seed, *points.shape, n_clusters)
    centres = directions[rng.choice(len(points), n_clusters, replace=False)]
    labels = np.full(len(points), -1)
    for _ in range(MAX_ITERATIONS):
        cosines = directions @ centres.T
        before, labels = labels, cosines.argmax(axis=1)
        _fill_empty(labels, cosines)
        if np.array_equal(labels, before):
            break
        sums = np.zeros_like(centres)
        np.add.at(sums, labels, directions)
        centres = _unit(sums)
    return centres


def _fill_empty(labels: NDArray[np.int_], cosines: Array) -> None:
    """Move to every empty cluster the worst-fitting point of a cluster with several points."""
    fit = cosines[np.arange(len(labels)), labels]
    for cluster in np.flatnonzero(np.bincount(labels, minlength=cosines.shape[1]) == 0):
        shared = np.bincount(labels, minlength=cosines.shape[1])[labels] > 1
        worst = int(np.where(shared, fit, np.inf).argmin())
        labels[worst], fit[worst] = cluster, np.inf


def _unit(vectors: Array) -> Array:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(norms, np.finfo(np.float64).tiny)


def _batches(
    items: Iterable[tuple[str, torch.Tensor]], size: int
) -> Iterator[list[tuple[str, torch.Tensor]]]:
    remaining = iter(items)
    while batch := list(islice(remaining, size)):
        yield batch


def _read(
    passes: Passes, batch: list[torch.Tensor], micro_batch: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return pooled outputs and embeddings of a batch, padded by its last image, in float64."""
    readout = passes.read(torch.stack(batch + batch[-1:] * (micro_batch - len(batch))))
    assert readout.embedding is not None
    pooled, embedding = (
        x[: len(batch)].double().cpu() for x in (readout.pooled, readout.embedding)
    )
    return pooled, embedding
