"""A study's images and their true classes: the stimuli, the bank of the objectives, the labels."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from gradenc_core.digests import KnownDigests
from gradenc_core.signals.sizes import N_ITEMS, N_PROTOTYPES, N_SCALE_IMAGES
from gradenc_core.spelling import did_you_mean
from gradenc_core.stimuli.images import Manifest, read_manifest
from gradenc_core.stimuli.label_tables import read_labels
from hpc.config.phrases import given
from hpc.study.categories import misfits, no_table
from hpc.study.study import Study
from jobs.spec import BankImages
from storage_schemas.files import file_digest
from storage_schemas.identity import digest

N_CLASS_IMAGES = 16


class Banks(NamedTuple):
    """The images of a study's bank, and its first ones."""

    whole: BankImages
    classed: BankImages
    """Images on which gradients are classed and stability is measured."""
    scaled: BankImages
    """Images over which channels are scaled."""


@dataclass(frozen=True)
class Labels:
    """The study's file of true classes."""

    path: Path
    digest: str
    classes: Mapping[str, int]
    """Class of each stimulus."""


def find_folder(study: Study, key: str, path: str, kind: str, problems: list[str]) -> Path | None:
    """Return a folder that the study names, or None and a line of `problems` without one."""
    folder = study.folder / path
    if folder.is_dir():
        return folder
    siblings = folder.parent.iterdir() if folder.parent.is_dir() else []
    near = did_you_mean(folder.name, [p.name for p in siblings if p.is_dir()])
    problems.append(
        f"{key}: given {given(path)}; accepted: {kind}; there is none at {folder}{near}"
    )
    return None


def find_labels(study: Study, problems: list[str]) -> Labels | None:
    """Read the true classes, if the study gives any."""
    if study.labels is None:
        return None
    path = study.folder / study.labels
    if not path.is_file():
        problems.append(no_table("labels", study.labels, path, "stimulus,label"))
        return None
    try:
        return Labels(path.resolve(), file_digest(path), read_labels(path))
    except (ValueError, OSError) as error:
        problems.append(f"labels: given {given(study.labels)}; {error}")
        return None


def read_stimuli(
    study: Study, labels: Labels | None, known: KnownDigests, problems: list[str]
) -> Manifest | None:
    """Return the distinct stimuli; refuse too many components, and labels that do not fit them."""
    try:
        manifest = read_manifest(study.folder / study.stimuli, known=known)
    except (ValueError, OSError) as error:
        problems.append(f"stimuli: given {given(study.stimuli)}; {error}")
        return None
    n_stimuli = len(manifest.digests)
    if study.projection_kind == "pca" and (study.projection or 0) >= n_stimuli:
        problems.append(
            f"projection: given {study.projection}; accepted with projection_kind pca: fewer than "
            f"the {n_stimuli} distinct stimuli"
        )
    if labels is not None and study.labels is not None:
        problems += misfits("labels", study.labels, "class", labels.classes, manifest)
    return manifest


def read_bank(study: Study, known: KnownDigests, problems: list[str]) -> Banks | None:
    """Return the images of the study's bank."""
    if study.bank is None:
        whole, first, more = (
            BankImages(n_images=n) for n in (N_ITEMS, N_CLASS_IMAGES, N_SCALE_IMAGES)
        )
        return Banks(whole, first, more)
    try:
        digests = list(read_manifest(study.folder / study.bank, known=known).digests)
    except (ValueError, OSError) as error:
        problems.append(f"bank: given {given(study.bank)}; {error}")
        return None
    if len(digests) < N_PROTOTYPES:
        problems.append(
            f"bank: given {given(study.bank)}; accepted: at least {N_PROTOTYPES} distinct images, "
            f"as many as there are prototypes; it holds {len(digests)}"
        )
    whole, first, more = (
        BankImages(manifest=digest(part), n_images=len(part))
        for part in (digests, digests[:N_CLASS_IMAGES], digests[:N_SCALE_IMAGES])
    )
    return Banks(whole, first, more)
