"""A study's recordings: its folders, the subjects in them, and what each subject has."""

from collections.abc import Sequence

from pydantic import JsonValue

from gradenc_core.digests import KnownDigests
from gradenc_core.recordings import bids, epochs
from gradenc_core.spelling import did_you_mean
from gradenc_core.stimuli.images import Manifest
from hpc.config.phrases import given
from hpc.study.readers import BidsResponses, EpochsResponses
from hpc.study.resolved import Subject
from hpc.study.stimuli import find_folder
from hpc.study.study import Study

READERS = {"bids": bids, "epochs": epochs}

FoundSubjects = tuple[BidsResponses | EpochsResponses, list[str]]
"""An entry of `responses` and the subjects that it means."""


def find_subjects(study: Study, problems: list[str]) -> list[FoundSubjects]:
    """Return the subjects of every folder of recordings, without reading their files."""
    found = []
    for i, responses in enumerate(study.responses):
        key = f"responses[{i}]"
        folder = find_folder(
            study, f"{key}.path", responses.path, "a folder of recordings", problems
        )
        if folder is None:
            continue
        try:
            present = READERS[responses.reader].list_subjects(folder)
        except FileNotFoundError as error:
            problems.append(f"{key}.path: given {given(responses.path)}; {error}")
            continue
        problems += [
            f"{key}.subjects[{j}]: given {given(subject)}; accepted: "
            f"{', '.join(present)}{did_you_mean(subject, present)}"
            for j, subject in enumerate(responses.subjects or ())
            if subject not in present
        ]
        found.append((responses, list(responses.subjects or present)))
    return found


def describe_subjects(
    study: Study,
    found: list[FoundSubjects],
    manifest: Manifest,
    known: KnownDigests,
    problems: list[str],
) -> list[Subject]:
    """Describe every subject's recordings by their headers, events, metadata and digests."""
    described = []
    for responses, subjects in found:
        folder, options = study.folder / responses.path, reader_options(responses)
        for subject in subjects:
            try:
                description = READERS[responses.reader].describe(
                    folder, subject, manifest, known=known, **options
                )
            except (ValueError, OSError) as error:
                problems.append(str(error))
                continue
            described.append(
                Subject(
                    reader=responses.reader,
                    options=options,
                    folder=folder.resolve(),
                    description=description,
                )
            )
    return described


def reader_options(responses: BidsResponses | EpochsResponses) -> dict[str, JsonValue]:
    """Return the keys of a `responses` entry that its reader takes."""
    return responses.model_dump(mode="json", exclude={"reader", "path", "subjects"})


def recordings_note(study: Study, subjects: Sequence[Subject]) -> str:
    """Say, in a line for each subject, what its recordings hold and what is left out of them."""
    lines = []
    for subject in subjects:
        found = subject.description
        sizes = " x ".join(f"{n} {dim}s" for dim, n in _target_sizes(subject).items())
        lines.append(
            f"{found.subject} ({found.modality}): {found.n_repeats.sum():g} trials of "
            f"{len(found.stimuli)} images in {found.n_sessions} sessions, {sizes}"
            + "".join(f"; left out: {phrase}" for phrase in found.left_out)
        )
    for responses in study.responses:
        folder = study.folder / responses.path
        passed_over = READERS[responses.reader].passed_over(folder)
        lines += [f"{responses.path}: not read: {phrase}" for phrase in passed_over]
    return "\n".join(lines)


def _target_sizes(subject: Subject) -> dict[str, int]:
    dims = ("voxel",) if subject.description.modality == "fmri" else ("sensor", "time")
    return {dim: subject.description.coords.sizes[dim] for dim in dims}
