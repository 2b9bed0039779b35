"""Stage prepare: a model's reference bank, with which objectives compare a stimulus."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from gradenc_core.models.model import VisionModel
from gradenc_core.signals.bank import build_bank, generated_images
from gradenc_core.signals.readout import Bank
from gradenc_core.stimuli.images import read_manifest, read_stimulus
from jobs import models
from jobs.runner import Arrays, Facts, Work
from jobs.spec import BankImages, BankSpec, Reference
from storage_schemas.identity import digest
from storage_schemas.protocol.store import Store, Unit


def compute(work: Work) -> Iterator[tuple[Store, Unit, Arrays, Facts]]:
    """Yield the digests, readings, mean and prototypes of the bank (see schemas)."""
    torch.set_num_threads(work.how.threads)
    for store, unit in work.units:
        spec = BankSpec.model_validate(store.spec)
        model, weights = models.load(spec.model, store.locations.get("checkpoint"))
        bank = make_bank(model, spec, store.locations, work.how.micro_batch)
        arrays = {
            "weights_digest": _bytes(weights),
            "manifest_digest": _bytes(digest(list(bank.digests))),
            "item_digest": np.stack([_bytes(name) for name in bank.digests]),
            "pooled": bank.pooled.numpy(),
            "embedding": bank.embedding.numpy(),
            "pooled_mean": bank.mean.numpy(),
            "prototypes": bank.prototypes.numpy(),
        }
        yield (
            store,
            unit,
            arrays,
            {"micro_batch": work.how.micro_batch, "threads": work.how.threads},
        )


def make_bank(
    model: VisionModel, spec: BankSpec, locations: Mapping[str, str], micro_batch: int
) -> Bank:
    """Pass the images of a bank through its model and find its prototypes."""
    images = bank_images(spec.images, locations)
    items = ((name, model.preprocessing.apply(image)) for name, image in images)
    return build_bank(model, items, spec.seed, micro_batch, spec.prototypes)


def open_bank(reference: Reference, root: Path, weights: str) -> Bank:
    """Read a sealed bank, refusing one that was made with other weights than `weights` (digest)."""
    store = reference.open(root)
    data = store.dataset()
    if data["weights_digest"].values.tobytes().hex() != weights:
        raise ValueError(
            f"the weights here differ from those that stage prepare saw for {store.label}; use the "
            "same weight files and library versions"
        )
    names = ("pooled", "embedding", "pooled_mean", "prototypes")
    tensors = (torch.from_numpy(np.asarray(data[name].values)) for name in names)
    return Bank(tuple(row.tobytes().hex() for row in data["item_digest"].values), *tensors)


def bank_images(
    images: BankImages, locations: Mapping[str, str]
) -> Iterator[tuple[str, Image.Image]]:
    """Yield the digest and the decoded image of each item, in order.

    Raises
    ------
    ValueError
        The folder's images are not those that the study was planned with.
    """
    if images.manifest is None:
        yield from generated_images(images.n_images, images.size, images.seed)
        return
    folder = Path(locations["bank"])
    manifest = read_manifest(folder)
    digests = manifest.digests[: images.n_images]
    if digest(list(digests)) != images.manifest:
        raise ValueError(
            f"the images of the bank {folder} have changed since the study was planned; put the "
            "old files back, or submit the study again into a new run"
        )
    for name, content in zip(manifest.ids, digests, strict=False):
        yield content, read_stimulus(folder, name, content)


def _bytes(hexadecimal: str) -> NDArray[np.uint8]:
    return np.frombuffer(bytes.fromhex(hexadecimal), dtype=np.uint8)
