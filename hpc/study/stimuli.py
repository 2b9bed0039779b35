"""Whether a study's stimuli have what its keys ask of them."""

from collections.abc import Iterator

from gradenc_core.stimuli.classes import read_labels
from gradenc_core.stimuli.images import Manifest
from hpc.config.phrases import given
from hpc.study.study import Study, StudyError


def check_stimuli(study: Study, manifest: Manifest) -> None:
    """Refuse true classes that do not fit the stimuli, and more components than stimuli.

    Raises
    ------
    StudyError
        With a line for every problem.
    """
    problems = [*_component_problems(study, manifest)]
    if study.labels is not None:
        problems += _label_problems(study, study.labels, manifest)
    if problems:
        raise StudyError("\n".join(f"{study._file}: {problem}" for problem in problems))


def _component_problems(study: Study, manifest: Manifest) -> Iterator[str]:
    n_stimuli = len(manifest.digests)
    if study.projection_kind == "pca" and (study.projection or 0) >= n_stimuli:
        yield (
            f"projection: given {study.projection}; accepted with projection_kind pca: fewer than "
            f"the {n_stimuli} distinct stimuli"
        )


def _label_problems(study: Study, path: str, manifest: Manifest) -> Iterator[str]:
    """Name what the file of true classes lacks, or has that no stimulus has."""
    labels, first_of = read_labels(study.folder / path), manifest.first_of
    without = [name for name in manifest.ids if name not in labels]
    unknown = sorted(set(labels) - set(first_of))
    torn = [
        name
        for name in sorted(set(labels) & set(first_of))
        if labels[name] != labels.get(first_of[name], labels[name])
    ]
    accepted = f"labels: given {given(path)}; accepted: one class for every stimulus;"
    if without:
        yield f"{accepted} {len(without)} stimuli have none, such as {without[0]}"
    if unknown:
        yield f"{accepted} {len(unknown)} names are of no stimulus, such as {unknown[0]}"
    if torn:
        yield f"{accepted} {torn[0]} is the same image as {first_of[torn[0]]}, of another class"
