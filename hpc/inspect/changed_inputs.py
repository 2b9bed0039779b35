"""Whether the images and recordings of a run are still those that it was planned with.

Planning trusts digests that were kept for unchanged sizes and times (`DigestCache`); here
every file is read again, and what was kept of it is replaced.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from gradenc_core.digests import KnownDigests
from gradenc_core.recordings.repeats import hash_files
from gradenc_core.stimuli.images import read_manifest
from hpc.run.folder import RunFolder
from hpc.study.resolved import Resolved
from hpc.study.study import Study
from jobs.spec import ResponsesSpec
from storage_schemas.identity import digest
from storage_schemas.runs.digest_cache import DigestCache


@dataclass(frozen=True)
class Inputs:
    """The images and recordings of a run, read again."""

    changed: list[str]
    """A sentence for each file that is not as it was planned with."""
    absent: list[Path]
    """Folders that are not here, so that nothing of them could be read."""


def read_inputs(run: RunFolder) -> Inputs:
    """Read all images and recordings of a run again; those of a drill are none."""
    if not run.resolved.exists():
        return Inputs([], [])
    resolved = Resolved.read(run.resolved)
    ingested = [
        (Path(s.locations["responses"]), ResponsesSpec.model_validate(s.spec).files)
        for s in run.stores("ingest")
    ]
    unrecorded = None if resolved.unrecorded is None else resolved.unrecorded.folder
    others = [folder for folder in (resolved.bank_folder, unrecorded) if folder is not None]
    folders = [Path(resolved.stimuli), *(folder for folder, _ in ingested), *map(Path, others)]
    absent = [folder for folder in dict.fromkeys(folders) if not folder.is_dir()]
    kept = Study.model_validate(resolved.study).digest_folders
    with DigestCache(kept, believe=False) as known:
        changed = list(_images(resolved, absent, known))
        for folder, planned in ingested:
            if folder not in absent:
                there = [folder / name for name in planned if (folder / name).is_file()]
                changed += _differences(folder, planned, hash_files(folder, there, known))
    return Inputs(changed, absent)


def _images(resolved: Resolved, absent: list[Path], known: KnownDigests) -> Iterator[str]:
    stimuli, bank = Path(resolved.stimuli), resolved.bank_folder
    if stimuli not in absent:
        planned = dict(zip(resolved.stimulus_ids, resolved.stimulus_digests, strict=True))
        manifest = read_manifest(stimuli, known=known)
        now = dict(zip(manifest.ids, manifest.digests, strict=True))
        yield from _differences(stimuli, planned, now)
    if bank is not None and Path(bank) not in absent:
        digests = read_manifest(Path(bank), known=known).digests
        if digest(list(digests)) != resolved.bank.manifest:
            yield f"the images of the bank {bank} are not those that the run was planned with"
    images = resolved.unrecorded
    if images is not None and images.folder is not None and Path(images.folder) not in absent:
        planned = dict(zip(images.ids, images.digests, strict=True))
        manifest = read_manifest(Path(images.folder), known=known)
        # Others there were left out as recorded, or are new, and change no result of this run.
        pairs = zip(manifest.ids, manifest.digests, strict=True)
        now = {name: content for name, content in pairs if name in planned}
        yield from _differences(Path(images.folder), planned, now)


def _differences(folder: Path, planned: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    for name in sorted(planned.keys() | now.keys()):
        if name not in now:
            yield f"{folder / name} is gone"
        elif name not in planned:
            yield f"{folder / name} is new"
        elif now[name] != planned[name]:
            yield f"{folder / name} has changed"
