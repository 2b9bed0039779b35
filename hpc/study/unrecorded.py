"""A study's images without recordings: a folder's, or drawn by the shipped generator.

No image that a subject was shown is among them: what is learned on them knows no response.
"""

from collections.abc import Iterator, Sequence, Set
from pathlib import Path

from gradenc_core.digests import KnownDigests
from gradenc_core.signals.sizes import BANK_IMAGE_SIZE, UNRECORDED_SEED
from gradenc_core.stimuli.images import Manifest, read_manifest
from hpc.config.phrases import given
from hpc.study.images import Generated
from hpc.study.resolved import Resolved, Subject, UnrecordedImages
from hpc.study.study import Study
from jobs.spec import GeneratedImages
from storage_schemas.identity import digest


def label_problems(study: Study) -> Iterator[str]:
    """Refuse true classes beside unrecorded images, which have none."""
    if study.labels is not None and study.unrecorded_images is not None:
        yield (
            f"labels: given {given(study.labels)}; accepted with unrecorded_images: null, because "
            "images without recordings have no true class and gradients must be of one loss"
        )


def find_unrecorded(
    study: Study,
    manifest: Manifest,
    subjects: Sequence[Subject],
    known: KnownDigests,
    problems: list[str],
) -> UnrecordedImages | None:
    """Return the study's images without recordings; None where it names none.

    `problems` gets a line where they cannot be read or where every one of them was shown.
    """
    images = study.unrecorded_images
    if images is None:
        return None
    if isinstance(images, Generated):
        return drawn(images.generated)
    content = dict(zip(manifest.ids, manifest.digests, strict=True))
    recorded = {content[name] for subject in subjects for name in subject.description.stimuli}
    try:
        return _of_folder(study.folder / images, recorded, known)
    except (ValueError, OSError) as error:
        problems.append(f"unrecorded_images: given {given(images)}; {error}")
        return None


def unrecorded_note(resolved: Resolved) -> str:
    """Say how many images without recordings there are; empty without any."""
    images = resolved.unrecorded
    if images is None:
        return ""
    if images.folder is None:
        return f"Images without recordings: {len(images.ids)} that are drawn."
    said = f"Images without recordings: {len(images.ids)} of {images.folder}."
    if images.n_recorded:
        said += f" {images.n_recorded} others there are left out, because a subject was shown them."
    return said


def drawn(n_images: int) -> UnrecordedImages:
    """Return generated images, identified by how each is drawn: nothing has to be drawn for it."""
    how = GeneratedImages(size=BANK_IMAGE_SIZE, seed=UNRECORDED_SEED)
    recipe = ["dead leaves", how.size, how.seed]
    return UnrecordedImages(
        ids=tuple(f"generated/{number:06d}" for number in range(n_images)),
        digests=tuple(digest([*recipe, number]) for number in range(n_images)),
        generated=how,
    )


def _of_folder(folder: Path, recorded: Set[str], known: KnownDigests) -> UnrecordedImages:
    manifest = read_manifest(folder, known=known)
    pairs = zip(manifest.ids, manifest.digests, strict=True)
    kept = {name: content for name, content in pairs if content not in recorded}
    n_recorded = len(manifest.ids) - len(kept)
    if not kept:
        raise ValueError(
            f"accepted: images that no subject was shown; all {n_recorded} of {folder} were"
        )
    return UnrecordedImages(
        ids=tuple(kept),
        digests=tuple(kept.values()),
        folder=str(folder.resolve()),
        n_recorded=n_recorded,
    )
