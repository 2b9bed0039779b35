"""Studies that are planned before there are any data, from the sizes of their recordings.

A file of shapes stands in for a study's folders of stimuli and recordings; models and options are
the study's own. The functions that plan a real study plan this one.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
import xarray as xr
from PIL import Image
from pydantic import Field, ValidationError, model_validator

from gradenc_core.digests import NothingKnown
from gradenc_core.recordings.repeats import ResponseDescription
from gradenc_core.stimuli.generated import dead_leaves
from hpc.config.fields import Count, Positive, Real, Section
from hpc.config.refusals import refusals
from hpc.config.yaml import read_yaml
from hpc.forecast.timings import MICRO_BATCH
from hpc.study.images import Generated
from hpc.study.plugins import find_losses
from hpc.study.resolve import Visit, add_networks, resolve_sources
from hpc.study.resolved import Resolved, Subject
from hpc.study.stimuli import read_bank
from hpc.study.study import Study, StudyError
from hpc.study.unrecorded import drawn
from storage_schemas.identity import digest
from storage_schemas.kinds.coordinates import Coords

REPEATS = 3.0
UNTRAINED = {"weights": "untrained", "checkpoint": None}


class Recordings(Section):
    """Subjects who were recorded in one modality."""

    modality: Literal["fmri", "meg"]
    """fmri or meg"""
    subjects: Count = 1
    """how many subjects"""
    stimuli: Count
    """distinct stimuli that each saw"""
    shared: int = Field(default=0, ge=0, strict=True)
    """how many of these all subjects saw; equal to stimuli: one factorisation serves all"""
    voxels: Count | None = None
    """fmri: voxels of each subject"""
    regions: Count = 8
    """fmri: regions, in each hemisphere"""
    sensors: Count | None = None
    """meg: sensors"""
    sampling_hz: Positive = 200.0
    """meg: samples per s"""
    tmin: Real = -0.1
    """meg: first sample (s)"""
    tmax: Real = 1.3
    """meg: last sample (s)"""

    @model_validator(mode="after")
    def _complete(self) -> "Recordings":
        size = "voxels" if self.modality == "fmri" else "sensors"
        if getattr(self, size) is None:
            raise ValueError(f"{size}, which {self.modality} needs")
        if self.shared > self.stimuli:
            raise ValueError(f"shared of at most stimuli ({self.stimuli})")
        return self

    def coords(self, seed_region: str) -> xr.Dataset:
        """Return coordinates as a reader would, places at 0."""
        return self._voxels(seed_region) if self.modality == "fmri" else self._sensors()

    def _voxels(self, seed_region: str) -> xr.Dataset:
        n = self.voxels or 0
        side = np.arange(n) % 2
        region = (np.arange(n) // 2) % self.regions
        others = (f"region-{i}" for i in range(1, self.regions))
        names = np.array([seed_region, *others], dtype=object)
        coords: Coords = {
            "roi": ("voxel", names[region]),
            "hemisphere": ("voxel", np.array(["L", "R"], dtype=object)[side]),
            **{axis: ("voxel", np.zeros(n), {"units": "mm"}) for axis in "xyz"},
            **{axis: ("voxel", np.zeros(n, dtype="int64")) for axis in "ijk"},
        }
        return xr.Dataset(coords=coords, attrs={"volume_shape": [1, 1, n], "affine": [0.0] * 16})

    def _sensors(self) -> xr.Dataset:
        n = self.sensors or 0
        n_times = round((self.tmax - self.tmin) * self.sampling_hz) + 1
        times = self.tmin + np.arange(n_times) / self.sampling_hz
        coords: Coords = {
            "sensor": ("sensor", np.array([f"MEG{i:04d}" for i in range(n)], dtype=object)),
            **{f"sensor_{axis}": ("sensor", np.zeros(n), {"units": "m"}) for axis in "xyz"},
            "sensor_type": ("sensor", np.array(["mag"] * n, dtype=object)),
            "sensor_loc": (("sensor", "loc"), np.zeros((n, 12))),
            "time": ("time", times, {"units": "s"}),
        }
        return xr.Dataset(coords=coords)


class StudyShapes(Section):
    """Sizes of the stimuli and recordings of a study."""

    responses: tuple[Recordings, ...] = Field(min_length=1)
    """a list of recordings, each with modality, subjects, stimuli and sizes"""
    image_size: Count = 425
    """side of the stimuli, which are JPEGs (pixels)"""


def load_shapes(path: Path) -> StudyShapes:
    """Read and validate a file of shapes.

    Raises
    ------
    StudyError
        With a line for every problem: file, key, value, what is accepted.
    """
    try:
        data = read_yaml(path)
        return StudyShapes.model_validate(data)
    except ValidationError as error:
        raise StudyError("\n".join(refusals(error, StudyShapes, data, str(path)))) from error
    except ValueError as error:
        raise StudyError(str(error)) from error


@contextmanager
def shaped(
    study: Study, shapes: StudyShapes, visit: Visit | None = None
) -> Iterator[tuple[Study, Resolved, list[Subject]]]:
    """Yield what `hpc.study.resolve.resolve` would find, from shapes; networks are untrained.

    The first stimuli are generated images in a temporary folder, for as long as the context lasts.

    Parameters
    ----------
    visit : callable, optional
        Called with each network while it is in memory, as by `resolve`.
    """
    problems: list[str] = []
    models = tuple(m.model_copy(update=UNTRAINED) for m in study.models)
    unrecorded = study.unrecorded_images
    # A folder's images are not there yet to be counted.
    drawn_images = drawn(unrecorded.generated) if isinstance(unrecorded, Generated) else None
    absent = {"bank": None, "labels": None, "unrecorded_images": drawn_images and unrecorded}
    study = study.model_copy(update={"models": models, **absent})
    seed_region = study.comparisons.seed_region
    subjects = [
        Subject(
            reader={"fmri": "bids", "meg": "epochs"}[recordings.modality],
            options={},
            folder=Path("planned"),
            description=_description(i, s, recordings, seed_region),
        )
        for i, recordings in enumerate(shapes.responses)
        for s in range(recordings.subjects)
    ]
    ids = tuple(dict.fromkeys(name for s in subjects for name in s.description.stimuli))
    losses = find_losses(study, problems)
    bank = read_bank(study, NothingKnown(), problems)
    assert bank is not None  # of generated images
    with TemporaryDirectory() as folder:
        digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in ids}
        for name in ids[:MICRO_BATCH]:
            digests[name] = _write_image(Path(folder) / name, shapes.image_size)
        resolved = Resolved(
            study=study.model_dump(mode="json"),
            stimuli=folder,
            stimulus_ids=ids,
            stimulus_digests=tuple(digests.values()),
            unrecorded=drawn_images,
            models=(),
            gradients=resolve_sources(study, losses, None),
            bank=bank.whole,
            class_images=bank.classed,
            scale_images=bank.scaled,
        )
        read = resolved, subjects
        yield study, *add_networks(study, losses, None, read, problems, visit)


def _write_image(path: Path, size: int) -> str:
    path.parent.mkdir(exist_ok=True)
    rng = np.random.default_rng(int(path.stem))
    Image.fromarray(dead_leaves(rng, size)).save(path, "JPEG", quality=95)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _description(
    number: int, subject: int, recordings: Recordings, seed_region: str
) -> ResponseDescription:
    first = subject * (recordings.stimuli - recordings.shared)
    rows = range(recordings.stimuli)
    moved = [row if row < recordings.shared else row + first for row in rows]
    return ResponseDescription(
        subject=f"{recordings.modality}-{number}-{subject}",
        modality=recordings.modality,
        stimuli=tuple(f"{number}/{row:06d}" for row in moved),
        n_repeats=np.full(recordings.stimuli, REPEATS),
        sessions=("",) * recordings.stimuli,
        coords=recordings.coords(seed_region),
        files={"planned": digest(recordings.model_dump(mode="json"))},
    )
