"""Which files of epochs belong to which subject, by their names.

A name is a subject, BIDS entities and an ending, as in `sub-01_ses-02_task-images_run-01_epo.fif`.
Files of one subject that differ in session, run and split are parts of one recording; files that
differ in anything else would be the same trials twice, or another experiment, and are refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gradenc_core.spelling import did_you_mean

ENDING = "-epo.fif"
_ENDINGS = re.compile(r"[-_]epo\.fif(\.gz)?$")
_CONTINUATION = re.compile(r"epo-\d+\.fif(\.gz)?$")
_ENTITY = re.compile(r"([a-z]+)-([A-Za-z0-9+]+)")
_PARTS = ("ses", "run", "split")
DEPTH = 4
"""Folders are searched to <root>/sub-01/ses-01/meg/."""


@dataclass(frozen=True)
class EpochsFile:
    """A file of epochs and what its name says.

    Attributes
    ----------
    path : Path
    subject : str
    entities : dict
        BIDS entity -> label, without `sub`; what is no entity is under "".
    """

    path: Path
    subject: str
    entities: dict[str, str]

    @property
    def session(self) -> str | None:
        """Name of its session, such as "ses-01"; None where the name has none."""
        return f"ses-{self.entities['ses']}" if "ses" in self.entities else None

    @property
    def place(self) -> tuple[str, ...]:
        """Its place among the parts of a recording; numbers are in their order, run-2 < run-10."""
        return tuple(self.entities.get(key, "").zfill(8) for key in _PARTS)

    @property
    def kind(self) -> dict[str, str | None]:
        """What files of one recording have in common; of sessions and runs, whether it has one."""
        return {
            key: None if key in _PARTS else label
            for key, label in self.entities.items()
            if key != "split"
        }


def parse_name(path: Path) -> EpochsFile | None:
    """Return what the name of a file of epochs says; None for other files."""
    stem = _ENDINGS.sub("", path.name)
    if stem == path.name or not stem or path.name.startswith("."):
        return None
    pieces = stem.split("_")
    n_subject = 1 if pieces[0].startswith("sub-") else _first_entity(pieces)
    entities: dict[str, str] = {}
    for piece in pieces[n_subject:]:
        match = _ENTITY.fullmatch(piece)
        key, label = match.groups() if match else ("", f"{entities.get('', '')}_{piece}")
        entities[key] = label
    return EpochsFile(path, "_".join(pieces[:n_subject]), entities)


def find_epochs(folder: Path) -> dict[str, list[EpochsFile]]:
    """Return the files of epochs of every subject, in the order of sessions and runs.

    Raises
    ------
    FileNotFoundError
        If there is no such folder or it holds no epochs.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}; name the one that holds *{ENDING}")
    found: dict[str, list[EpochsFile]] = {}
    for path in _files(folder, "*epo.fif*"):
        if file := parse_name(path):
            found.setdefault(file.subject, []).append(file)
    if not found:
        raise FileNotFoundError(f"{folder} holds no epochs; save them as {folder}/sub-01{ENDING}")
    return {
        subject: sorted(found[subject], key=lambda file: file.place) for subject in sorted(found)
    }


def files_of(folder: Path, subject: str) -> list[EpochsFile]:
    """Return a subject's files, in the order of sessions and runs; of split files, all parts.

    Raises
    ------
    FileNotFoundError
        If there is no such subject.
    ValueError
        If two files are not parts of one recording.
    """
    found = find_epochs(folder)
    if subject not in found:
        hint = did_you_mean(subject, found) or f"; add {folder / subject}{ENDING}"
        raise FileNotFoundError(f"{folder} holds no epochs of {subject!r}{hint}")
    first, *more = found[subject]
    for before, file in zip([first, *more], more, strict=False):
        if file.kind != first.kind:
            raise ValueError(
                f"{first.path} and {file.path} are both epochs of {subject} and differ in more "
                "than the numbers of session and run; keep one of them there"
            )
        if file.place == before.place:
            raise ValueError(f"there are both {before.path} and {file.path}; keep one")
    return found[subject]


def recordings_of(files: Sequence[EpochsFile]) -> list[list[EpochsFile]]:
    """Group the parts of split files: a list for every session and run."""
    groups: dict[tuple[str, ...], list[EpochsFile]] = {}
    for file in files:
        groups.setdefault(file.place[:-1], []).append(file)
    return list(groups.values())


def others(folder: Path) -> list[Path]:
    """Return the FIF files that are neither epochs by their names nor continuations of some."""
    return [
        path
        for path in _files(folder, "*.fif*")
        if parse_name(path) is None and not _CONTINUATION.search(path.name)
    ]


def _first_entity(pieces: Sequence[str]) -> int:
    """Return where the entities at the end of a name begin; its first piece is never one."""
    start = len(pieces)
    while start > 1 and _ENTITY.fullmatch(pieces[start - 1]):
        start -= 1
    return start


def _files(folder: Path, ending: str) -> Iterator[Path]:
    for depth in range(DEPTH):
        # Not "**", which does not follow links to folders.
        for path in sorted(folder.glob("[!.]*/" * depth + f"[!.]{ending}")):
            if not path.is_dir():  # a link to nothing is refused when it is opened
                yield path
