"""From a study file to what it means here, in one pass that is its check as well.

Every network is built once, every file hashed at most once and every module of the lab's own run
once. Problems are collected, and one refusal names them all; images and recordings, which take the
longest to read, are read only when nothing is wrong with names and objectives. `resolved.json` in
the run folder keeps what later stages need.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gradenc_core.signals.objectives import OBJECTIVES
from gradenc_core.stimuli.images import Manifest
from hpc.study.categories import find_categories
from hpc.study.networks import BuiltNetwork, resolve_networks
from hpc.study.plugins import Losses, find_losses
from hpc.study.recordings import FoundSubjects, describe_subjects, find_subjects
from hpc.study.resolved import Resolved, ResolvedSource, Subject
from hpc.study.stimuli import Banks, Labels, find_folder, find_labels, read_bank, read_stimuli
from hpc.study.study import Study, StudyError, anchored
from hpc.study.unrecorded import find_unrecorded, label_problems
from storage_schemas.runs.digest_cache import DigestCache


@dataclass(frozen=True)
class NetworkTurn:
    """One network of a study while it is in memory, beside all else that the study means."""

    built: BuiltNetwork
    study: Study
    resolved: Resolved
    """With this network alone."""
    subjects: Sequence[Subject]
    losses: Losses


Visit = Callable[[NetworkTurn], None]


@dataclass(frozen=True)
class _Named:
    """What was found by its name; no image or recording has been read."""

    labels: Labels | None
    subjects: list[FoundSubjects]
    losses: Losses


def resolve(study: Study, visit: Visit | None = None) -> tuple[Resolved, list[Subject]]:
    """Find, check and describe what the study names.

    Parameters
    ----------
    visit : callable, optional
        Called with each network while it is in memory, after everything else is known.

    Raises
    ------
    StudyError
        With a line for every problem.
    """
    problems: list[str] = []
    named = _find(study, problems)
    # A wrong name is refused before images are read: a second look at the study is cheap.
    read = None if problems else _read(study, named, problems)
    return add_networks(study, named.losses, named.labels, read, problems, visit)


def add_networks(
    study: Study,
    losses: Losses,
    labels: Labels | None,
    read: tuple[Resolved, list[Subject]] | None,
    problems: list[str],
    visit: Visit | None,
) -> tuple[Resolved, list[Subject]]:
    """Resolve the networks, refuse the study if anything was wrong, and complete what was read.

    Raises
    ------
    StudyError
        With a line for every problem, those that were known before included.
    """

    def each(built: BuiltNetwork) -> None:
        if visit is not None and read is not None:
            alone = read[0].model_copy(update={"models": (built.described,)})
            visit(NetworkTurn(built, study, alone, read[1], losses))

    wanted = None if visit is None or read is None else each
    models = resolve_networks(study, losses, labels, problems, wanted)
    refuse(study, problems)
    assert read is not None
    resolved, subjects = read
    return resolved.model_copy(update={"models": tuple(models)}), subjects


def refuse(study: Study, problems: Sequence[str]) -> None:
    """Raise the refusal of a study that has problems.

    Raises
    ------
    StudyError
        With a line for every problem.
    """
    if problems:
        raise StudyError("\n".join(f"{study._file}: {problem}" for problem in problems))


def _find(study: Study, problems: list[str]) -> _Named:
    find_folder(study, "stimuli", study.stimuli, "a folder of images", problems)
    if study.bank is not None:
        find_folder(study, "bank", study.bank, "a folder of images", problems)
    if isinstance(study.unrecorded_images, str):
        find_folder(
            study, "unrecorded_images", study.unrecorded_images, "a folder of images", problems
        )
    problems += label_problems(study)
    labels = find_labels(study, problems)
    subjects = find_subjects(study, problems)
    return _Named(labels, subjects, find_losses(study, problems))


def _read(
    study: Study, named: _Named, problems: list[str]
) -> tuple[Resolved, list[Subject]] | None:
    """Read images and recordings; what is resolved has no networks yet."""
    with DigestCache(study.digest_folders) as known:
        manifest = read_stimuli(study, named.labels, known, problems)
        bank = read_bank(study, known, problems)
        categories, subjects, unrecorded = None, [], None
        if manifest is not None:
            categories = find_categories(study, manifest, problems)
            subjects = describe_subjects(study, named.subjects, manifest, known, problems)
            unrecorded = find_unrecorded(study, manifest, subjects, known, problems)
    if manifest is None or bank is None:
        return None
    resolved = _without_networks(study, manifest, bank, named)
    found = {"categories": categories, "unrecorded": unrecorded}
    return resolved.model_copy(update=found), subjects


def _without_networks(study: Study, manifest: Manifest, bank: Banks, named: _Named) -> Resolved:
    return Resolved(
        study=anchored(study).model_dump(mode="json"),
        stimuli=str((study.folder / study.stimuli).resolve()),
        stimulus_ids=tuple(manifest.ids),
        stimulus_digests=tuple(manifest.digests),
        models=(),
        gradients=resolve_sources(study, named.losses, named.labels),
        bank=bank.whole,
        bank_folder=None if study.bank is None else str((study.folder / study.bank).resolve()),
        class_images=bank.classed,
        scale_images=bank.scaled,
    )


def resolve_sources(
    study: Study, losses: Losses, labels: Labels | None
) -> dict[str, ResolvedSource]:
    """Return what each gradient source is made of; `random` stands for several."""
    sources: dict[str, ResolvedSource] = {}
    for found in losses.found.values():
        head = losses.dino_head if "head" in found.objective.needs else None
        given = labels if "labels" in found.objective.needs else None
        locations = {
            "bank": None if study.bank is None else (study.folder / study.bank).resolve(),
            "objective": found.path,
            "head": None if head is None else head.path,
            "signal": found.signal_path,
            "labels": None if given is None else given.path,
        }
        source = ResolvedSource(
            needs_bank="bank" in found.objective.needs,
            plugin=found.plugin,
            head=None if head is None else head.plugin,
            signal=found.signal,
            labels=None if given is None else given.digest,
            locations={key: str(path) for key, path in locations.items() if path is not None},
        )
        n_draws = study.random_draws if found.objective is OBJECTIVES["random"] else None
        sources |= dict.fromkeys(found.objective.sources[:n_draws], source)
    return sources
