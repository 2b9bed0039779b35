"""The frame of a store: its plan, metadata and coordinates, made before any unit runs.

Commit records do not cover these files, yet without them the numbers have no names. A store
therefore keeps a copy of them, with which they are compared and from which they are restored.
"""

import json
import zipfile
from pathlib import Path

from storage_schemas import files

PLAN = "plan.json"


def keep_copy(folder: Path) -> None:
    """Copy all files of a store that is being created into one, named after its own checksum."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    new = folder / "frame.zip"
    with zipfile.ZipFile(new, "x") as archive:
        for path in paths:
            # Without times and modes: equal stores have equal copies.
            archive.writestr(zipfile.ZipInfo(str(path.relative_to(folder))), path.read_bytes())
    new.rename(folder / f"frame-{files.checksum(new)}.zip")


def frame_problems(folder: Path) -> list[str]:
    """Return what is wrong with a store's plan, metadata and coordinates, a sentence each."""
    try:
        names = _differing(folder)
    except ValueError as error:
        return [str(error)]
    return [f"{folder / name} is missing or was changed" for name in names]


def lost_file(folder: Path) -> str | None:
    """Return a file of the metadata or coordinates that is gone or of another size, or None.

    For readers: zarr reads a coordinate without its file as "" or NaN. Only the copy's table of
    contents is read.
    """
    copy = next(folder.glob("frame-*.zip"), None)
    if copy is None:
        return None
    with zipfile.ZipFile(copy) as archive:
        kept = {info.filename: info.file_size for info in archive.infolist()}
    for name, size in kept.items():
        # The plan is skipped: it changes when inputs move.
        path = folder / name
        if name != PLAN and not (path.is_file() and path.stat().st_size == size):
            return name
    return None


def mend_frame(folder: Path) -> list[str]:
    """Restore the files that `frame_problems` names, and no others; return their names.

    Raises
    ------
    ValueError
        If the copy is damaged.
    """
    found = _differing(folder)
    for name, content in found.items():
        files.replace(folder / name, content)
    return list(found)


def _differing(folder: Path) -> dict[str, bytes]:
    """Return the files that differ from the copy, with its content; none where it was deleted."""
    copy = next(folder.glob("frame-*.zip"), None)
    if copy is None:
        return {}
    if copy.stem.removeprefix("frame-") != files.checksum(copy):
        raise ValueError(
            f"{copy} is damaged, so the store's metadata and coordinates cannot be checked; delete "
            "this one file to go on without"
        )
    with zipfile.ZipFile(copy) as archive:
        kept = {name: archive.read(name) for name in archive.namelist()}
    return {name: content for name, content in kept.items() if not _is_kept(folder, name, content)}


def _is_kept(folder: Path, name: str, content: bytes) -> bool:
    try:
        found = (folder / name).read_bytes()
    except FileNotFoundError:
        return False
    return found == content or (name == PLAN and _without_locations(found, content))


def _without_locations(found: bytes, content: bytes) -> bool:
    """Compare two plans apart from the locations of inputs, which may move."""
    try:
        plans = [dict(json.loads(text)) | {"locations": {}} for text in (found, content)]
    except (ValueError, TypeError):
        return False
    return plans[0] == plans[1]
